"""Questions to a trainer, answered by experiment: what it feeds the model is changed, and what moves is looked at.

A program's file gives `ask` two functions. `build(case)` makes its trainer as its users do, and `load(folder, case)`
the model that they would use after training. `ask` prints the answers as one line of JSON. It runs in the program's
own environment, so it needs PyTorch, Transformers and Accelerate only, of any release.
"""

import argparse
import json
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from kinds import Kinds

# a hidden state that moves by less has not moved
STILL = 1e-5
# of losses and gradients that differ in the order of their sums
ALIKE = 1e-4
STEPS, HALF, RECORDS = 4, 2, 3


@dataclass(frozen=True)
class Case:
    """A training run: the checkpoint, the folder that it writes, and its batches."""

    model: str
    output: str
    batch: int = RECORDS
    accumulation: int = 1
    steps: int = 1
    save_steps: int | None = None

    def arguments(self) -> dict[str, Any]:
        """Fields of `TrainingArguments`."""
        made: dict[str, Any] = {"output_dir": self.output, "per_device_train_batch_size": self.batch}
        made |= {"gradient_accumulation_steps": self.accumulation, "max_steps": self.steps, "learning_rate": 1e-2}
        made |= {"save_strategy": "steps" if self.save_steps else "no", "save_steps": self.save_steps or 500}
        made |= {"logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True}
        return made | {"seed": 0}


Build = Callable[[Case], Any]
Load = Callable[[str, Case], Any]


@contextmanager
def watched(model: Any) -> Iterator[list[torch.Tensor]]:
    """The text model's last hidden states, float[B, L, D], of every call; they keep their gradients."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        if hidden.requires_grad:
            hidden.retain_grad()
        seen.append(hidden)

    found = [module for module in model.modules() if re.fullmatch(r"Gemma\d?Model", type(module).__name__)]
    handle = found[0].register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def batches(trainer: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """What the trainer's own loop takes from its loader: a batch, and the number of its targets."""
    loader = iter(trainer.get_train_dataloader())
    for _ in range(RECORDS // trainer.args.per_device_train_batch_size):
        (batch,), items = trainer.get_batch_samples(loader, 1, trainer.args.device)
        yield dict(batch), items


def step(trainer: Any, batch: dict[str, Any], items: Any) -> tuple[float, torch.Tensor, torch.Tensor]:
    """A training step without the optimizer: loss, hidden states and their gradients."""
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model
    model.train()
    model.zero_grad(set_to_none=True)
    copied = {key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()}
    with watched(model) as seen:
        loss = trainer.training_step(model, copied, items)
    grads = seen[0].grad
    assert grads is not None
    return float(loss), seen[0].detach(), grads.detach()


def moved(trainer: Any, batch: dict[str, Any], items: Any, row: int, place: int, token: int) -> torch.Tensor:
    """bool[L]: the positions of a row whose hidden states move when one token of it is another."""
    _, before, _ = step(trainer, batch, items)
    changed = batch["input_ids"].clone()
    changed[row, place] = token
    _, after, _ = step(trainer, batch | {"input_ids": changed}, items)
    return (after - before)[row].abs().amax(-1) > STILL


def sees_future(trainer: Any, kinds: Kinds) -> bool:
    """Whether the earlier tokens of an answer move when its last one is another."""
    leaks = False
    for batch, items in batches(trainer):
        for row, tokens in enumerate(batch["input_ids"].tolist()):
            answer = kinds.places(tokens, "answer", "end")
            move = moved(trainer, batch, items, row, answer[-1], kinds.other(tokens[answer[-1]], "answer"))
            leaks = leaks or bool(move[answer[:-1]].any())
    return leaks


def prefix_attention(trainer: Any, kinds: Kinds) -> dict[str, bool]:
    """Whether the first image token sees the last one, the first word of the prompt the last one, and the image it."""
    batch, items = next(batches(trainer))
    row = max(range(RECORDS), key=lambda row: len(kinds.places(batch["input_ids"][row].tolist(), "prompt")))
    tokens = batch["input_ids"][row].tolist()
    words, image = kinds.places(tokens, "prompt"), kinds.places(tokens, "image")
    move = moved(trainer, batch, items, row, words[-1], kinds.other(tokens[words[-1]], "prompt"))
    found = {"the prompt sees the prompt": bool(move[words[0]]), "the image sees the prompt": bool(move[image[0]])}
    _, before, _ = step(trainer, batch, items)
    with other_last_patch(trainer.model):
        _, after, _ = step(trainer, batch, items)
    found["the image sees the image"] = bool((after - before)[row, image[0]].abs().max() > STILL)
    return found


@contextmanager
def other_last_patch(model: Any) -> Iterator[None]:
    """The projector's last image token is another one."""
    found = [module for name, module in model.named_modules() if name.endswith("multi_modal_projector")]

    def change(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        shift = torch.zeros_like(output)
        shift[:, -1] = 1.0
        return output + shift

    handle = found[0].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def loss_kind(trainer: Any, kinds: Kinds) -> dict[str, Any]:
    """Which tokens are predicted, as the gradients tell, and which mean of their losses the loss is."""
    batch, items = next(batches(trainer))
    value, hidden, grads = step(trainer, batch, items)
    trained = grads.abs().amax(-1) > 0  # [B, L]
    head = trainer.model.get_output_embeddings().weight.detach()
    targets = batch["input_ids"][:, 1:]
    logits = (hidden[:, :-1].float() @ head.float().T).log_softmax(-1)
    losses = -logits.gather(-1, targets[..., None])[..., 0]  # [B, L - 1]
    chosen = trained[:, :-1]
    means = [float(row[keep].mean()) for row, keep in zip(losses, chosen)]
    found: dict[str, Any] = {"loss": value, "mean of examples": sum(means) / len(means)}
    found["mean of tokens"] = float(losses[chosen].mean())
    found["predicts"] = sorted({kinds.of(int(token)) for token in targets[chosen]})
    found["behind the end"] = bool(trained[:, -1].any())
    found["kind"] = "another"
    for name in ("mean of examples", "mean of tokens"):
        if abs(value / found[name] - 1) < ALIKE:
            found["kind"] = name
    return found


def logged(trainer: Any, name: str = "loss") -> list[float]:
    """A number of each step of the trainer's log."""
    return [float(row[name]) for row in trainer.state.log_history if name in row and "loss" in row]


def resumes(build: Build, case: Case) -> dict[str, Any]:
    """A run of four steps, and one that goes on from its second: their losses and last weights."""
    whole = build(replace(case, output=f"{case.output}/whole", batch=1, steps=STEPS, save_steps=HALF))
    whole.train()
    saved = Path(case.output, "whole", f"checkpoint-{HALF}")
    shutil.copytree(saved, Path(case.output, "resumed", saved.name))
    second = build(replace(case, output=f"{case.output}/resumed", batch=1, steps=STEPS, save_steps=HALF))
    second.train(resume_from_checkpoint=f"{case.output}/resumed/{saved.name}")
    losses = logged(whole)[HALF:], logged(second)[-HALF:]
    theirs = dict(second.model.named_parameters())
    far = max(float((theirs[name] - one).detach().abs().max()) for name, one in whole.model.named_parameters())
    same = all(abs(a - b) <= ALIKE * abs(a) for a, b in zip(*losses)) and far < ALIKE
    return {"same": same, "uninterrupted": losses[0], "resumed": losses[1], "largest difference of weights": far}


def accumulates(build: Build, case: Case) -> dict[str, Any]:
    """One update of three examples, at once and one at a time: loss and gradient norm."""
    found: dict[str, Any] = {}
    for name, batch in (("1 x 3", RECORDS), ("3 x 1", 1)):
        options: dict[str, Any] = {"batch": batch, "accumulation": RECORDS // batch}
        trainer = build(replace(case, output=f"{case.output}/accumulated-{batch}", **options))
        trainer.train()
        found[name] = {"loss": logged(trainer)[0], "norm": logged(trainer, "grad_norm")[0]}
    one, other = found.values()
    found["same"] = all(abs(one[key] / other[key] - 1) < 1e-3 for key in one)
    return found


def loads_back(build: Build, load: Load, case: Case) -> dict[str, Any]:
    """After two steps and `save_model`: logits of the trained model and of the loaded one."""
    case = replace(case, output=f"{case.output}/saved", steps=2)
    trainer = build(case)
    batch, _ = next(batches(trainer))
    keys = ("input_ids", "pixel_values", "attention_mask", "token_type_ids")
    inputs = {key: batch[key] for key in keys if key in batch}
    start = logits_of(trainer.model, inputs)
    trainer.train()
    trainer.save_model(f"{case.output}/final")
    trained, loaded = logits_of(trainer.model, inputs), logits_of(load(f"{case.output}/final", case), inputs)
    far = float((loaded - trained).abs().max())
    return {"same": far < ALIKE, "largest difference": far, "moved by training": float((trained - start).abs().max())}


def logits_of(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """float[B, L, V], in evaluation mode."""
    with torch.no_grad():
        return model.eval()(**inputs).logits


def resident(field: str) -> float:
    """Megabytes of `VmRSS`, or since the last reset `VmHWM`, of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**10


def memory(build: Build, case: Case) -> dict[str, float]:
    """Peak megabytes above the model of a forward and backward pass, the batch and the gradients included."""
    trainer = build(case)
    batch, items = next(batches(trainer))
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer.training_step(trainer.model, batch, items)
    return {"megabytes": resident("VmHWM") - before, "loss": float(loss)}


def one_line(error: BaseException) -> str:
    """Its kind and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def attempt(question: Callable[[], Any]) -> Any:
    """The answer, or why there is none."""
    try:
        return question()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"error": one_line(error)}


def answers(build: Build, load: Load, case: Case) -> dict[str, Any]:
    """Every question but that of memory."""
    kinds = Kinds.of_folder(case.model)
    trainer = attempt(lambda: build(replace(case, output=f"{case.output}/batch")))
    if not isinstance(trainer, dict):
        first = attempt(lambda: step(trainer, *next(batches(trainer))))
        trainer = first if isinstance(first, dict) else trainer
    if isinstance(trainer, dict):
        return trainer
    single = replace(case, output=f"{case.output}/single", batch=1, steps=RECORDS)
    return {
        "future": attempt(lambda: sees_future(trainer, kinds)),
        "future alone": attempt(lambda: sees_future(build(single), kinds)),
        "prefix": attempt(lambda: prefix_attention(trainer, kinds)),
        "loss": attempt(lambda: loss_kind(trainer, kinds)),
        "resume": attempt(lambda: resumes(build, case)),
        "accumulation": attempt(lambda: accumulates(build, case)),
        "saved": attempt(lambda: loads_back(build, load, case)),
    }


def versions(packages: list[str]) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def ask(variants: dict[str, tuple[Build, Load]], packages: list[str]) -> None:
    """Answer for the variant that the command line names, and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=list(variants), default=next(iter(variants)))
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--memory", action="store_true", help="measure memory, and nothing else")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    build, load = variants[options.variant]
    case = Case(options.model, options.output)
    if options.memory:
        found = {"memory": attempt(lambda: memory(build, case))}
    else:
        found = answers(build, load, case) | {"versions": versions(packages)}
    print("\n" + json.dumps(found), flush=True)
