"""Write a checkpoint folder that runs where openpali is not installed."""

import argparse
import copy
import errno
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import find_adapter_config_file

from .auto import load_answering, load_processor
from .checkpoints import add_incomplete, load_checkpoint, reading
from .configuration_mask_vqvae import MaskVQVAEConfig
from .configuration_pali3 import Pali3Config
from .dtypes import CHOICES, requested_dtype
from .modeling_mask_vqvae import MaskVQVAE
from .modeling_pali3 import Pali3ForConditionalGeneration, Pali3Model
from .modeling_pali3_multimodal import Pali3ForMultimodalLM
from .processing_pali3 import Pali3Processor
from .user_errors import CheckpointError, command

AUTO_CLASSES = {
    Pali3Config: "AutoConfig",
    Pali3ForConditionalGeneration: "AutoModelForImageTextToText",
    Pali3Processor: "AutoProcessor",
    MaskVQVAEConfig: "AutoConfig",
    MaskVQVAE: "AutoModel",
}
# other classes that a PaLI-3 folder can be loaded as
ALSO = {"AutoModel": Pali3Model, "AutoModelForMultimodalLM": Pali3ForMultimodalLM}


def export(model: PreTrainedModel, processor: ProcessorMixin | None, folder: str | Path) -> Path:
    """Save model and processor together with the code that runs them.

    The folder loads anywhere with `trust_remote_code=True`, also after `huggingface_hub` has uploaded it. Only
    this writes code: ordinary saves of training stay small.

    Args:
        model: a PaLI-3 model or a mask VQ-VAE; models that Transformers knows are saved as they are, since they
            need no code.
        processor: the model's processor; None for a mask VQ-VAE, which has none.
        folder: created when missing.

    Returns:
        The folder.

    Raises:
        FileExistsError: it is a file.
    """
    if Path(folder).is_file():
        raise FileExistsError(errno.EEXIST, "it is a file", str(folder))
    needs_code = isinstance(model.config, Pali3Config | MaskVQVAEConfig)
    processor = copy.deepcopy(processor)  # saving marks its parts as remote code
    try:
        for cls, auto_class in AUTO_CLASSES.items() if needs_code else ():
            cls.register_for_auto_class(auto_class)
        if isinstance(model.config, Pali3Config):
            Path(folder).mkdir(parents=True, exist_ok=True)
            for cls in ALSO.values():
                custom_object_save(cls, folder)
            names = {auto_class: f"{_module(cls)}.{cls.__name__}" for auto_class, cls in ALSO.items()}
            vars(model.config)["auto_map"] = names
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    finally:
        for cls in AUTO_CLASSES:
            cls._auto_class = None
        vars(model.config).pop("auto_map", None)
    return Path(folder)


def _module(cls: type) -> str:
    """The file of a class, which lies beside the weights."""
    return cls.__module__.rpartition(".")[2]


@command("openpali export")
def main(argv: list[str] | None = None) -> None:
    """`openpali export MODEL FOLDER`."""
    parser = argparse.ArgumentParser(prog="openpali export", description=(export.__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="folder or Hub name of a checkpoint")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the checkpoint's own")
    add_incomplete(parser)
    arguments = parser.parse_args(argv)
    model, processor = load_whole(arguments.model, arguments.dtype, arguments.incomplete_checkpoint)
    print(f"wrote {export(model, processor, arguments.folder)}")


def load_whole(name: str, dtype: str, incomplete: bool = False) -> tuple[PreTrainedModel, ProcessorMixin | None]:
    """A checkpoint and its processor, every weight in the type that is asked for.

    Raises:
        ValueError: there is no such type.
        OSError: there is no such checkpoint, it is not whole, or adapters are given.
    """
    options: dict[str, Any] = {"dtype": requested_dtype(dtype), "incomplete": incomplete}
    with reading(name):
        if find_adapter_config_file(name):
            raise CheckpointError(f"{name} holds adapters; merge them first: openpali merge {name} NEW_FOLDER")
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if kind == MaskVQVAEConfig.model_type:
        return load_checkpoint(MaskVQVAE, name, **options), None
    model: Any = load_answering(name, **options)
    # Transformers keeps some layers of T5 wide beside float16, and would write them so
    return model.to(model.config.dtype), load_processor(name)


if __name__ == "__main__":
    main()
