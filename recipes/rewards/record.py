"""Rewards of a run: values of the log, sampled answers beside their rewards, and warnings of no gradient."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from openpali.data.example import Example
from openpali.recipes.rewards.arguments import RewardArguments
from openpali.recipes.rewards.parts import RewardParts
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.progress import LoggedValues, format_score, read_log
from openpali.recipes.training.validation import shown

SAMPLES_FILE = "samples.jsonl"
REWARD, EQUAL = "reward", 1e-9


class Sampled(NamedTuple):
    """What a batch of a step gave.

    Attributes:
        step: number of the step, from 0.
        examples: B of them.
        texts: answers, B * K.
        parts: of the reward of each answer, and `reward`.
        measured: sums over the batch by name.
    """

    step: int
    examples: Sequence[Example]
    texts: list[str]
    parts: dict[str, list[float]]
    measured: dict[str, float]


class RewardLog(LoggedValues):
    """Logs rewards over all processes since the last log line, and some answers beside their rewards.

    Attributes:
        sums: by name, of this process.
        last: the first prompt of the latest batch with its answers.
    """

    def __init__(self, parts: RewardParts, args: RewardArguments, run: RunArguments) -> None:
        self.parts, self.args, self.run = parts, args, run
        self.sums: Counter[str] = Counter()
        self.last: dict[str, Any] = {}
        self.warned: set[str] = set()

    def add(self, sampled: Sampled, tokens: Sequence[Sequence[int]]) -> None:
        """Count a batch; `tokens`: of each answer."""
        count, samples = len(sampled.texts), self.args.samples
        self.sums.update({"answers": count, "prompts": len(sampled.examples), "tokens": sum(map(len, tokens))})
        for name, values in sampled.parts.items():
            self.sums.update({name: sum(values), f"{name}_squares": sum(value * value for value in values)})
        self.sums.update(sampled.measured)
        groups = [sampled.parts[REWARD][i : i + samples] for i in range(0, count, samples)]
        flat = [group for group in groups if max(group) - min(group) < EQUAL]
        alike = [len(set(sampled.texts[i : i + samples])) == 1 for i in range(0, count, samples)]
        self.sums.update({"flat": len(flat), "zero": sum(group[0] == 0 for group in flat), "alike": sum(alike)})
        first = sampled.examples[0]
        answers = [
            {"text": sampled.texts[i]} | {name: round(values[i], 6) for name, values in sampled.parts.items()}
            for i in range(samples)
        ]
        about = {"id": first.id, "prompt": first.prefix, "references": list(first.references or (first.suffix,))}
        self.last = about | {"answers": answers}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove samples from after the checkpoint that a resumed run starts from."""
        if state.is_world_process_zero:
            path = self.run.folder / SAMPLES_FILE
            kept = [row for row in read_log(path) if row["step"] <= state.global_step]
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")

    def log_values(self, state: TrainerState) -> dict[str, float]:
        """Means and spreads of the rewards; some answers go to `samples.jsonl` and the terminal."""
        sums = self.summed()
        self.sums.clear()
        row = self.means(sums)
        if state.is_world_process_zero:
            with (self.run.folder / SAMPLES_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step} | self.last, ensure_ascii=False) + "\n")
        self.show(state.global_step, row)
        self.warn(state.global_step, sums)
        return row

    def summed(self) -> dict[str, float]:
        """Sums over all processes."""
        names = sorted(self.sums)
        values = torch.tensor([self.sums[name] for name in names], dtype=torch.float64)
        if self.run.world_size > 1:
            values = values.to(self.run.device)
            torch.distributed.all_reduce(values)
        return dict(zip(names, values.tolist()))

    def means(self, sums: dict[str, float]) -> dict[str, float]:
        """Mean and spread (standard deviation over all answers) of the reward and of each part, and so on."""
        answers, row = sums["answers"], {}
        for name in (REWARD, *(name for name in ("score", "match", "duplicates", "length") if name in sums)):
            mean = sums[name] / answers
            row |= {name: mean, f"{name}_std": max(sums[f"{name}_squares"] / answers - mean**2, 0.0) ** 0.5}
        row |= {"flat": sums["flat"] / sums["prompts"], "answer_tokens": sums["tokens"] / answers}
        if "kl" in sums:
            row["kl"] = sums["kl"] / sums["batches"]
        if sums.get("boxes"):
            row |= {name: sums[name] / sums["boxes"] for name in ("iou", "confidence")}
        return row

    def show(self, step: int, row: dict[str, float]) -> None:
        """Print the means, and the best and worst of some answers."""
        spread = {name: value for name, value in row.items() if name.endswith("_std")}
        words = [
            f"{name} {format_score(value)}" + (f" ± {spread[f'{name}_std']:.2g}" if f"{name}_std" in spread else "")
            for name, value in row.items()
            if name not in spread
        ]
        self.run.say(f"step {step}  rewards  " + "  ".join(words))
        if not self.args.shown_samples:
            return
        ranked = sorted(self.last["answers"], key=lambda one: -one[REWARD])
        rest = ranked[max(1, len(ranked) - self.args.shown_samples + 1) :]
        for one in [ranked[0], *(rest if self.args.shown_samples > 1 else [])]:
            self.run.say(f"  {shown(self.last['prompt'])}  sampled {shown(one['text'])}  reward {one[REWARD]:.3f}")

    def warn(self, step: int, sums: dict[str, float]) -> None:
        """Say, once for each reason, that since the last line all answers to a prompt had the same reward."""
        prompts, reason = sums["prompts"], ""
        if sums["flat"] == prompts and sums["alike"] == prompts:
            reason = "all samples are alike: raise the temperature, or the task is learned"
        elif sums["zero"] == prompts:
            reason = "all are 0: the model must answer some prompts by transfer first, or needs more samples"
        elif sums["flat"] == prompts:
            reason = "the reward does not tell them apart: choose other components"
        if reason and reason not in self.warned:
            self.warned.add(reason)
            self.run.say(
                f"Warning: at step {step} the samples of each of {prompts:.0f} prompts have equal rewards, which gives"
                f" no gradient; {reason}."
            )
        lost = "no sampled box has a confidence: first train with transfer and task.confidence: true"
        if "boxes" in sums and not sums["boxes"] and lost not in self.warned:
            self.warned.add(lost)
            self.run.say(f"Warning: at step {step} {lost}.")
