"""Checks of custom data before a model is trained on it.

Single records that cannot be used are left out and listed. A mistake in all of them (another box format, 1-based
category ids, an empty split) is an error, and nothing is trained.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, texts
from openpali.data.files.config import ConfigError
from openpali.recipes.custom_data.class_checks import class_counts, class_examples, similar_names
from openpali.recipes.custom_data.defaults import read_source, task_classes
from openpali.recipes.custom_data.duplicate_checks import exact_duplicates
from openpali.recipes.custom_data.finding import Finding
from openpali.recipes.custom_data.image_checks import orientation, uniform_images
from openpali.recipes.custom_data.record_checks import bad_records
from openpali.recipes.custom_data.region_checks import (
    box_format,
    category_ids,
    clipped_boxes,
    no_objects,
    segmentation_units,
    small_boxes,
)
from openpali.recipes.custom_data.score_checks import meaningless_scores
from openpali.recipes.custom_data.split_checks import empty_splits, usable_splits
from openpali.recipes.custom_data.text_checks import control_tokens
from openpali.recipes.custom_data.text_lengths import TextLimits, cut_texts, text_settings
from openpali.recipes.run.arguments import RunArguments

CHECK_FILE = "data_check.json"
# classes of a split that are printed
_CLASSES = 12


def check_data(
    source: dict[str, Any],
    task: dict[str, Any],
    resolution: int | None,
    run: RunArguments,
    strict: bool,
    name: str = "",
    limits: TextLimits | None = None,
) -> None:
    """Check the data, print the findings, and write them into the run's folder.

    Args:
        source: of the data.
        task: its prompts may name classes.
        resolution: side of the model's images in pixels.
        run: its folder takes `data_check.json`.
        strict: stop at errors.
        name: of one of several datasets, added to the file's name.
        limits: lengths of prompts and targets in tokens; not checked when None.

    Raises:
        ConfigError: there are errors.
    """
    data = read_source(source)
    findings = list(all_findings(data, task_classes(task, data), resolution, run.eval_limit))
    summary = summarise(data)
    if limits is not None:
        findings += cut_texts(data, task, limits)
        summary |= {"text_settings": text_settings(data, task, limits)}
    path = run.folder / (f"data_check-{name}.json" if name else CHECK_FILE)
    if run.process_index == 0:
        content = {"data": data.spec.path, "kind": data.spec.kind, **summary}
        content["findings"] = [asdict(finding) for finding in findings]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    run.say("\n".join(format_check(data, summary, findings)))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors and strict:
        more = f" ({len(errors) - 1} more errors above)" if len(errors) > 1 else ""
        rest = f"All findings are in {path}; --train_despite_errors true trains all the same."
        raise ConfigError(f"data: {errors[0].text}{more} {rest}")


def all_findings(
    data: CustomDataset,
    prompt_classes: Sequence[str] = (),
    resolution: int | None = None,
    eval_limit: int | None = None,
) -> Iterator[Finding]:
    """Findings of every check, errors of whole files first."""
    yield from (Finding("error", "file", mistake) for mistake in data.mistakes)
    if data.spec.kind in REGION_KINDS:
        turned = list(orientation(data))
        yield from turned
        # in the wrong orientation any box format may seem to fit
        if not any(finding.level == "error" for finding in turned):
            yield from box_format(data)
        yield from no_objects(data)
        yield from segmentation_units(data)
        yield from clipped_boxes(data)
        yield from category_ids(data)
        yield from small_boxes(data, resolution)
    yield from empty_splits(data)
    yield from meaningless_scores(data, eval_limit)
    yield from class_examples(data, prompt_classes)
    yield from similar_names(data)
    yield from uniform_images(data)
    yield from bad_records(data)
    yield from exact_duplicates(data)
    yield from control_tokens(data)
    yield from (Finding("note", "file", note) for note in data.notes)


def summarise(data: CustomDataset) -> dict[str, Any]:
    """Counts of each split, and sizes of the images."""
    counts, splits = class_counts(data), {}
    for split, rows in usable_splits(data).items():
        splits[split] = {"records": len(rows), "images": len({row.digest for row in rows})}
        if split in counts:
            splits[split]["classes"] = dict(counts[split].most_common())
        if data.spec.kind in REGION_KINDS:
            splits[split]["without_objects"] = sum(not row.objects for row in rows)
        else:
            longest = max((len(text) for row in rows for text in texts(row.answers)), default=0)
            splits[split]["longest_answer_in_characters"] = longest
    sizes = sorted((row.size for row in chain(*data.good.values()) if row.size), key=lambda size: size[0] * size[1])
    named = {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else {}
    return {"splits": splits, "image_sizes": {name: "x".join(map(str, size)) for name, size in named.items()}}


def format_check(data: CustomDataset, summary: dict[str, Any], findings: Sequence[Finding]) -> Iterator[str]:
    """The summary and the findings as lines to print."""
    yield f"Data: {data.spec.path}, {data.spec.kind}"
    for split, counts in summary["splits"].items():
        classes = counts.get("classes", {})
        first = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:_CLASSES])
        more = f" and {len(classes) - _CLASSES} more" if len(classes) > _CLASSES else ""
        listed = f"; {first}{more}" if first else ""
        yield f"  {split:<11}{counts['records']:>7,} records of {counts['images']:,} images{listed}"
    if summary["image_sizes"]:
        yield "  images   " + ", ".join(f"{name} {size}" for name, size in summary["image_sizes"].items())
    for name, text in summary.get("text_settings", {}).items():
        yield f"  {name:<11}{text}"
    for finding in findings:
        yield f"  {finding.level}: {finding.text}"
    if not findings:
        yield "  no problems found"
