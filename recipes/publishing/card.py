"""The model card of a run: README.md in its folder, with the metadata that the Hub reads."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.report.values import format_interval, format_metric_name, format_value
from openpali.modeling.configuration_paligemma import PALIGEMMA_TYPES
from openpali.recipes.publishing.facts import SETTINGS, Facts, data_name, on_hub, read_facts
from openpali.recipes.publishing.usage import hub_task, usage
from openpali.recipes.run.arguments import RunArguments

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.j2")
# the hash tells a card that was edited from one that may be replaced
_MARK = re.compile(r"\n<!-- openpali wrote this card: (\w+) -->\n\Z")
SAMPLES, LONGEST = 3, 200  # letters of a text in a table
GEMMA = "gemma"


def write_card(run: RunArguments, results: Sequence[TaskResult] = ()) -> None:
    """Write the card of a finished run into its folder, unless somebody has edited the one that is there.

    Args:
        run: finished; its model and its metrics are in its folder.
        results: of its tests, for the sample predictions.
    """
    if run.process_index > 0:
        return
    path = run.folder / CARD_FILE
    if path.exists() and not is_ours(path.read_text("utf-8", errors="replace")):
        run.say(f"{path} was edited and is kept; remove it, and the same command writes the card of this run")
        return
    config = run.resolved | {key: vars(run)[key] for key in SETTINGS if key in vars(run)}
    config["examples_per_step"] = run.examples_per_step
    path.write_text(marked(make_card(read_facts(run.folder, config), results)), "utf-8")
    run.say(f"Model card: {path}")


def is_ours(text: str) -> bool:
    """Whether a card is as openpali wrote it."""
    found = _MARK.search(text)
    return found is not None and found[1] == digest(text[: found.start()])


def marked(text: str) -> str:
    """A card with the comment by which `is_ours` knows it."""
    text = unmarked(text)
    return f"{text}\n<!-- openpali wrote this card: {digest(text)} -->\n"


def unmarked(text: str) -> str:
    """A card without the comment."""
    return _MARK.sub("", text).rstrip() + "\n"


def digest(text: str) -> str:
    """A hash of a text, whatever its line ends are."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def make_card(facts: Facts, results: Sequence[TaskResult] = ()) -> str:
    """The text of a card, with its metadata in front."""
    rows = [row for result in results for row in result.predictions[: -(-SAMPLES // len(results))]][:SAMPLES]
    prompt = str(rows[0]["prefix"]) if rows else ""
    data = card_data(facts, prompt)
    how = usage(facts, prompt, answer_length(facts))
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=data.model_name,
        introduction=introduction(facts),
        remarks=remarks(facts),
        prompt=prompt.replace("`", "'"),
        code=how.code,
        commands=how.commands,
        note=how.note,
        scores=[score_table(name, one) for name, one in facts.scores().items()],
        intervals=any(one.get("intervals") for one in facts.scores().values()),
        best=describe_best(facts),
        samples=[[cell(row["prefix"]), cell(row["text"]), cell(row["references"][0])] for row in rows],
        data=", ".join(describe_data(source) for source in facts.sources()),
        settings=[(name, cell(value)) for name, value in facts.settings().items()],
        curve=[[number(row[key]) for key in ("step", "loss", "validation")] for row in facts.curve()],
        versions={name: version(name) for name in ("openpali", "transformers", "torch")},
        credits=facts.credits(),
    )
    return str(card)


def card_data(facts: Facts, prompt: str) -> ModelCardData:
    """The metadata: what the Hub filters by, and shows beside the card."""
    bases = [name for name in facts.starts() if on_hub(name)]
    several: dict[str, Any] = {}
    if len(bases) == 1 and len(facts.starts()) == 1:
        several["base_model_relation"] = "adapter" if facts.adapters else "finetune"
    if prompt:
        several["widget"] = [{"text": prompt}]
    sets = [name for name, kind in map(data_name, facts.sources()) if kind == "a dataset of the Hub"]
    results = eval_results(facts)
    return ModelCardData(
        base_model=bases or None,
        datasets=sets or None,
        eval_results=results or None,
        language=facts.languages() or None,
        library_name="peft" if facts.adapters else "transformers",
        license=GEMMA if facts.model_type in PALIGEMMA_TYPES else None,
        metrics=list(dict.fromkeys(one.metric_type for one in results)) or None,
        model_name=facts.folder.resolve().name,
        pipeline_tag=hub_task(facts),
        tags=["openpali", *([facts.model_type] if facts.model_type else [])],
        **several,
    )


def eval_results(facts: Facts) -> list[EvalResult]:
    """The scores for `model-index`: shares between 0 and 1, and CIDEr times 100; undefined ones are left out."""
    sources = facts.sources()
    name, kind = data_name(sources[0]) if len(sources) == 1 else ("several", "data")
    common: dict[str, Any] = {"task_type": hub_task(facts) or "feature-extraction"}
    common["dataset_type"] = name if kind == "a dataset of the Hub" else re.sub(r"[^\w.-]+", "-", name)
    found = []
    for task, one in facts.scores().items():
        place: dict[str, Any] = {"dataset_name": f"{name}: {task}", "dataset_config": task, "dataset_split": "test"}
        for key, value in one["metrics"].items():
            if key != "examples" and value is not None:
                found.append(EvalResult(metric_type=key, metric_value=round(value, 4), **common, **place))
    best = facts.best()
    if best and not found:
        value = round(best["value"], 4)
        common |= {"dataset_name": name, "dataset_split": "validation"}
        found.append(EvalResult(metric_type=best["metric"], metric_value=value, **common))
    return found


def introduction(facts: Facts) -> str:
    """What the model is, in a sentence or two."""
    kinds = {"pali3": "PaLI-3", "paligemma": "PaliGemma", "siglip": "SigLIP", "siglip2": "SigLIP 2 (NaFlex)"}
    kinds |= {"mask_vqvae": "mask tokenizer (VQ-VAE)", "paligemma_naflex": "PaliGemma with images of any aspect ratio"}
    name = kinds.get(facts.model_type, facts.model_type or "vision-language model")
    starts = [f"[{one}](https://huggingface.co/{one})" if on_hub(one) else local_name(one) for one in facts.starts()]
    if facts.adapters:
        kind = str(facts.config.get("peft") or "lora").lower()
        kind = {"lora": "LoRA", "qlora": "QLoRA", "dora": "DoRA"}.get(kind, kind)
        base = f" of {starts[0]}" if starts else ""
        return f"{kind} adapters for the {name}{base}."
    trained = f", trained from {' and '.join(starts)}" if starts else ""
    return f"A {name}{trained}."


def local_name(path: str) -> str:
    """A checkpoint that is not on the Hub, without its path."""
    return f"a checkpoint of its author (`{Path(path).name}`)"


def remarks(facts: Facts) -> list[str]:
    """What somebody must know before they use the model."""
    if facts.model_type not in PALIGEMMA_TYPES:
        return []
    return [
        "[Gemma's terms of use](https://ai.google.dev/gemma/terms) hold for models that are trained from PaliGemma."
    ]


def describe_data(source: Mapping[str, Any]) -> str:
    """Name and kind of a source."""
    name, kind = data_name(source)
    return f"`{name}` ({kind})"


def score_table(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Heading and rows of the metrics of a task."""
    metrics, ends = task["metrics"], task.get("intervals") or {}
    blank, rows = task.get("blank_images") or {}, []
    for key, value in metrics.items():
        if key != "examples":
            interval = format_interval(tuple(ends[key]), key) if key in ends else ""
            rows.append([format_metric_name(key), shown(value, key), interval, shown(blank.get(key), key)])
    examples = metrics.get("examples")
    return {"heading": f"{name}" + (f", {examples:,.0f} test examples" if examples else ""), "rows": rows}


def shown(value: float | None, key: str) -> str:
    """A metric; nothing where it was not measured or is undefined."""
    return "" if value is None else format_value(value, key)


def describe_best(facts: Facts) -> str:
    """A sentence about the validation score of the best weights; empty where there is none."""
    best = facts.best()
    return f"Validation {best['metric']} {best['value']:.4g}, at step {best['step']:,}." if best else ""


def answer_length(facts: Facts) -> int:
    """`max_new_tokens` of the task."""
    task = facts.config.get("task")
    return int(task.get("max_new_tokens") or 64) if isinstance(task, dict) else 64


def cell(value: Any) -> str:
    """A value in a table: one line, short, with its signs of Markdown and HTML escaped."""
    value = value.value if isinstance(value, Enum) else value
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


def number(value: float | None) -> str:
    """A number in a table; nothing where there is none."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
