"""A step of the tuning on rewards: sample answers, score them, and make the better ones likelier.

Shapes: `B` prompts, `K` samples of each, `N` answers that are trained, `L` tokens of a sequence, `T` of an answer.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.data.tasks import Task
from openpali.eval.answering.decoding import eval_mode
from openpali.eval.answering.load_model import adapter_parameters
from openpali.eval.answering.sampled_search import sample_answers, uniform_numbers
from openpali.eval.answering.sharded import is_sharded
from openpali.eval.prompts.other_models import find_adapter
from openpali.modeling.image_patches import IMAGE_INPUTS, encode_patches
from openpali.modeling.token_loss import IGNORE_INDEX
from openpali.recipes.features.cache import autocast_dtype
from openpali.recipes.rewards.arguments import RewardArguments
from openpali.recipes.rewards.parts import RewardParts
from openpali.recipes.rewards.record import RewardLog, Sampled
from openpali.recipes.rewards.reinforce import (
    advantages,
    confidence_targets,
    divergence,
    reinforce,
    soft_cross_entropy,
)
from openpali.recipes.rewards.sequences import EXAMPLES, ConfidenceTokens, answer_columns, repeated, training_rows
from openpali.recipes.run.arguments import RunArguments


class Answers(NamedTuple):
    """Sampled answers to the prompts of a batch.

    Attributes:
        tokens: of each of B * K answers.
        texts: of each.
        parts: of the reward of each, and `reward`.
    """

    tokens: list[list[int]]
    texts: list[str]
    parts: dict[str, list[float]]


class RewardTuning(TrainerCallback):
    """The loss of `run_training`; as a callback it learns the number of the step, which sampling depends on."""

    def __init__(
        self, model: Any, processor: Any, task: Task, parts: RewardParts, args: RewardArguments, run: RunArguments
    ) -> None:
        """Set up sampling and scoring.

        Args:
            model: at the start, which the divergence is measured from.
            processor: of the model.
            task: whose answers are sampled.
            parts: of their reward.
            args: options.
            run: its seed is that of the sampling.
        """
        self.processor, self.task, self.parts, self.args, self.run = processor, task, parts, args, run
        self.step, self.log = 0, RewardLog(parts, args, run)
        self.adapters = bool(adapter_parameters(model))
        self.start = copy.deepcopy(model).requires_grad_(False).eval() if args.kl and not self.adapters else None
        written = getattr(task, "confidence", False) and args.confidence_weight > 0
        self.confidences = ConfidenceTokens(processor.tokenizer) if written else None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the number of the step, from 0, also after resuming."""
        self.step = state.global_step

    def __call__(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss of a batch of prompts: the mean over its answers, each the sum over its tokens."""
        plain: Any = getattr(model, "module", model)
        if is_sharded(plain):
            raise ConfigError("rewards: FSDP and ZeRO-3 spread the weights, and sampling needs them whole: use DDP")
        prompts = dict(inputs)
        examples: list[Example] = prompts.pop(EXAMPLES)
        images = {name: prompts.pop(name) for name in IMAGE_INPUTS if name in prompts}
        features = self.encode(plain, images)
        fixed = {name: value.detach() for name, value in features.items()}
        answers = self.sample(plain, repeated(prompts, fixed, examples, self.args.samples), examples)
        rewards = torch.tensor(answers.parts["reward"]).view(len(examples), -1)  # [B, K]
        advantage = advantages(rewards, self.args.train_samples == "first").flatten()
        trained = self.trained_answers(advantage)
        rows = repeated(prompts, features, examples, self.args.samples // self.stride)
        tokens = [answers.tokens[i] for i in trained]
        config, pad = plain.config, self.processor.tokenizer.pad_token_id
        start: Any = getattr(config, "decoder_start_token_id", None)
        rows = training_rows(rows, tokens, config.is_encoder_decoder, pad, start)
        boxes = self.box_targets(answers, tokens, trained, examples)
        start_rows = self.start_rows(plain, rows, images, examples)
        loss, measured = self.loss(model, plain, rows, start_rows, advantage[trained].to(rows["labels"].device), boxes)
        self.log.add(Sampled(self.step, examples, answers.texts, answers.parts, measured), answers.tokens)
        return loss

    @property
    def stride(self) -> int:
        """One of how many answers is trained."""
        return self.args.samples if self.args.train_samples == "first" else 1

    def trained_answers(self, advantage: torch.Tensor) -> list[int]:
        """Numbers of the answers that are trained."""
        return list(range(0, len(advantage), self.stride))

    def encode(self, plain: Any, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Encode all images; empty without any.

        Returns:
            `image_features`: float[images, P, D], with a gradient where the encoder trains; `spatial_shapes`:
            int[images, 2], of images of any aspect ratio.
        """
        if not images:
            return {}
        encoder = plain.get_encoder(modality="image")
        trains = any(parameter.requires_grad for parameter in encoder.parameters())
        pixels, shapes = images["pixel_values"].to(plain.dtype), images.get("spatial_shapes")
        with self.autocast(), nullcontext() if trains else torch.no_grad():
            encoded: Any = encoder(pixel_values=pixels) if shapes is None else encode_patches(encoder, pixels, shapes)
        features: dict[str, torch.Tensor] = {"image_features": encoded.last_hidden_state}
        return features if shapes is None else features | {"spatial_shapes": shapes}

    def autocast(self) -> torch.autocast:
        """The context of the model's forward, for calls that the Trainer does not see."""
        dtype = autocast_dtype(self.run)
        return torch.autocast(self.run.device.type, dtype, enabled=dtype is not None)

    def sample(self, plain: Any, rows: dict[str, torch.Tensor], examples: Sequence[Example]) -> Answers:
        """Sample and score the answers; the numbers of each depend on seed, step and example alone."""
        args, every = self.args, [example for example in examples for _ in range(self.args.samples)]
        names = [f"{self.run.seed}-{self.step}-{one.id}-{number % args.samples}" for number, one in enumerate(every)]
        numbers = uniform_numbers(names, self.task.max_new_tokens)
        with self.autocast():
            tokens = sample_answers(plain, rows, numbers, args.temperature, args.top_k)
        read = find_adapter(plain, self.processor).read
        texts = [read(self.processor, torch.tensor(some), one)[0] for some, one in zip(tokens, every, strict=True)]
        return Answers(tokens, texts, self.parts.of(every, texts, [len(some) for some in tokens]))

    def box_targets(
        self, answers: Answers, tokens: list[list[int]], trained: list[int], examples: Sequence[Example]
    ) -> list[list[tuple[int, float]]]:
        """Of each trained answer the positions of confidences, and the IoU that their boxes reach."""
        if self.confidences is None:
            return [[] for _ in trained]
        reached = [self.parts.ious(examples[i // self.args.samples], answers.texts[i]) for i in trained]
        return [self.confidences.targets(*pair) for pair in zip(tokens, reached, strict=True)]

    def loss(
        self,
        model: nn.Module,
        plain: Any,
        rows: dict[str, torch.Tensor],
        start_rows: dict[str, torch.Tensor],
        advantage: torch.Tensor,
        boxes: list[list[tuple[int, float]]],
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of the trained answers, float[], and what was measured on the way.

        Args:
            model: which is trained, perhaps within DDP.
            plain: the model itself.
            rows: of `training_rows`.
            start_rows: of `start_rows`.
            advantage: float[N].
            boxes: of `box_targets`.
        """
        measured: dict[str, float] = {}
        rows, shares = self.with_soft_labels(rows, boxes)
        outputs: Any = model(**rows, token_losses=True, use_cache=False)
        decoder = plain.config.is_encoder_decoder
        losses = answer_columns(outputs.token_losses, rows, decoder)  # [N, L]
        written = (rows["labels"] != IGNORE_INDEX) & (shares < 0)
        total = reinforce(losses * written, advantage).sum()
        if self.args.kl:
            apart = divergence(losses * written, self.start_losses(plain, start_rows) * written).sum()
            total = total + self.args.kl * apart
            measured |= {"kl": apart.item() / len(advantage), "batches": 1.0}
        if self.confidences is not None:
            second = answer_columns(outputs.second_losses, rows, decoder)
            chosen = shares >= 0
            log_p = -torch.stack([second[chosen], losses[chosen]], dim=-1)  # [boxes, 2]
            soft = soft_cross_entropy(log_p, confidence_targets(shares[chosen])).sum()
            total = total + self.args.confidence_weight * soft
            measured |= {"boxes": float(chosen.sum()), "iou": float(shares[chosen].sum())}
            measured["confidence"] = float(log_p.detach()[:, 1].exp().sum())
        return total / len(advantage), measured

    def with_soft_labels(
        self, rows: dict[str, torch.Tensor], boxes: list[list[tuple[int, float]]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Rows whose labels at confidences are sure, with unsure as second labels; and the IoU of each confidence.

        Returns:
            The rows, and float[N, L], -1 where there is no confidence.
        """
        labels = rows["labels"].clone()
        shares = torch.full(labels.shape, -1.0, device=labels.device)
        if self.confidences is None:
            return rows, shares
        second = torch.full_like(labels, IGNORE_INDEX)
        begins = (labels != IGNORE_INDEX).int().argmax(1).tolist()
        for row, (begin, some) in enumerate(zip(begins, boxes, strict=True)):
            for position, iou in some:
                place = begin + position
                labels[row, place], second[row, place] = self.confidences.sure, self.confidences.unsure
                shares[row, place] = iou
        return rows | {"labels": labels, "second_labels": second}, shares

    def start_rows(
        self, plain: Any, rows: dict[str, torch.Tensor], images: dict[str, torch.Tensor], examples: Sequence[Example]
    ) -> dict[str, torch.Tensor]:
        """The rows with the images as the checkpoint of the start encodes them; empty where it is not asked."""
        if not self.args.kl:
            return {}
        found = {key: value.detach() for key, value in rows.items()}
        # a frozen encoder is still that of the start
        if images and rows["image_features"].requires_grad:
            start = plain if self.start is None else self.start.to(images["pixel_values"].device)
            with eval_mode(start), without_adapters(start, self.adapters):
                features = self.encode(start, images)
            found |= repeated({}, features, examples, self.args.samples // self.stride)
        return found

    def start_losses(self, plain: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """Losses of the same tokens by the checkpoint of the start, float[N, L]."""
        start = plain if self.start is None else self.start
        with eval_mode(start), without_adapters(start, self.adapters), self.autocast():
            losses = start(**rows, token_losses=True, use_cache=False, output_logits=False).token_losses
        return answer_columns(losses, rows, plain.config.is_encoder_decoder).clone()


@contextmanager
def without_adapters(model: Any, has_adapters: bool) -> Iterator[None]:
    """Context in which a model with adapters is its base."""
    if has_adapters:
        model.disable_adapters()
    try:
        yield
    finally:
        if has_adapters:
            model.enable_adapters()
