"""Write a checkpoint folder that runs where openpali is not installed."""

import argparse
import copy
import errno
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import find_adapter_config_file

from .auto import load_answering, load_processor
from .checkpoints import add_incomplete, load_checkpoint, reading
from .configuration_mask_vqvae import MaskVQVAEConfig
from .configuration_pali3 import Pali3Config
from .mistakes import CheckpointError, command
from .modeling_mask_vqvae import MaskVQVAE
from .modeling_pali3 import Pali3ForConditionalGeneration
from .processing_pali3 import Pali3Processor

AUTO_CLASSES = {
    Pali3Config: "AutoConfig",
    Pali3ForConditionalGeneration: "AutoModelForImageTextToText",
    Pali3Processor: "AutoProcessor",
    MaskVQVAEConfig: "AutoConfig",
    MaskVQVAE: "AutoModel",
}


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
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    finally:
        for cls in AUTO_CLASSES:
            cls._auto_class = None
        vars(model.config).pop("auto_map", None)
    return Path(folder)


@command("openpali export")
def main(argv: list[str] | None = None) -> None:
    """`openpali export MODEL FOLDER`."""
    parser = argparse.ArgumentParser(prog="openpali export", description=(export.__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="folder or Hub name of a checkpoint")
    parser.add_argument("folder", type=Path, help="where to write")
    add_incomplete(parser)
    arguments = parser.parse_args(argv)
    name, incomplete = arguments.model, arguments.incomplete_checkpoint
    with reading(name):
        if find_adapter_config_file(name):
            raise CheckpointError(f"{name} holds adapters; merge them first: openpali merge {name} NEW_FOLDER")
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if kind == MaskVQVAEConfig.model_type:
        model, processor = load_checkpoint(MaskVQVAE, name, incomplete=incomplete), None
    else:
        model, processor = load_answering(name, incomplete=incomplete), load_processor(name)
    print(f"wrote {export(model, processor, arguments.folder)}")


if __name__ == "__main__":
    main()
