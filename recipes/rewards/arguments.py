"""Options of the tuning on rewards, and what cannot be combined with it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from openpali.data.files.config import ConfigError, as_dict
from openpali.recipes.run.arguments import RunArguments


@dataclass
class RewardArguments:
    """Options of sampling, of the reward and of the loss."""

    samples: int = field(default=8, metadata={"help": "answers sampled to each prompt, 2 or more"})
    temperature: float = field(default=1.0, metadata={"help": "of the sampling; the loss is that of temperature 1"})
    top_k: int = field(default=0, metadata={"help": "likeliest tokens to sample from; 0 for all"})
    train_samples: Literal["all", "first"] = field(
        default="all",
        metadata={"help": "all: each with the mean of the others as baseline; first: only one, as the released code"},
    )
    components: dict | str | None = field(
        default=None,
        metadata={
            "help": "weights of the reward's parts, as in {match: 1, duplicates: 0.3}: score (the task's metric),"
            " length (tokens, subtracted), of boxes match and duplicates (subtracted); if unset these two of boxes,"
            " else the score"
        },
    )
    kl: float = field(default=0.0, metadata={"help": "weight of the divergence from the checkpoint of the start"})
    confidence_weight: float = field(
        default=0.3, metadata={"help": "weight of the confidences' loss, where the task writes confidences"}
    )
    reward_examples: int = field(
        default=2000,
        metadata={"help": "training examples from which classes, or n-grams of captions, are counted; 0 for all"},
    )
    shown_samples: int = field(default=2, metadata={"help": "answers printed beside their rewards at each log line"})

    def __post_init__(self):
        self.components = as_dict(self.components, "components")
        if self.samples < 2:
            raise ConfigError(
                f"samples={self.samples}: the baseline of an answer is the mean reward of the others: 2 or more"
            )
        if not self.temperature > 0 or self.top_k < 0:
            raise ConfigError("temperature is above 0, and top_k 0 or a number of tokens")
        if self.top_k == 1:
            raise ConfigError("top_k=1: all samples would be the greedy answer, and nothing would be learned")
        for key in ("kl", "confidence_weight", "reward_examples", "shown_samples"):
            if getattr(self, key) < 0:
                raise ConfigError(f"{key}={getattr(self, key)}: it is 0 or more")


@dataclass
class RewardRun(RunArguments):
    """A run whose first validation is that of the start, which best weights must beat."""

    eval_on_start: bool = field(default=True, metadata={"help": "validate the start too"})


# option of a transfer: value that it has to have, and why
FIXED: dict[str, tuple[Any, str]] = {
    "pack_length": (None, "sampled answers are not packed"),
    "label_smoothing": (None, "the loss is of the sampled tokens alone"),
    "loss_on_prefix": (False, "the loss is of the sampled tokens alone"),
    "prefix_attention": (None, "sampling and training read the prompt as the checkpoint does"),
}


def refuse_what_cannot_work(transfer: Any, mix: Any, run: RunArguments) -> None:
    """Check options of a transfer that this stage shares its arguments with.

    Raises:
        ConfigError: an option has no meaning here.
    """
    for key, (value, reason) in FIXED.items():
        if getattr(transfer, key) != value:
            raise ConfigError(f"{key}: {reason}; leave it out")
    if transfer.feature_cache == "on":
        raise ConfigError("feature_cache: an image is encoded once for all its samples; leave it out")
    if mix.mix:
        raise ConfigError("mix: rewards are of one task: give its source and task, or --data and --kind")
    if run.halve_on_out_of_memory:
        raise ConfigError(
            "halve_on_out_of_memory: batches of samples cannot be halved: lower per_device_train_batch_size or samples"
        )
    if run.loss_spike:
        raise ConfigError("loss_spike: the loss is around 0, and has no usual value; leave it out")
