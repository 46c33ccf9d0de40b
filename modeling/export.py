"""Export a checkpoint with its code, so that it runs where openpali is not installed."""

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
from .configuration_paligemma import PaliGemmaNaflexConfig
from .dtypes import CHOICES, requested_dtype
from .modeling_mask_vqvae import MaskVQVAE
from .modeling_pali3 import Pali3ForConditionalGeneration, Pali3Model
from .modeling_pali3_multimodal import Pali3ForMultimodalLM
from .modeling_paligemma import PaliGemmaForConditionalGeneration
from .modeling_paligemma_naflex import PaliGemmaNaflexForConditionalGeneration
from .processing_pali3 import Pali3Processor
from .processing_paligemma_naflex import PaliGemmaNaflexProcessor
from .shipped import shipped
from .user_errors import CheckpointError, command

AUTO_CLASSES = {
    Pali3Config: "AutoConfig",
    Pali3ForConditionalGeneration: "AutoModelForImageTextToText",
    Pali3Processor: "AutoProcessor",
    PaliGemmaNaflexConfig: "AutoConfig",
    PaliGemmaNaflexForConditionalGeneration: "AutoModelForImageTextToText",
    PaliGemmaNaflexProcessor: "AutoProcessor",
    MaskVQVAEConfig: "AutoConfig",
    MaskVQVAE: "AutoModel",
}
# other classes that a folder can be loaded as
ALSO: dict[type, dict[str, Any]] = {
    Pali3Config: {"AutoModel": Pali3Model, "AutoModelForMultimodalLM": Pali3ForMultimodalLM},
    PaliGemmaNaflexConfig: {"AutoModelForMultimodalLM": PaliGemmaNaflexForConditionalGeneration},
}


def export(model: PreTrainedModel, processor: ProcessorMixin | None, folder: str | Path) -> Path:
    """Save model and processor together with the code that runs them.

    The folder loads anywhere with `trust_remote_code=True`, also from the Hub. Only the export writes code: ordinary
    saves of training stay small.

    Args:
        model: a PaLI-3 model, a PaliGemma with NaFlex or a mask VQ-VAE; Transformers' own models are saved without
            code.
        processor: the model's processor; None for a mask VQ-VAE, which has none.
        folder: created when missing.

    Returns:
        The folder.

    Raises:
        FileExistsError: `folder` is a file.
    """
    if Path(folder).is_file():
        raise FileExistsError(errno.EEXIST, "it is a file", str(folder))
    needs_code = isinstance(model.config, Pali3Config | PaliGemmaNaflexConfig | MaskVQVAEConfig)
    processor = copy.deepcopy(processor)  # saving marks its parts as remote code
    try:
        for cls, auto_class in AUTO_CLASSES.items() if needs_code else ():
            cls.register_for_auto_class(auto_class)
        if also := ALSO.get(type(model.config)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            for cls in also.values():
                custom_object_save(cls, folder)
            names = {auto_class: f"{_module(cls)}.{cls.__name__}" for auto_class, cls in also.items()}
            vars(model.config)["auto_map"] = names
        # under the names of the published checkpoints, which programs that know PaliGemma read
        published = isinstance(model, PaliGemmaForConditionalGeneration)
        options: dict[str, Any] = {"save_original_format": True} if published else {}
        model.save_pretrained(folder, **options)
        if processor is not None:
            processor.save_pretrained(folder)
    finally:
        for cls in AUTO_CLASSES:
            cls._auto_class = None
        vars(model.config).pop("auto_map", None)
    return Path(folder)


def _module(cls: type) -> str:
    """The file of a class without its ending."""
    return cls.__module__.rpartition(".")[2]


@command("openpali export")
def main(argv: list[str] | None = None) -> None:
    """`openpali export MODEL FOLDER`."""
    parser = argparse.ArgumentParser(prog="openpali export", description=(export.__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="folder or Hub name of a checkpoint")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the checkpoint's own")
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="write ONNX graphs of a SigLIP's two towers, or of the image encoder and projector, in float32",
    )
    add_incomplete(parser)
    arguments = parser.parse_args(argv)
    if arguments.onnx:
        if arguments.dtype not in ("auto", "float32"):
            parser.error(f"--onnx writes float32, not {arguments.dtype}: leave --dtype out")
        from .export_onnx import export_onnx, load_encoders

        encoders = load_encoders(arguments.model, arguments.incomplete_checkpoint)
        for graph, apart in export_onnx(*encoders, arguments.folder).items():
            print(f"wrote {graph}: at most {apart:.0e} of its largest number apart from PyTorch")
        return
    model, processor = load_whole(arguments.model, arguments.dtype, arguments.incomplete_checkpoint)
    print(f"wrote {export(model, processor, arguments.folder)}")


def load_whole(name: str, dtype: str, incomplete: bool = False) -> tuple[PreTrainedModel, ProcessorMixin | None]:
    """Load a checkpoint, every weight in the requested type, and its processor.

    Raises:
        ValueError: there is no such type.
        OSError: the checkpoint is missing or not whole, or holds adapters.
    """
    name = shipped(name)
    options: dict[str, Any] = {"dtype": requested_dtype(dtype), "incomplete": incomplete}
    with reading(name):
        if find_adapter_config_file(name):
            raise CheckpointError(f"{name} holds adapters; merge them first: openpali merge {name} NEW_FOLDER")
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if kind == MaskVQVAEConfig.model_type:
        return load_checkpoint(MaskVQVAE, name, **options), None
    model: Any = load_answering(name, **options)
    # beside float16, Transformers keeps some layers of T5 in float32 and would save them so
    return model.to(model.config.dtype), load_processor(name)


if __name__ == "__main__":
    main()
