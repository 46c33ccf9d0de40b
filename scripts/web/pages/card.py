"""The card of a made set: README.md with its counts, its sources and licences, the models behind its labels, samples.

    python -m openpali.scripts.web.pages.card --made outputs/web

Counts are read from the index and the tables; for the samples one of the made shards is opened.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.compute as pc
from huggingface_hub import DatasetCard, DatasetCardData
from pyarrow import parquet

from openpali._version import __version__
from openpali.data.files.tar_shards import read_samples
from openpali.data.sources.webdataset import images_of
from openpali.eval.prompts.language_names import LANGUAGE_NAMES
from openpali.eval.report.drawing import draw_predictions
from openpali.modeling.user_errors import command
from openpali.recipes.publishing.card import cell, is_ours, marked
from openpali.scripts.web.pages.made_set import MadeSet
from openpali.scripts.web.pages.shown_samples import boxes_of, in_fixed_order

CARD = "README.md"
PICTURES = "card"
TEMPLATE = Path(__file__).with_name("card.md.j2")
SAMPLES, ROWS = 6, 20
# tasks of stage 1, and what a record needs for them
TASKS = {
    "`caption`, `splitcap`": "captions",
    "`ocr`": "words",
    "`detect`, `object_aware`": "objects",
    "`vq2a`, `question`": "questions",
}


def write_card(made: MadeSet) -> Path:
    """Write README.md and the pictures on it; a card that somebody has edited stays.

    Raises:
        NotMade: the run is not finished.
    """
    path = made.folder / CARD
    if path.exists() and not is_ours(path.read_text("utf-8", errors="replace")):
        print(f"{path} was edited and is kept; remove it, and the same command writes the card of this set")
        return path
    path.write_text(marked(make_card(made)), "utf-8")
    return path


def make_card(made: MadeSet) -> str:
    """The text of the card, with its metadata in front; its pictures are written."""
    counts, index = made.counts, count_index(made)
    languages = index["languages"]
    tasks = {"captions": index["captioned"], **index["labels"]}
    return str(
        DatasetCard.from_template(
            card_data(languages, counts["kept"], tasks),
            template_path=str(TEMPLATE),
            title=made.folder.resolve().name,
            counts=counts,
            shards=len(made.shards),
            languages=[
                (LANGUAGE_NAMES.get(key, ""), cell(key), f"{count:,}") for key, count in languages.most_common()
            ],
            tasks=[(name, f"{tasks.get(label, 0):,}") for name, label in TASKS.items()],
            steps=list(step_rows(made)),
            models=list(model_rows(made, index["models"])),
            hosts=most_common(index["hosts"]),
            licences=most_common(index["licences"]),
            samples=list(write_samples(made)),
            version=__version__,
        )
    )


def card_data(languages: Counter[str], kept: int, tasks: dict[str, int]) -> DatasetCardData:
    """The metadata that the Hub reads."""
    kinds = {"captions": "image-to-text", "questions": "visual-question-answering", "objects": "object-detection"}
    return DatasetCardData(
        language=sorted(language for language in languages if len(language) == 2) or None,
        task_categories=[kind for label, kind in kinds.items() if tasks.get(label)],
        size_categories=[size_category(kept)],
        tags=["openpali", "webdataset"],
    )


def size_category(kept: int) -> str:
    """A number of samples in the words of the Hub."""
    edges = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    edges += ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
    return next((name for edge, name in edges if kept < edge), "n>1B")


def count_index(made: MadeSet) -> dict[str, Any]:
    """Samples by language, label, model, host of the source, and licence; and samples with a caption."""
    found: dict[str, Any] = {key: Counter() for key in ("languages", "labels", "models", "hosts", "licences")}
    found["captioned"] = 0
    for path in made.index_files():
        table = parquet.read_table(path)
        for key in ("languages", "labels", "models"):
            found[key] += value_counts(pc.call_function("list_flatten", [table[key]]))
        found["captioned"] += sum(bool(own) for own in table["languages"].to_pylist())
        found["licences"] += value_counts(table["license"])
        for source, count in value_counts(table["source"]).items():
            found["hosts"][host(source)] += count
    return found


def value_counts(column: Any) -> Counter[str]:
    """How often each value is in a column."""
    return Counter({row["values"] or "": row["counts"] for row in column.value_counts().to_pylist()})


def host(source: str) -> str:
    """The host of an address; the source itself where it is no address."""
    try:
        return urlsplit(source).netloc or source
    except ValueError:
        # such as an unfinished IPv6 address
        return source


def most_common(counts: Counter[str]) -> list[tuple[str, str]]:
    """The most frequent values, what was not given, and how many have others."""
    named = Counter({key: count for key, count in counts.items() if key})
    rows = [(cell(key), f"{count:,}") for key, count in named.most_common(ROWS)]
    others = named.total() - sum(count for _, count in named.most_common(ROWS))
    rows += [("others", f"{others:,}")] if others else []
    return rows + ([("not given", f"{counts['']:,}")] if counts[""] else [])


def step_rows(made: MadeSet) -> list[tuple[str, ...]]:
    """Step, options, samples that reached it, dropped ones, and why."""
    options = made.settings["steps"]
    rows = []
    for row, given in zip(made.counts["steps"], options):
        dropped = row["dropped"]
        told = {
            key: value
            for key, value in given.items()
            if key not in ("name", "batch_size") and value not in (None, "", [], {})
        }
        reasons = "; ".join(f"{cell(reason)}: {count:,}" for reason, count in dropped.items())
        settings = "; ".join(f"{key} {cell(value)}" for key, value in told.items())
        rows.append((cell(given["name"]), settings, f"{row['reached']:,}", f"{sum(dropped.values()):,}", reasons))
    return rows


def model_rows(made: MadeSet, models: Counter[str]) -> list[tuple[str, str, str]]:
    """Model, the labels that it made, and kept samples with some of them."""
    labels: dict[str, set[str]] = {}
    for step in made.steps:
        for text in made.distinct(step, "models"):
            for label, model in (json.loads(text) if text else {}).items():
                labels.setdefault(model, set()).add(label)
    return [
        (cell(model), cell(", ".join(sorted(labels.get(model, ())))), f"{count:,}")
        for model, count in models.most_common()
    ]


def write_samples(made: MadeSet) -> list[dict[str, Any]]:
    """Pictures of samples with the most labels of one of the made shards, and their texts."""
    folder = made.folder / PICTURES
    folder.mkdir(exist_ok=True)
    name, keys = some_keys(made)
    rows = []
    for sample in read_samples(str(made.folder / "shards" / f"{name}.tar"), name) if keys else ():
        if sample.key not in keys:
            continue
        record, picture = json.loads(sample.members["json"]), f"{PICTURES}/{len(rows):02d}.jpg"
        draw_predictions(images_of(sample)["image"], boxes_of(record)).save(made.folder / picture, quality=85)
        rows.append(
            {"picture": picture, "key": cell(f"{name}:{sample.key}"), "lines": [cell(x) for x in lines_of(record)]}
        )
    return rows


def some_keys(made: MadeSet) -> tuple[str, set[str]]:
    """A made shard that is not empty, and keys of the samples in it that have the most labels."""
    for name in in_fixed_order(made.shards):
        rows = {row["key"]: row for row in parquet.read_table(made.index_file(name)).to_pylist()}
        order = in_fixed_order(rows)
        if order:
            return name, set(sorted(order, key=lambda key: -len(rows[key]["labels"]))[:SAMPLES])
    return "", set()


def lines_of(record: dict[str, Any]) -> list[str]:
    """Captions, words and questions of a record, as text."""
    captions = record.get("captions", {}).items()
    lines = [
        f"{language}: {text}"
        for language, texts in captions
        for text in ([texts] if isinstance(texts, str) else texts)
    ]
    if words := record.get("words"):
        lines.append("words: " + " ".join(word["text"] for word in words))
    return lines + [f"{one['question']} {one['answer']}" for one in record.get("questions") or ()]


@command("error", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Write the card and print where it is."""
    parser = argparse.ArgumentParser(prog="card", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--made", type=Path, required=True, help="output folder of openpali web")
    print(f"Card: {write_card(MadeSet(parser.parse_args(argv).made))}")


if __name__ == "__main__":
    main()
