"""Checks of numbers with which a run would fail or train nothing, before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from openpali.data.files.config import ConfigError

# keys of all stages by the range of their values
AT_LEAST_ONE = (
    "eval_limit",
    "test_limit",
    "num_beams",
    "resolution",
    "image_size",
    "image_tokens",
    "pack_length",
    "examples",
)
AT_LEAST_ONE += ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
AT_LEAST_ONE += ("save_total_limit", "rsqrt_timescale", "texts_per_image", "vocab_size", "text_length", "lora_rank")
AT_LEAST_ONE += (
    "max_length",
    "suffix_max_length",
    "loss_chunk_size",
    "sentinels",
    "tokenizer_texts",
    "tokenizer_records",
)
AT_LEAST_ONE += ("classes_records", "most_classes", "names_records", "most_names")
AT_LEAST_ONE += ("prototypes", "head_width", "head_bottleneck")
ABOVE_ZERO = (
    "student_temperature",
    "teacher_temperature",
    "lora_alpha",
    "temperature",
    "sweep_learning_rates",
    "sweep_epochs",
)
NOT_NEGATIVE = ("learning_rate", "weight_decay", "seed", "dataloader_num_workers", "eval_steps", "save_steps")
NOT_NEGATIVE += ("logging_steps", "bad_loss_limit", "cooldown_steps", "num_train_epochs")
NOT_NEGATIVE += ("caption_weight", "local_weight", "masked_weight", "late_weight")
NOT_NEGATIVE += ("decoder_layers", "decoder_width", "decoder_heads", "decoder_mlp", "scored_images")
BELOW_ONE = ("adam_beta1", "adam_beta2", "label_smoothing", "decoder_dropout")
SHARES = ("max_bad_share", "lora_dropout", "late_share", "ema_decay", "ema_decay_end", "center_momentum")
SHARES += ("masked_pred_prob", "masking_ratio", "located_masked_pred_prob")


def check_numbers(values: dict[str, Any]) -> None:
    """Raise ConfigError for a number that is out of range for its key."""
    for key in sorted(set(values) & {*AT_LEAST_ONE, *ABOVE_ZERO, *NOT_NEGATIVE, *BELOW_ONE, *SHARES}):
        given = values[key]
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, int | float):
                check_number(key, value)


def check_number(key: str, value: float) -> None:
    """The same for one key."""
    if key in AT_LEAST_ONE:
        at_least_one({key: value})
    if key in ABOVE_ZERO and not value > 0:
        raise ConfigError(f"{key}={value}: it is above 0")
    if key in NOT_NEGATIVE and value < 0:
        raise ConfigError(f"{key}={value}: it is not negative")
    if key in BELOW_ONE and not 0 <= value < 1:
        raise ConfigError(f"{key}={value}: it is from 0 to below 1")
    if key in SHARES and not 0 <= value <= 1:
        raise ConfigError(f"{key}={value}: it is a share, from 0 to 1")


def at_least_one(values: Mapping[str, float | None]) -> None:
    """Raise ConfigError for a number below 1; None stands for no limit."""
    for key, value in values.items():
        if value is not None and value < 1:
            raise ConfigError(f"{key}={value}: it is at least 1; leave it out for the default")
