"""Stage 4: tune a fine-tuned checkpoint on the reward of its own answers, by REINFORCE (arXiv 2302.08242).

    openpali reward --config reward/detect
    openpali reward --model outputs/my-transfer --data my-data --kind detect
    accelerate launch --num_processes 8 -m openpali.recipes.reward --config reward/detect

Several answers to each prompt are sampled and scored by the task's own metric; each becomes likelier by as much as its
reward is above the mean of the others. It starts from a transfer on the same task, any PaLI-3 or PaliGemma checkpoint;
`--peft lora`, `qlora` or `dora` trains adapters. Data, tasks and validation are those of `transfer`.
"""

import sys
from typing import Any

from transformers import set_seed

from openpali.data.collator import Collator
from openpali.data.custom.dataset import read_custom
from openpali.data.files.config import ConfigError, as_dict
from openpali.recipes import transfer
from openpali.recipes.custom_data.data_check import check_data
from openpali.recipes.custom_data.defaults import CustomDataArguments, custom_keys
from openpali.recipes.publishing.card import write_card
from openpali.recipes.rewards.arguments import RewardArguments, RewardRun, refuse_what_cannot_work
from openpali.recipes.rewards.parts import make_parts
from openpali.recipes.rewards.sequences import PromptCollator
from openpali.recipes.rewards.tuning import RewardTuning
from openpali.recipes.run.command_line import command, expand_mappings, parse
from openpali.recipes.run.datasets import keep_mask_tokenizer, report_skipped
from openpali.recipes.run.resume import open_run
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.stages.answer_length import fit_answer_lengths
from openpali.recipes.stages.transfer_tasks import MixArguments
from openpali.recipes.start.adapters import AdapterArguments, check_start
from openpali.recipes.start.resized_checkpoint import load_resized, resolution_keys
from openpali.recipes.training.best_weights import read_best
from openpali.recipes.training.progress import format_score, read_log
from openpali.recipes.training.trainer import run_length, run_training
from openpali.recipes.training.validation import Validation, final_report

CLASSES: list[type] = [RewardArguments, transfer.TransferArguments, CustomDataArguments, MixArguments]
CLASSES += [AdapterArguments, RewardRun]
# of a transfer's learning rate, on custom data
RATE = 0.1


@command
def main(argv: list[str] | None = None) -> None:
    """Tune once."""
    line = list(sys.argv[1:] if argv is None else argv)
    read_custom.cache_clear()
    tune(*configure(line))


def configure(line: list[str]) -> tuple[Any, ...]:
    """Arguments of a command line; with custom data those of a transfer, at a tenth of its learning rate.

    Raises:
        ConfigError: a value is wrong, or an option has no meaning here.
    """
    options = {word.partition("=")[0] for word in line}
    if "--config" not in options and options & {"--kind", "--data"}:
        line = ["--config", "reward/custom", *line]
    line = expand_mappings(line, ("source", "task", "components"))
    defaults, overrides = custom_keys(CLASSES, line, resolution_keys(CLASSES, line))
    if "learning_rate" in defaults:
        defaults["learning_rate"] *= RATE
    built = parse(CLASSES, line, defaults, overrides)
    refuse_what_cannot_work(built[1], built[3], built[-1])
    if not (built[1].source and built[1].task):
        raise ConfigError("there is no data: give --data and --kind, or source and task in the configuration")
    return built


def tune(
    rewards: RewardArguments,
    args: transfer.TransferArguments,
    custom: CustomDataArguments,
    mix: MixArguments,
    adapters: AdapterArguments,
    run: RewardRun,
) -> None:
    """Sample, score and train; keep the best weights by the task's metric, and write a report."""
    source, task = as_dict(args.source, "source"), as_dict(args.task, "task")
    if custom.kind:
        strict = not custom.train_despite_errors
        check_data(source, task, transfer.image_size(args), run, strict, limits=transfer.text_limits(args))
    checkpoint = None if custom.check_only else open_run(run, transfer.run_inputs(args, {}))
    # once; and without later validations the start would be all that there is to keep
    run.eval_on_start = run.eval_on_start and bool(run.eval_steps) and checkpoint is None
    tasks = transfer.load_tasks(args, mix, custom, run, {})
    folder = check_start(str(args.model))
    transfer.save_examples(tasks, folder, args, run)
    if custom.check_only:
        return

    set_seed(run.seed)
    processor, model = load_resized(folder, args.resolution, adapters, args.dtype, run)
    fit_answer_lengths(tasks, processor, run)
    transfer.set_regularisation(model, args)
    transfer.set_attention(model, processor, args, run)
    ((name, data),) = tasks.items()
    parts = make_parts(data.task, as_dict(rewards.components, "components"), data.train, rewards.reward_examples, run)
    transfer.limit_batch_size(run, run_length(data.train))
    options: dict[str, Any] = {"max_length": args.max_length, "exact_images": args.exact_images}
    side = None if model.config.is_encoder_decoder else "left"
    prompts = PromptCollator(Collator(processor, **options, generation=True, padding_side=side))
    tuning = RewardTuning(model, processor, data.task, parts, rewards, run)

    scoring = {"processor": processor, "batch_size": run.per_device_eval_batch_size, "num_beams": args.num_beams}
    scoring["box_scores"] = tuning.confidences is not None
    plain = Collator(processor, args.max_length, args.suffix_max_length, exact_images=args.exact_images)
    watched: dict[str, Any] = {"limit": run.eval_limit, "collators": {name: plain}, "say": run.say}
    validation = Validation({name: data.validation}, **watched, examples=transfer.SHOWN, **scoring)
    metric = validation.chief_metric()
    watch: dict[str, Any] = {"loss": tuning, "resume_from": checkpoint, "callbacks": [tuning, tuning.log]}
    run_training(model, processor, run, data.train, prompts, validation, metric, **watch)

    say_gain(metric, run)
    test = Validation({name: data.test}, limit=args.test_limit, **scoring)
    settings = {"checkpoint": run.folder, "started from": args.model, "task": args.task, "source": args.source}
    keep_mask_tokenizer([data.task], run)
    results = final_report(model, test, run, f"Reward tuning on {name}", settings | {"reward": parts.weights})
    write_card(run, results)
    report_skipped(run)


def say_gain(metric: str, run: RewardRun) -> None:
    """Print the metric of validation before the first step, and that of the best weights."""
    best = read_best(run.folder)
    rows = [row for row in read_log(run.folder / LOG_FILE) if f"eval_{metric}" in row]
    if best is None or not rows or rows[0]["step"]:
        return
    scores = {row["step"]: row[f"eval_{metric}"] for row in rows}
    before, after = (format_score(scores.get(step, float("nan"))) for step in (0, best["step"]))
    run.say(f"Validation {metric}: {before} before, {after} after step {best['step']}, whose weights are kept")


if __name__ == "__main__":
    main()
