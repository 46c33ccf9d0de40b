"""Load a checkpoint with the right class: openpali's for its own families, Transformers' Auto classes for all others.

PaliGemma's classes do not replace Transformers' own in its Auto classes, so that importing openpali changes nothing
for other code. For the cheaper training step, load with these functions or with the classes themselves.
"""

import json
from pathlib import Path
from typing import Any, cast

from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file

from .checkpoints import load_checkpoint, load_config, reading
from .image_patches import is_naflex
from .modeling_pali3 import Pali3ForConditionalGeneration
from .modeling_paligemma import PaliGemmaForConditionalGeneration
from .modeling_paligemma_naflex import PaliGemmaNaflexForConditionalGeneration
from .processing_pali3 import Pali3Processor
from .processing_paligemma import PaliGemmaProcessor
from .processing_paligemma_naflex import PaliGemmaNaflexProcessor
from .processing_prefix_suffix import PrefixSuffixProcessor
from .processing_tokenizer import load_tokenizer
from .shipped import shipped
from .user_errors import CheckpointError

MODELS: dict[str, Any] = {
    "pali3": Pali3ForConditionalGeneration,
    "paligemma": PaliGemmaForConditionalGeneration,
    "paligemma_naflex": PaliGemmaNaflexForConditionalGeneration,
}
PROCESSORS: dict[str, Any] = {
    "pali3": Pali3Processor,
    "paligemma": PaliGemmaProcessor,
    "paligemma_naflex": PaliGemmaNaflexProcessor,
}


def base_checkpoint(name: str | Path) -> str:
    """The checkpoint itself, or the one that an adapter folder (LoRA) was trained on."""
    name = shipped(name)
    with reading(name):
        path = find_adapter_config_file(name)
        return name if path is None else json.loads(Path(path).read_text("utf-8"))["base_model_name_or_path"]


def checkpoint_config(name: str | Path) -> PreTrainedConfig:
    """Configuration of a checkpoint, or of the one that an adapter folder was trained on."""
    return load_config(base_checkpoint(name))


def model_class(config: PreTrainedConfig) -> Any:
    """The class to load a checkpoint with. Raises CheckpointError for models without image input."""
    kind = MODELS.get(config.model_type, AutoModelForImageTextToText)
    if kind is AutoModelForImageTextToText and type(config) not in kind._model_mapping:
        raise CheckpointError(
            f"{config.name_or_path or 'this'} is a model of the type {config.model_type}, which answers no prompts"
            " about images: give one that does, such as a PaLI-3 or a PaliGemma"
        )
    return kind


def load_answering(name: str | Path, *, incomplete: bool = False, **options: Any) -> PreTrainedModel:
    """Load a whole checkpoint that answers prompts; options as of `load_checkpoint`."""
    name = shipped(name)
    return load_checkpoint(model_class(checkpoint_config(name)), name, incomplete=incomplete, **options)


def load_processor(name: str | Path, base: str | Path | None = None) -> Any:
    """Load the processor of a checkpoint; of an adapter folder its own, or else its base checkpoint's.

    Args:
        name: of the checkpoint or of the adapters.
        base: the checkpoint that the adapters were trained on, if it is not where their configuration says.
    """
    name = shipped(name)
    base = base or base_checkpoint(name)
    kind = PROCESSORS.get(checkpoint_config(base).model_type, AutoProcessor)
    has_own = Path(name, "processor_config.json").exists() or Path(name, "preprocessor_config.json").exists()
    with reading(name if has_own else base):
        processor = kind.from_pretrained(name if has_own else base)
        if type(processor).__name__ == "SiglipProcessor":  # its module takes time to import
            processor.tokenizer = load_tokenizer(name if has_own else base)
        return processor


def check_tokens(name: str | Path, model: PreTrainedModel, processor: Any) -> None:
    """Compare a model with its processor: a token without a row in the embedding table would fail in the first step.

    Raises:
        CheckpointError: a token of the processor has no row, or the two have different image tokens, or one has square
            images and the other images of any aspect ratio.
    """
    if not isinstance(processor, PrefixSuffixProcessor):
        return
    config, table = cast(Any, model.config), cast(Any, model.get_input_embeddings())
    rows, last = table.weight.shape[0], max(processor.tokenizer.get_vocab().values())
    if last >= rows:
        raise CheckpointError(
            f"{name}: its tokenizer has the token {last}, {processor.tokenizer.convert_ids_to_tokens(last)}, and its"
            f" embedding table {rows} rows: save the tokenizer that the model was trained with"
        )
    if config.image_token_id != processor.image_token_id:
        raise CheckpointError(
            f"{name}: image_token_id is {config.image_token_id} in its configuration and"
            f" {processor.image_token_id} in its tokenizer: save the tokenizer that the model was trained with"
        )
    if processor.any_aspect_ratio != is_naflex(config.vision_config):
        kinds = ("square images", "images of any aspect ratio (NaFlex)")[:: -1 if processor.any_aspect_ratio else 1]
        raise CheckpointError(
            f"{name}: its processor makes {kinds[0]}, and its image encoder takes {kinds[1]}: save the processor that"
            " the model was trained with"
        )
