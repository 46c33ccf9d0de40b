"""What a configuration or a checkpoint would train, before anything is there: the model's shape, lengths, what learns.

Nothing is downloaded that is known here: sizes of published checkpoints are presets of `modeling/presets`, and what
another shipped configuration would leave in its folder is read from that configuration.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from transformers import AutoTokenizer, PreTrainedConfig, SiglipConfig

from openpali import Pali3Config
from openpali.data.files.config import CONFIGS, ConfigError, as_dict, find_config
from openpali.modeling.auto import checkpoint_config
from openpali.modeling.checkpoints import load_config
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.recipes import classification, contrastive, denoise, dense, mask_vqvae, pretrain, transfer
from openpali.recipes.costs.forward_passes import Lengths
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import known_keys, parse, read_values, take_option
from openpali.recipes.stages.pretrain_learning_rate import StageArguments
from openpali.recipes.stages.pretrain_start import StartArguments
from openpali.recipes.start.adapters import AdapterArguments
from openpali.recipes.start.resized import resolution_keys

RECIPES: dict[str, list[type]] = {
    "transfer": transfer.CLASSES,
    "pretrain": [pretrain.PretrainArguments, StartArguments, StageArguments],
    "contrastive": [contrastive.ContrastiveArguments, contrastive.ContrastiveRun],
    "classification": [classification.ClassificationArguments, classification.ClassificationRun],
    "dense": [dense.DenseArguments, dense.DenseRun],
    "denoise": [denoise.DenoiseArguments, denoise.DenoiseRun],
}
MASK_CODEC: list[type] = [mask_vqvae.MaskVQVAEArguments, mask_vqvae.MaskVQVAERun]
# tokens of published tokenizers, so that they need not be downloaded
VOCABULARIES = {"google/siglip-base-patch16-224": 32_000, "google/mt5-base": 250_100, "google/t5-v1_1-xl": 32_100}
SPECIAL_TOKENS = 1153  # of a tokenizer that is trained here
ASSUMED = 64  # tokens of prompt and target where nothing says how many
OWN_BATCH = 8  # examples a device is given of custom data


@dataclass(frozen=True)
class Planned:
    """A training before it begins.

    Attributes:
        kind: of its forward pass, a key of `forward_steps.STEPS`.
        config: of the model.
        lengths: tokens of an example.
        assumed: whether nothing says how long texts are.
        run: its arguments.
        adapters: which; none unless it is a transfer.
        dtype: of the weights, as the run is asked for it.
        attention: of the text model; the model's own when None.
    """

    kind: str
    config: Any
    lengths: Lengths
    assumed: bool
    run: RunArguments
    adapters: AdapterArguments = field(default_factory=AdapterArguments)
    dtype: str = "auto"
    attention: str | None = None


def plan(line: Sequence[str]) -> Planned:
    """What a command line of a recipe would train.

    Args:
        line: as the recipe takes it; `--model` alone is a transfer of that checkpoint.

    Raises:
        ConfigError: something is wrong, or it cannot be known what the model looks like.
    """
    recipe = recipe_of(list(line))
    # what the stage needs elsewhere need not be on this machine
    return PLANS[recipe]([*line, "--use_cpu", "true"])


def recipe_of(line: list[str]) -> str:
    """The recipe that has all the keys of a configuration and of the options behind it."""
    name, rest = take_option(line, "--config")
    keys = {part.lstrip("-").partition("=")[0].partition(".")[0] for part in rest if part.startswith("--")}
    if name:
        content = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
        keys |= set(content) if isinstance(content, dict) else set()
    strange = {recipe: len(keys - set(known_keys(classes))) for recipe, classes in RECIPES.items()}
    best = min(strange, key=lambda recipe: strange[recipe])
    if name and strange[best] and (not keys - set(known_keys(MASK_CODEC)) or strange[best] > len(keys) / 2):
        raise ConfigError(f"{name} is no configuration of {', '.join(RECIPES)}: only these have costs worth reckoning")
    return best


def plan_transfer(line: list[str]) -> Planned:
    """Fine-tuning of a checkpoint, whose resolution picks a block of the configuration."""
    classes, below = RECIPES["transfer"], {"output_dir": "outputs/costs"}
    given = read_values(classes, line).values
    if given["model"] and not given["resolution"]:
        line = [*line, "--resolution", str(config_of(given["model"]).vision_config.image_size)]
    if "--config" not in line or not given["per_device_train_batch_size"]:
        below["per_device_train_batch_size"] = OWN_BATCH  # pyright: ignore[reportArgumentType]
    if given["model"] and not given["source"] and config_of(given["model"]).model_type == "pali3":
        # as for custom data
        below["freeze"] = ["vision_tower"]  # pyright: ignore[reportArgumentType]
    built = parse(classes, line, below, resolution_keys(classes, line))
    args, adapters, run = built[0], built[-2], built[-1]
    config = config_of(args.model)
    config.vision_config.image_size = args.resolution or config.vision_config.image_size
    target = args.suffix_max_length or as_dict(args.task, "task").get("max_new_tokens")
    lengths = Lengths(args.max_length or ASSUMED, target or ASSUMED)
    assumed = not (args.max_length and target)
    return Planned(config.model_type, config, lengths, assumed, run, adapters, args.dtype, args.attention)


def plan_pretrain(line: list[str]) -> Planned:
    """Stage 1 or 2."""
    args, start, run = parse(RECIPES["pretrain"], line)
    longest = [part.get("suffix_max_length") or 0 for part in as_dict(args.mixture, "mixture").values()]
    target = max([args.suffix_max_length or 0, *longest])
    lengths = Lengths(args.max_length or ASSUMED, target or ASSUMED)
    config, assumed = start_config(start), not (args.max_length and target)
    return Planned(config.model_type, config, lengths, assumed, run, attention=start.attention)


def start_config(args: StartArguments) -> Any:
    """Configuration of a stage's model: of `model` or of its parts where they are there already, else of the preset.

    Raises:
        ConfigError: if there is no such preset.
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
    if args.image_size is not None:
        config.vision_config.image_size = args.image_size
    return config


def preset_with(name: str, changes: dict[str, Any]) -> Pali3Config:
    """A preset of PaLI-3 of whose text model some fields differ."""
    text = changes.get("text_config", {})
    if "model_type" not in text:
        text = Pali3Config.from_preset(name).text_config.to_dict() | text
    return Pali3Config.from_preset(name, **(changes | {"text_config": text}))


def plan_contrastive(line: list[str]) -> Planned:
    """Stage 0 by the sigmoid loss."""
    args, run = parse(RECIPES["contrastive"], line)
    contrastive.adjust(args, run)
    earlier = None if not args.model or is_here(args.model) else shipped_plan(args.model)
    if args.model and earlier is None:
        config: Any = SiglipConfig.from_pretrained(args.model) if is_here(args.model) else unknown(args.model)
    else:
        config = earlier.config if earlier else contrastive.make_config(args, counted_tokens(args.tokenizer, args))
    config.token_bottleneck = args.token_bottleneck
    if args.image_size:
        config.vision_config.image_size = args.image_size
    lengths = Lengths(config.text_config.max_position_embeddings, 0, args.texts_per_image)
    return Planned("contrastive", config, lengths, False, run)


def plan_classification(line: list[str]) -> Planned:
    """Stage 0 by classes."""
    args, run = parse(RECIPES["classification"], line)
    config = classification.make_config(args, args.classes or [str(i) for i in range(args.most_classes)])
    return Planned("classification", config, Lengths(0, 0), False, run)


def plan_dense(line: list[str]) -> Planned:
    """Stage 0b, patch by patch."""
    args, run = parse(RECIPES["dense"], line)
    earlier = shipped_plan(args.model) if args.model and not is_here(args.model) else None
    here = args.model and is_here(args.model)
    config: Any = (
        SiglipConfig.from_pretrained(args.model) if here else earlier.config if earlier else unknown(args.model)
    )
    # what is no name, and what is another one
    config.patch_labels = (len(args.names) or args.most_names) + 2
    return Planned("dense", config, Lengths(0, 0), False, run)


def plan_denoise(line: list[str]) -> Planned:
    """The text side of stage 0; half of a text may be masked."""
    args, run = parse(RECIPES["denoise"], line)
    if args.model:
        config: Any = load_config(args.model) if is_here(args.model) else unknown(args.model)
    else:
        config = denoise.make_config(args, counted_tokens(args.tokenizer, args, args.sentinels))
    return Planned("denoise", config, Lengths(args.max_length, args.max_length // 2), True, run)


PLANS: dict[str, Callable[[list[str]], Planned]] = {
    "transfer": plan_transfer,
    "pretrain": plan_pretrain,
    "contrastive": plan_contrastive,
    "classification": plan_classification,
    "dense": plan_dense,
    "denoise": plan_denoise,
}


class CountedTokens:
    """A tokenizer of which only the size matters."""

    pad_token_id, eos_token_id, bos_token_id = 0, 1, None

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size


def counted_tokens(name: str | None, args: Any, more: int = 0) -> CountedTokens:
    """Of a published tokenizer, of one that is here, or of the one that would be trained."""
    if name is None:
        return CountedTokens(args.vocab_size + SPECIAL_TOKENS + more)
    if name in VOCABULARIES:
        return CountedTokens(VOCABULARIES[name] + SPECIAL_TOKENS * (more > 0))
    try:
        return CountedTokens(len(cast(Any, AutoTokenizer.from_pretrained(name))))
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer: there is none at {name}, so the size of its table is not known") from error


def is_here(name: str) -> bool:
    """Whether it is a folder with a model's configuration, or with adapters on one."""
    return any(Path(name, file).exists() for file in ("config.json", "adapter_config.json"))


def config_of(name: str) -> Any:
    """Configuration of a transfer's checkpoint: a folder, a published name, a preset, or a shipped run's folder.

    Raises:
        ConfigError: it is none of them, and not on the Hub.
    """
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


def shipped_plan(folder: str) -> Planned | None:
    """What a shipped configuration would leave in a folder; None where none writes there."""
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        output = yaml.safe_load(path.read_text(encoding="utf-8")).get("output_dir")
        if output and (folder == output or folder.startswith(f"{output}/")):
            return plan(["--config", str(path)])
    return None


def unknown(name: str | None) -> PreTrainedConfig:
    """Say that a stage's model is not here."""
    raise ConfigError(f"model: there is no folder {name} with a config.json, and no shipped run leaves one there")
