"""The type of a checkpoint's weights, as commands ask for it."""

from typing import Literal

import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHOICES = ("auto", *DTYPES)


def requested_dtype(name: str) -> torch.dtype | str:
    """What `from_pretrained` takes as its dtype: "auto", which is the checkpoint's own, or the type of that name.

    Raises:
        ValueError: it is another word.
    """
    if name not in CHOICES:
        raise ValueError(f"dtype is one of {', '.join(CHOICES)}, not {name!r}")
    return DTYPES.get(name, "auto")


def dtype_name(dtype: torch.dtype) -> str:
    """Such as bfloat16."""
    return str(dtype).removeprefix("torch.")
