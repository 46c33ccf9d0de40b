"""What is wrong with custom data, told before a model is trained on it.

Single records that cannot be used are left out and listed. What looks like a mistake in all of them (boxes in another
format, classes counted from one, an empty part) is an error, after which nothing is trained.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, texts
from openpali.data.files.config import ConfigError
from openpali.data.records import BadRecord
from openpali.recipes.custom_data.class_checks import confused_names
from openpali.recipes.custom_data.defaults import read_source, requested_classes
from openpali.recipes.custom_data.image_checks import frames, plain_images
from openpali.recipes.custom_data.record_checks import (
    Finding,
    class_counts,
    class_names,
    copies,
    parts,
    single_records,
)
from openpali.recipes.custom_data.region_checks import (
    box_format,
    class_numbers,
    clipped_boxes,
    no_objects,
    outline_units,
    small_boxes,
)
from openpali.recipes.custom_data.score_checks import empty_scores
from openpali.recipes.custom_data.text_checks import control_tokens
from openpali.recipes.custom_data.text_lengths import TextLimits, chosen, cut_texts
from openpali.recipes.run.arguments import RunArguments

CHECK_FILE = "data_check.json"


def check_data(
    source: dict[str, Any],
    task: dict[str, Any],
    resolution: int | None,
    run: RunArguments,
    strict: bool,
    name: str = "",
    limits: TextLimits | None = None,
) -> None:
    """Look for mistakes, print what is there, and write it into the run's folder.

    Args:
        source: of the data.
        task: whose prompts may name classes.
        resolution: side of the model's images in pixels.
        run: its folder takes `data_check.json`.
        strict: stop at errors.
        name: of one of several datasets, a part of the file's name.
        limits: of texts, against which their tokens are counted.

    Raises:
        ConfigError: there are errors.
    """
    found = read_source(source)
    findings, summary = (
        list(examine(found, requested_classes(task, found), resolution, run.eval_limit)),
        summarise(found),
    )
    if limits is not None:
        findings += cut_texts(found, task, limits)
        summary |= {"chosen": chosen(found, task, limits)}
    path = run.folder / (f"data_check-{name}.json" if name else CHECK_FILE)
    if run.process_index == 0:
        content = {"data": found.spec.path, "kind": found.spec.kind, **summary}
        content["findings"] = [asdict(finding) for finding in findings]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    run.say("\n".join(lines(found, summary, findings)))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors and strict:
        more = f" ({len(errors) - 1} more errors above)" if len(errors) > 1 else ""
        rest = f"All findings are in {path}; --train_despite_errors true trains all the same."
        raise ConfigError(f"data: {errors[0].text}{more} {rest}")


def examine(
    found: CustomDataset, asked: Sequence[str] = (), resolution: int | None = None, scored: int | None = None
) -> Iterator[Finding]:
    """Every finding, errors of the whole first."""
    yield from (Finding("error", "file", mistake) for mistake in found.mistakes)
    if found.spec.kind in REGION_KINDS:
        turned = list(frames(found))
        yield from turned
        # in the wrong frame any format may seem to fit
        if not any(finding.level == "error" for finding in turned):
            yield from box_format(found)
        yield from no_objects(found)
        yield from outline_units(found)
        yield from clipped_boxes(found)
        yield from class_numbers(found)
        yield from small_boxes(found, resolution)
    yield from parts(found)
    yield from empty_scores(found, scored)
    yield from class_names(found, asked)
    yield from confused_names(found)
    yield from plain_images(found)
    yield from single_records(found)
    yield from copies(found)
    yield from control_tokens(found)
    yield from (Finding("note", "file", note) for note in found.notes)


def summarise(found: CustomDataset) -> dict[str, Any]:
    """Counts of each part, and sizes of the images."""
    counts, summary = class_counts(found), {}
    try:
        together = found.splits()
    except BadRecord:
        together = {}
    for part, rows in together.items():
        summary[part] = {"records": len(rows), "pictures": len({row.digest for row in rows})}
        if part in counts:
            summary[part]["classes"] = dict(counts[part].most_common())
        if found.spec.kind in REGION_KINDS:
            summary[part]["without_objects"] = sum(not row.objects for row in rows)
        else:
            longest = max((len(text) for row in rows for text in texts(row.answers)), default=0)
            summary[part]["longest_answer_in_characters"] = longest
    sizes = sorted((row.size for row in chain(*found.good.values()) if row.size), key=lambda size: size[0] * size[1])
    shown = {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else {}
    return {"parts": summary, "image_sizes": {name: "x".join(map(str, size)) for name, size in shown.items()}}


def lines(found: CustomDataset, summary: dict[str, Any], findings: Sequence[Finding]) -> Iterator[str]:
    """What is printed."""
    yield f"Data: {found.spec.path}, {found.spec.kind}"
    for part, counts in summary["parts"].items():
        classes = counts.get("classes", {})
        shown = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:12])
        more = f" and {len(classes) - 12} more" if len(classes) > 12 else ""
        listed = f"; {shown}{more}" if shown else ""
        yield f"  {part:<11}{counts['records']:>7,} records of {counts['pictures']:,} images{listed}"
    if summary["image_sizes"]:
        yield "  images   " + ", ".join(f"{name} {size}" for name, size in summary["image_sizes"].items())
    for name, text in summary.get("chosen", {}).items():
        yield f"  {name:<11}{text}"
    for finding in findings:
        yield f"  {finding.level}: {finding.text}"
    if not findings:
        yield "  nothing is wrong with them"
