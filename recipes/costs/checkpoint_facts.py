"""What is known of a checkpoint without loading it: shape, weights on disk, tokens, the memory that it needs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, PreTrainedConfig

from openpali.eval.answering.load_model import ADAPTER_CONFIG, find_base
from openpali.modeling.auto import MODELS
from openpali.modeling.checkpoints import load_config, reading
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.modeling.four_bit import read_quantization
from openpali.modeling.image_patches import is_naflex, most_image_tokens
from openpali.modeling.processing_tokenizer import IMAGE_TOKEN, load_tokenizer
from openpali.modeling.transformers_versions import peft_refusal
from openpali.modeling.user_errors import CheckpointError
from openpali.recipes.costs.plan import plan_training
from openpali.recipes.costs.plan_memory import build
from openpali.recipes.costs.stage_costs import RESERVED_ALONE, stage_costs
from openpali.recipes.costs.stored_weights import (
    StoredWeight,
    stored_components,
    stored_table,
    stored_weights,
    types_of,
)
from openpali.recipes.start.token_rows import table_modules, token_rows
from openpali.recipes.training.optimizer import components, count

# options of `openpali costs` beside the model and the kind of training; texts have 64 tokens
COSTS = ("--bf16", "true", "--per_device_train_batch_size", "1")
TRAININGS = {"lora": "lora", "qlora": "qlora", "full": "none"}


@dataclass
class CheckpointFacts:
    """Facts of a checkpoint; what does not apply to its family is None or empty.

    Attributes:
        model: the folder or Hub name.
        architecture: class of the model.
        model_type: of its configuration.
        text_model: model type of its text model.
        adapters: kind, rank and base of an adapter folder; everything else is that of the base.
        parameters: by component.
        total: of parameters.
        dtypes: number of values on disk by type; empty where the weights are not here.
        resolution: side of an image in pixels; None for images of any aspect ratio.
        image_tokens: of one image; of images of any aspect ratio the most.
        vocabulary: rows of the embedding table.
        tokens: of the tokenizer.
        special_tokens: of location and segmentation tokens, the fields of `TokenRows`; of `<image>`, its id.
        memory: bytes on one GPU by use; of a training without activation checkpointing and with it.
        memory_unknown: why no memory of adapters is known.
    """

    model: str
    architecture: str
    model_type: str
    text_model: str | None = None
    adapters: dict[str, Any] | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    total: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    resolution: int | None = None
    image_tokens: int | None = None
    vocabulary: int | None = None
    tokens: int | None = None
    special_tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    memory_unknown: str | None = None

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def checkpoint_facts(name: str) -> CheckpointFacts:
    """The facts of a folder, or of a published checkpoint in the cache of the Hub.

    Raises:
        CheckpointError: it is missing or cannot be read, or holds neither a known configuration nor weights.
    """
    base = find_base(name)
    config, weights = config_of(base), stored_weights(base)
    architecture = (getattr(config, "architectures", None) or [type(config).__name__.replace("Config", "")])[0]
    facts = CheckpointFacts(name, architecture, config.model_type, dtypes=types_of(weights))
    if base != name:
        facts.adapters = adapter_facts(name, base)
    add_shape(facts, config)
    model = None
    if config.model_type in MODELS:
        add_memory(facts)
        model = built(name)
        facts.architecture = type(model).__name__
        table = components(model, plan_training(["--model", name]).run)
        facts.parameters = {row.name: count(row.matrices + row.others) for row in table}
    elif weights:
        facts.parameters = stored_components(weights)
    else:
        raise CheckpointError(f"{name} has no weights here: give a folder with its safetensors files")
    facts.total = sum(facts.parameters.values())
    add_tokens(facts, name, base, weights, model)
    return facts


def config_of(name: str) -> Any:
    """Configuration of a checkpoint, of a mask tokenizer too, which has no Auto class."""
    with reading(name):
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind == MaskVQVAEConfig.model_type:
            return MaskVQVAEConfig.from_pretrained(name)
    return load_config(name)


def adapter_facts(name: str, base: str) -> dict[str, Any]:
    """Kind, rank and base of adapters."""
    with reading(name):
        content = json.loads(Path(name, ADAPTER_CONFIG).read_text("utf-8"))
    kind = "DoRA" if content.get("use_dora") else "QLoRA" if read_quantization(name) else "LoRA"
    return {"kind": kind, "rank": content.get("r"), "base": base}


def add_shape(facts: CheckpointFacts, config: Any) -> None:
    """Resolution, image tokens and vocabulary, of the parts that the configuration has."""
    vision, text = (getattr(config, part, None) for part in ("vision_config", "text_config"))
    if config.model_type == MaskVQVAEConfig.model_type:
        facts.resolution, facts.image_tokens = config.image_size, config.grid_size**2
        return
    images = vision or (config if hasattr(config, "patch_size") else None)
    side = getattr(images, "image_size", None)
    if images is not None and is_naflex(images):
        facts.image_tokens = most_tokens(facts.model, images)
    elif isinstance(side, int):
        facts.resolution = side
        facts.image_tokens = (side // images.patch_size) ** 2  # type: ignore[union-attr]
    words = text or (config if hasattr(config, "vocab_size") else None)
    if words is not None:
        facts.vocabulary = getattr(words, "vocab_size", None)
        facts.text_model = words.model_type if text else None


def most_tokens(name: str, vision: Any) -> int:
    """The most tokens of an image of any aspect ratio: its processor's, else those of the encoder's training."""
    try:
        with reading(name):
            return int(AutoImageProcessor.from_pretrained(name).max_num_patches)  # type: ignore[attr-defined]
    except (CheckpointError, AttributeError):
        return most_image_tokens(vision)


def built(name: str) -> Any:
    """The whole model on the meta device."""
    plan = plan_training(["--model", name])
    return build(plan, plan.config)


def add_memory(facts: CheckpointFacts) -> None:
    """Memory on one GPU for one example, as `openpali costs` computes it with the options `COSTS`."""
    kept = None
    for use, peft in TRAININGS.items():
        if peft != "none" and (refusal := peft_refusal()):
            facts.memory_unknown = refusal
            continue
        # 4-bit layers keep what layers in bfloat16 keep
        plan = plan_training(["--model", facts.model, "--peft", peft, *COSTS])
        costs, _ = stage_costs(plan, kept if peft == "qlora" else None)
        kept = costs.kept
        if not facts.memory:
            facts.memory["inference"] = int(2 * costs.parameters + RESERVED_ALONE)
        without, with_it = (costs.standing_bytes(c) + costs.example_bytes(c) for c in (False, True))
        facts.memory[use] = {"bytes": int(without), "with_activation_checkpointing": int(with_it)}


def add_tokens(facts: CheckpointFacts, name: str, base: str, weights: dict[str, StoredWeight], model: Any) -> None:
    """Tokens of the tokenizer, and whether the special ones are trained."""
    tokenizer = tokenizer_of(name, base, facts.model_type)
    if tokenizer is None:
        return
    facts.tokens = len(tokenizer)
    if model is None:
        return
    facts.special_tokens = {
        kind: asdict(rows) for kind, rows in token_rows(tokenizer, read_tables(model, weights)).items()
    }
    facts.special_tokens["image"] = {"token": IMAGE_TOKEN, "id": tokenizer.get_vocab().get(IMAGE_TOKEN)}


def tokenizer_of(name: str, base: str, model_type: str) -> Any:
    """The tokenizer of a checkpoint, of an adapter folder its own; None without one."""
    has_own = Path(name, "tokenizer_config.json").exists()
    try:
        return load_tokenizer(name if has_own else base)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_tables(model: Any, weights: dict[str, StoredWeight]) -> dict[str, torch.Tensor]:
    """The tables of `tables_of`, from the files; empty where one is not found."""
    found = {}
    for kind, module in table_modules(model).items():
        named = model.named_parameters(remove_duplicate=False)
        table = stored_table(weights, [key for key, weight in named if weight is module.weight])
        if table is None:
            return {}
        found[kind] = table
    return found
