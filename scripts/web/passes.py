"""One pass of `openpali web` over the raw shards: samples are decoded once, and several steps are called on them."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openpali.data.example import Box
from openpali.data.files.tar_shards import Sample, read_samples
from openpali.data.records import BadRecord
from openpali.data.sources.webdataset import record_of
from openpali.modeling.user_errors import UserError
from openpali.scripts.web.plan import StepPlan, WebRun
from openpali.scripts.web.samples import KEEP, WebSample, merged
from openpali.scripts.web.tables import Row, Survivor, survivors, write_table, write_unusable

ATTEMPTS = "attempts"
MOST_ATTEMPTS = 5


def steps_on_shard(row: dict[str, Any], run: WebRun, plans: tuple[StepPlan, ...]) -> dict[str, Any]:
    """Call the steps of a pass on a shard, and write their tables, the last step's last."""
    place = int(row["shard"])
    shard, bad = run.names[place], list[BadRecord]()
    note_attempt(run.output / ATTEMPTS / plans[0].folder / shard)
    kept = survivors(run, shard, before=plans[0])
    samples = usable_samples(run, place, kept, bad)
    tables: dict[int, list[Row]] = {plan.place: [] for plan in plans}
    size = max(plan.batch_size for plan in plans)
    while chunk := list(itertools.islice(samples, size)):
        for plan in plans:
            chunk = call_step(plan, chunk, tables[plan.place])
    if kept is None:
        write_unusable(run.unusable(shard), bad)
    for plan in plans:
        write_table(run.table(plan, shard), tables[plan.place])
    return {"shard": place}


def note_attempt(path: Path) -> None:
    """Note that a shard is begun; a shard at which workers die again and again ends the run.

    Raises:
        UserError: they died at it too often.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b".")
    if path.stat().st_size > MOST_ATTEMPTS:
        step, shard = path.parent.name, path.name
        raise UserError(
            f"{shard}: {MOST_ATTEMPTS} workers died at this shard in {step}: leave it out of input, or give the step"
            " more cpus, so that fewer workers share the memory"
        )


def call_step(plan: StepPlan, samples: list[WebSample], rows: list[Row]) -> list[WebSample]:
    """Call a step on samples, note its verdicts in `rows`, and return the samples that it keeps, with its labels."""
    kept = []
    for start in range(0, len(samples), plan.batch_size):
        batch = samples[start : start + plan.batch_size]
        verdicts = plan.step(batch)
        if len(verdicts) != len(batch):
            raise RuntimeError(f"{plan.folder} gave {len(verdicts)} verdicts on {len(batch)} samples")
        for sample, verdict in zip(batch, verdicts):
            rows.append(Row(sample.number, sample.key, verdict))
            if not verdict.drop:
                if verdict is not KEEP:
                    sample.record = merged(sample.record, verdict)
                    sample.values = sample.values | verdict.values
                kept.append(sample)
    return kept


def usable_samples(run: WebRun, place: int, kept: list[Survivor] | None, bad: list[BadRecord]) -> Iterator[WebSample]:
    """Decoded samples of a shard.

    Args:
        run: whose shard it is.
        place: of the shard.
        kept: the samples to read; None for all.
        bad: a list for those that cannot be used.
    """
    by_number = {one.number: one for one in kept} if kept is not None else None
    wanted = (lambda number: True) if by_number is None else by_number.__contains__
    shard = run.names[place]
    for sample in read_samples(run.urls[place], shard, wanted=wanted):
        try:
            found = decoded(sample, run.language)
        except BadRecord as error:
            bad.append(error)
            continue
        if by_number is not None:
            one = by_number[found.number]
            found.record, found.values = one.merged(found.record), one.values
        yield found


def decoded(sample: Sample, language: str) -> WebSample:
    """A sample with its image.

    Raises:
        BadRecord: it cannot be used.
    """
    record = record_of(sample, language, texts_required=False)
    if "images" in record:
        remedy = "Give each image a sample of its own."
        raise BadRecord(f"{sample.shard}.tar", sample.key, f"it has {len(record['images'])} images", remedy)
    texts = {key: value for key, value in record.items() if key not in ("id", "image")}
    return WebSample(sample.shard, sample.place.number, sample.key, record["image"], as_json(texts))


def as_json(value: Any) -> Any:
    """A record's value with its boxes as lists."""
    if isinstance(value, Box):
        return [value.x0, value.y0, value.x1, value.y1]
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value
