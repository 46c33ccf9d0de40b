"""The model that a pretraining stage starts from: backbones put together, or a checkpoint of an earlier stage."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.files.config import ConfigError, as_dict
from openpali.modeling.auto import check_tokens, load_answering, load_processor
from openpali.modeling.checkpoints import load_tower
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.modeling.image_patches import is_naflex, tower_class
from openpali.modeling.location_tokens import LOCATION_BINS, location_token
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.modeling_paligemma_naflex import PaliGemmaNaflexForConditionalGeneration
from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.modeling.processing_paligemma_naflex import PaliGemmaNaflexProcessor
from openpali.modeling.resolution import set_image_tokens, set_resolution, stretch_text_positions
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.stages.vocabulary_rows import vocabulary_rows
from openpali.recipes.start.attention import set_text_attention
from openpali.recipes.start.token_rows import location_sines

NAFLEX_CLASSES = PaliGemmaNaflexForConditionalGeneration, PaliGemmaNaflexProcessor


@dataclass
class StartArguments:
    """Options of the model that a stage starts from."""

    family: Literal["pali3", "paligemma"] = field(
        default="pali3", metadata={"help": "an encoder-decoder or a decoder behind the image encoder; not with model"}
    )
    vision_checkpoint: str | None = field(
        default=None, metadata={"help": "SigLIP model of stage 0, or SigLIP 2 with NaFlex"}
    )
    text_checkpoint: str | None = field(
        default=None,
        metadata={"help": "T5, UMT5 or T5Gemma for pali3, Gemma or Gemma 2 for paligemma; new if unset"},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "of a new model; text_checkpoint's or vision_checkpoint's if unset"},
    )
    model: str | None = field(default=None, metadata={"help": "checkpoint of an earlier stage to start from instead"})
    preset: str = field(default="nano", metadata={"help": "size of a new text model"})
    model_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    image_size: int | None = field(default=None, metadata={"help": "in pixels; the checkpoint's if unset"})
    image_tokens: int | None = field(
        default=None,
        metadata={"help": "most tokens of an image of any aspect ratio (NaFlex); the checkpoint's if unset"},
    )
    attention: Literal["eager", "sdpa", "flex_attention"] | None = field(
        default=None,
        metadata={"help": "attention back-end of the text model; on GPUs flex_attention saves memory of PaliGemma 2"},
    )
    ordered_locations: bool = field(
        default=False,
        metadata={"help": "initialise location tokens as sines of their coordinates, not at random"},
    )

    rope_interpolation: bool = field(
        default=False,
        metadata={"help": "PaliGemma: stretch text positions over the image tokens of a new image_size, to compare"},
    )

    def __post_init__(self):
        self.model_config = as_dict(self.model_config, "model_config")
        if self.model and (self.vision_checkpoint or self.text_checkpoint or self.tokenizer):
            raise ConfigError(
                "model is a whole checkpoint: vision_checkpoint, text_checkpoint and tokenizer are for a new one"
            )


def load_start(args: StartArguments, incomplete: bool = False) -> tuple[PreTrainedModel, Any]:
    """The model to train and its processor, at the resolution of this stage, in float32.

    Args:
        args: the backbones, or the checkpoint.
        incomplete: accept a checkpoint that lacks weights.

    Raises:
        ConfigError: a checkpoint is missing, or backbones do not fit together.
    """
    if args.model:
        folder = check_checkpoint(args.model, "model")
        model: Any = load_answering(folder, incomplete=incomplete, dtype=torch.float32)
        processor = load_processor(folder)
        check_tokens(folder, model, processor)
    else:
        vision = check_checkpoint(args.vision_checkpoint, "vision_checkpoint")
        if Path(vision).is_dir() and not (args.tokenizer or args.text_checkpoint or has_tokenizer(vision)):
            raise ConfigError(f"tokenizer is missing: {vision} is an image encoder without one, as of classification")
        if args.text_checkpoint:
            check_checkpoint(args.text_checkpoint, "text_checkpoint")
        try:
            model, processor = {"pali3": new_pali3, "paligemma": new_paligemma}[args.family](args)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if args.image_tokens is not None:
        try:
            set_image_tokens(processor, args.image_tokens)
        except ValueError as error:
            raise ConfigError(f"image_tokens: {error}") from error
    side = getattr(model.config.vision_config, "image_size", None)
    if args.image_size is not None and args.image_size != side:
        before = processor.image_seq_length
        try:
            set_resolution(model, processor, args.image_size)
        except ValueError as error:
            raise ConfigError(f"image_size: {error}") from error
        if args.rope_interpolation:
            stretch(model, processor.image_seq_length / before)
    elif args.rope_interpolation:
        raise ConfigError("rope_interpolation follows a new resolution: give image_size as well")
    set_text_attention(model, args.attention)
    return model, processor


def image_setting(model: PreTrainedModel, processor: Any) -> dict[str, int]:
    """Size of images, for the head of a report: pixels, or the most tokens of one of any aspect ratio."""
    vision: Any = cast(Any, model.config).vision_config
    return {"image tokens": processor.image_seq_length} if is_naflex(vision) else {"pixels": vision.image_size}


def stretch(model: PreTrainedModel, factor: float) -> None:
    """Stretch text positions; ConfigError for another model than PaliGemma."""
    try:
        stretch_text_positions(model, factor)
    except ValueError as error:
        raise ConfigError(f"rope_interpolation: {error}; leave it out") from error


def new_pali3(args: StartArguments) -> tuple[Pali3ForConditionalGeneration, Pali3Processor]:
    """PaLI-3 with the image encoder of `vision_checkpoint`, and the text model of `text_checkpoint` or a new one."""
    vision, changes = str(args.vision_checkpoint), as_dict(args.model_config, "model_config")
    processor = Pali3Processor.from_backbones(vision, args.tokenizer or args.text_checkpoint or vision)
    use_attention_mask(processor.tokenizer)
    if args.text_checkpoint:
        model = Pali3ForConditionalGeneration.from_backbones(vision, args.text_checkpoint, processor, **changes)
    else:
        rows = vocabulary_rows(processor.tokenizer)
        text_config = Pali3Config.from_preset(args.preset, vocab_size=rows).text_config
        changes["text_config"] = text_config.to_dict() | changes.get("text_config", {})
        vision_config = vision_config_of(vision).to_dict()
        config = Pali3Config.from_preset(
            args.preset, image_token_id=processor.image_token_id, vision_config=vision_config, **changes
        )
        model = Pali3ForConditionalGeneration(config)
        model.model.encoder.vision_tower.load_state_dict(tower_weights(vision))
    if args.ordered_locations:
        order_locations(model, processor.tokenizer)
    return model, processor


def new_paligemma(args: StartArguments) -> tuple[PreTrainedModel, PaliGemmaProcessor]:
    """PaliGemma with the image encoder of `vision_checkpoint`, and text model of `text_checkpoint` or a new one."""
    vision, changes = str(args.vision_checkpoint), as_dict(args.model_config, "model_config")
    naflex = is_naflex(vision_config_of(vision))
    kind, own_processor = NAFLEX_CLASSES if naflex else (PaliGemmaForConditionalGeneration, PaliGemmaProcessor)
    processor = own_processor.from_backbones(vision, args.tokenizer or args.text_checkpoint or vision)
    use_attention_mask(processor.tokenizer)
    if args.text_checkpoint:
        return kind.from_backbones(vision, args.text_checkpoint, processor, **changes), processor
    tokenizer: Any = processor.tokenizer
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["bos_token_id"] = tokenizer.bos_token_id
    ids["vocab_size"] = vocabulary_rows(tokenizer)
    changes["text_config"] = changes.get("text_config", {}) | ids
    changes["vision_config"] = vision_config_of(vision).to_dict()
    config = paligemma_preset(args.preset, image_token_id=processor.image_token_id, **changes)
    model: Any = kind(config)
    if changes.get("image_encoder", "siglip") == "siglip":
        model.model.vision_tower.load_state_dict(tower_weights(vision))
    if args.ordered_locations:
        # Gemma multiplies embeddings by the root of their width
        order_locations(model, tokenizer, scale=config.get_text_config().hidden_size ** -0.5)
    return model, processor


def has_tokenizer(folder: str) -> bool:
    """Whether a checkpoint folder holds one."""
    return any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model"))


def use_attention_mask(tokenizer: Any) -> None:
    """Make a tokenizer return attention masks, which stage 0's does not."""
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]


def tower_weights(vision: str) -> dict[str, torch.Tensor]:
    """The image tower's weights, without its pooling head."""
    config = vision_config_of(vision)
    tower = load_tower(vision, tower_class(config), config, dtype=torch.float32)
    return {name: weight for name, weight in tower.state_dict().items() if not name.startswith("head.")}


@torch.no_grad()
def order_locations(model: PreTrainedModel, tokenizer: Any, scale: float = 1.0) -> None:
    """Initialise location tokens as sines, so that near coordinates have similar embeddings and learn together.

    Args:
        model: new.
        tokenizer: with the location tokens.
        scale: standard deviation of their embeddings.
    """
    ids = tokenizer.convert_tokens_to_ids([location_token(i / (LOCATION_BINS - 1)) for i in range(LOCATION_BINS)])
    table, head = cast(Any, model.get_input_embeddings()).weight, cast(Any, model.get_output_embeddings()).weight
    sines = location_sines(table.shape[1])
    table[ids] = scale * sines
    if head is not table:
        head[ids] = sines * sines.shape[1] ** -0.5
