"""A checkpoint and its processor, ready to answer."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel


def load_model(name: str, device: str | None = None) -> tuple[PreTrainedModel, Any]:
    """Load any image-text-to-text checkpoint.

    Args:
        name: folder or Hub name.
        device: such as "cuda:1"; the first accelerator, else the CPU, when None.

    Returns:
        Model and processor. The model is in the checkpoint's precision, and in float32 on a CPU, where that is faster.

    Raises:
        OSError: there is no such checkpoint.
    """
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = str(accelerator) if accelerator else "cpu"
    dtype = torch.float32 if device == "cpu" else "auto"
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model.eval(), AutoProcessor.from_pretrained(name)
