"""The plan of a training from a configuration or a checkpoint: shape of the model, lengths of texts, what trains.

No checkpoint is downloaded: sizes of published checkpoints are presets of `modeling/presets`, and the model of an
earlier stage that has not run yet is planned from its shipped configuration.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml
from transformers import PreTrainedConfig, SiglipConfig

from openpali import Pali3Config
from openpali.data.files.config import CONFIGS, ConfigError, as_dict
from openpali.modeling.auto import checkpoint_config, load_processor
from openpali.modeling.checkpoints import load_config
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.modeling.image_patches import is_naflex
from openpali.modeling.processing_tokenizer import load_tokenizer
from openpali.modeling.shipped import shipped
from openpali.recipes import classification, contrastive, denoise
from openpali.recipes.costs.forward_passes import Lengths
from openpali.recipes.costs.planned_stages import RECIPES, recipe_of
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse, read_values
from openpali.recipes.stages.pretrain_start import StartArguments
from openpali.recipes.start.adapters import AdapterArguments
from openpali.recipes.start.resized_checkpoint import resolution_keys

# sizes of published tokenizers, which need not be downloaded
VOCABULARIES = {"google/siglip-base-patch16-224": 32_000, "google/mt5-base": 250_100, "google/t5-v1_1-xl": 32_100}
SPECIAL_TOKENS = 1153  # of a tokenizer that is trained here
ASSUMED = 64  # tokens of prompt and target where nothing says how many
CUSTOM_BATCH = 8  # examples of custom data on a device


@dataclass(frozen=True)
class TrainingPlan:
    """A planned training.

    Attributes:
        kind: of its forward pass, a key of `forward_passes.STEPS`.
        config: of the model.
        lengths: tokens of an example.
        assumed: whether the lengths of texts are assumed, since the configuration does not limit them.
        run: its arguments.
        adapters: options of adapters; none unless it is a transfer.
        dtype: of the weights, as configured.
        attention: back-end of the text model; the model's default when None.
    """

    kind: str
    config: Any
    lengths: Lengths
    assumed: bool
    run: RunArguments
    adapters: AdapterArguments = field(default_factory=AdapterArguments)
    dtype: str = "auto"
    attention: str | None = None


def plan_training(line: Sequence[str]) -> TrainingPlan:
    """The training that a command line of a stage starts.

    Args:
        line: options of the stage; `--model` alone is a transfer of that checkpoint.

    Raises:
        ConfigError: the options are wrong, or the shape of the model is not known.
    """
    recipe = recipe_of(list(line))
    # the plan needs no GPU
    return PLANS[recipe]([*line, "--use_cpu", "true"])


def plan_transfer(line: list[str]) -> TrainingPlan:
    """Fine-tuning of a checkpoint, whose resolution picks a block of the configuration."""
    classes, below = RECIPES["transfer"], {"output_dir": "outputs/costs"}
    given = read_values(classes, line).values
    if given["model"] and not given["resolution"] and not is_naflex(config_of(given["model"]).vision_config):
        line = [*line, "--resolution", str(config_of(given["model"]).vision_config.image_size)]
    if "--config" not in line or not given["per_device_train_batch_size"]:
        below["per_device_train_batch_size"] = CUSTOM_BATCH  # pyright: ignore[reportArgumentType]
    if given["model"] and not given["source"] and config_of(given["model"]).model_type == "pali3":
        # the default for custom data
        below["freeze"] = ["vision_tower"]  # pyright: ignore[reportArgumentType]
    built = parse(classes, line, below, resolution_keys(classes, line))
    args, adapters, run = built[0], built[-2], built[-1]
    config = config_of(args.model)
    plan_images(config, "resolution", args.resolution, args.image_tokens, args.model)
    target = args.suffix_max_length or as_dict(args.task, "task").get("max_new_tokens")
    lengths = Lengths(args.max_length or ASSUMED, target or ASSUMED)
    assumed = not (args.max_length and target)
    return TrainingPlan(config.model_type, config, lengths, assumed, run, adapters, args.dtype, args.attention)


def plan_pretrain(line: list[str]) -> TrainingPlan:
    """Stage 1 or 2."""
    args, start, run = parse(RECIPES["pretrain"], line)
    longest = [entry.get("suffix_max_length") or 0 for entry in as_dict(args.mixture, "mixture").values()]
    target = max([args.suffix_max_length or 0, *longest])
    lengths = Lengths(args.max_length or ASSUMED, target or ASSUMED)
    config, assumed = start_config(start), not (args.max_length and target)
    return TrainingPlan(config.model_type, config, lengths, assumed, run, attention=start.attention)


def start_config(args: StartArguments) -> Any:
    """Configuration of a stage's model: of `model` or its backbones where they exist, else of the preset.

    Raises:
        ConfigError: there is no such preset.
    """
    changes = as_dict(args.model_config, "model_config")
    if args.vision_checkpoint and is_here(args.vision_checkpoint):
        changes["vision_config"] = vision_config_of(args.vision_checkpoint).to_dict()
    if args.text_checkpoint and is_here(args.text_checkpoint):
        changes["text_config"] = load_config(args.text_checkpoint).to_dict()
    earlier = shipped_plan(args.model) if args.model and args.preset == StartArguments.preset else None
    try:
        if args.model and is_here(args.model):
            config: Any = checkpoint_config(args.model)
        elif earlier is not None:
            config = earlier.config
        elif args.family == "paligemma":
            config = paligemma_preset(args.preset, **changes)
        else:
            config = preset_with(args.preset, changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    plan_images(config, "image_size", args.image_size, args.image_tokens, args.model)
    return config


def plan_images(config: Any, option: str, size: int | None, tokens: int | None, model: str | None) -> None:
    """Set the size of images in a configuration: pixels, or the most tokens of one of any aspect ratio.

    Args:
        config: of a PaLI model.
        option: name of `size`.
        size: side in pixels; the configuration's when None.
        tokens: the processor's of `model`, else a square image's of the encoder's training, when None.
        model: folder of the checkpoint, if there is one.

    Raises:
        ConfigError: pixels for images of any aspect ratio, or tokens for square ones.
    """
    if is_naflex(config.vision_config):
        if size is not None:
            raise ConfigError(
                f"{option}: images of any aspect ratio have no side in pixels: give image_tokens instead"
            )
        own = load_processor(model).image_seq_length if tokens is None and model and is_here(model) else None
        config.vision_config.image_tokens = tokens or own or config.vision_config.num_patches
    elif tokens is not None:
        raise ConfigError(f"image_tokens: the model makes every image a square: leave it out, or give {option}")
    else:
        config.vision_config.image_size = size or config.vision_config.image_size


def preset_with(name: str, changes: dict[str, Any]) -> Pali3Config:
    """A preset of PaLI-3 with changes, also to single fields of its text model."""
    text = changes.get("text_config", {})
    if "model_type" not in text:
        text = Pali3Config.from_preset(name).text_config.to_dict() | text
    return Pali3Config.from_preset(name, **(changes | {"text_config": text}))


def plan_contrastive(line: list[str]) -> TrainingPlan:
    """Stage 0 by SigLIP's or CLIP's loss."""
    args, run = parse(RECIPES["contrastive"], line)
    contrastive.adjust(args, run)
    earlier = None if not args.model or is_here(args.model) else shipped_plan(args.model)
    if args.model and earlier is None:
        config: Any = load_config(args.model) if is_here(args.model) else no_model(args.model)
    else:
        if args.vision_checkpoint and not is_here(args.vision_checkpoint):
            # the preset's sizes, until that encoder is there
            args = replace(args, vision_checkpoint=None)
        config = earlier.config if earlier else contrastive.make_config(args, counted_tokens(args.tokenizer, args))
    config = at_most_tokens(config, args.sequence_lengths, [args.patch_size, *args.patch_sizes])
    config.token_bottleneck = args.token_bottleneck
    if args.image_size:
        config.vision_config.image_size = args.image_size
    lengths = Lengths(config.text_config.max_position_embeddings, 0, args.texts_per_image)
    return TrainingPlan("contrastive", config, lengths, False, run)


def at_most_tokens(config: Any, sequence_lengths: Sequence[int], patch_sizes: Sequence[int | None]) -> SiglipConfig:
    """Square towers with as many image tokens as the longest step of flexible ones has, or a few more.

    Args:
        config: of SigLIP or SigLIP 2.
        sequence_lengths: of NaFlex; the tower's positions when empty.
        patch_sizes: that steps may have; None is the tower's own.
    """
    if config.model_type == "siglip" and not any(patch_sizes):
        return config
    vision = config.vision_config.to_dict()
    if config.model_type == "siglip2":
        vision.pop("model_type")
        longest = max(sequence_lengths, default=vision.pop("num_patches"))
        vision["image_size"] = math.ceil(math.sqrt(longest)) * vision["patch_size"]
    vision["patch_size"] = min((size for size in patch_sizes if size), default=vision["patch_size"])
    text = {key: value for key, value in config.text_config.to_dict().items() if key != "model_type"}
    return SiglipConfig(vision_config=vision, text_config=text)


def plan_classification(line: list[str]) -> TrainingPlan:
    """Stage 0 by classification."""
    args, run = parse(RECIPES["classification"], line)
    config = classification.make_config(args, args.classes or [str(i) for i in range(args.most_classes)])
    config.vision_config.patch_size = min(args.patch_sizes, default=config.vision_config.patch_size)  # pyright: ignore
    return TrainingPlan("classification", config, Lengths(0, 0), False, run)


def plan_dense(line: list[str]) -> TrainingPlan:
    """Stage 0b."""
    args, run = parse(RECIPES["dense"], line)
    earlier = shipped_plan(args.model) if args.model and not is_here(args.model) else None
    here = args.model and is_here(args.model)
    config: Any = (
        SiglipConfig.from_pretrained(args.model) if here else earlier.config if earlier else no_model(args.model)
    )
    # with background and other names
    config.patch_labels = (len(args.names) or args.most_names) + 2
    return TrainingPlan("dense", config, Lengths(0, 0), False, run)


def plan_denoise(line: list[str]) -> TrainingPlan:
    """Stage 0 of the text side; up to half of a text is masked."""
    args, run = parse(RECIPES["denoise"], line)
    if args.model:
        config: Any = load_config(args.model) if is_here(args.model) else no_model(args.model)
    else:
        config = denoise.make_config(args, counted_tokens(args.tokenizer, args, args.sentinels))
    return TrainingPlan("denoise", config, Lengths(args.max_length, args.max_length // 2), True, run)


PLANS: dict[str, Callable[[list[str]], TrainingPlan]] = {
    "transfer": plan_transfer,
    "pretrain": plan_pretrain,
    "contrastive": plan_contrastive,
    "classification": plan_classification,
    "dense": plan_dense,
    "denoise": plan_denoise,
}


class CountedTokens:
    """A tokenizer with a size and no tokens."""

    pad_token_id, eos_token_id, bos_token_id = 0, 1, None

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size


def counted_tokens(name: str | None, args: Any, more: int = 0) -> CountedTokens:
    """The size of a published tokenizer, of a local one, or of the one that would be trained."""
    if name is None:
        return CountedTokens(args.vocab_size + SPECIAL_TOKENS + more)
    if name in VOCABULARIES:
        return CountedTokens(VOCABULARIES[name] + SPECIAL_TOKENS * (more > 0))
    try:
        return CountedTokens(len(cast(Any, load_tokenizer(name))))
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer: there is none at {name}, so the size of its table is not known") from error


def is_here(name: str) -> bool:
    """Whether a name is a folder with the configuration of a model or of adapters."""
    return any(Path(name, file).exists() for file in ("config.json", "adapter_config.json"))


def config_of(name: str) -> Any:
    """Configuration of a transfer's checkpoint: a folder, a published name, a preset, or a shipped run's folder.

    Raises:
        ConfigError: it is none of these, and not on the Hub.
    """
    name = shipped(name)
    published = re.fullmatch(r"google/paligemma(2?)-(\d+b)-.+?-(\d+)(?:-.+)?", name)
    family, _, preset = name.partition("/")
    try:
        if is_here(name):
            return checkpoint_config(name)
        if published:
            second, size, pixels = published.groups()
            return paligemma_preset(f"2-{size}" if second else size, image_size=int(pixels))
        if family == "paligemma":
            return paligemma_preset(preset)
        if family == "pali3":
            return Pali3Config.from_preset(preset)
        earlier = shipped_plan(name)
        return checkpoint_config(name) if earlier is None else earlier.config
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model: {name} is not here and its shape is not known; give a folder, a published name such as"
            f" google/paligemma-3b-pt-224, or a preset as in paligemma/3b and pali3/5b ({str(error).splitlines()[0]})"
        ) from error


def shipped_plan(folder: str) -> TrainingPlan | None:
    """The plan of the shipped configuration that writes into a folder; None without one."""
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        output = yaml.safe_load(path.read_text(encoding="utf-8")).get("output_dir")
        if output and (folder == output or folder.startswith(f"{output}/")):
            return plan_training(["--config", str(path)])
    return None


def no_model(name: str | None) -> PreTrainedConfig:
    """Raise ConfigError for the model of a stage that does not exist."""
    raise ConfigError(
        f"model: there is no folder {name} with a config.json, nor a shipped configuration that writes one"
    )
