"""Remove duplicates and near-duplicates of evaluation images from tar shards, against train/test leakage.

    python -m openpali.scripts.deduplicate --shards 'web/{0000..0999}.tar' --output web-clean \\
        --against coco/val2017 '{"name": "jsonl", "path": "test.jsonl"}' --within

A digest finds equal pixels; perceptual hashes that differ in at most `--distance` of 64 bits find resized, compressed
and slightly changed images. `removed.jsonl` names each removed sample and the image that it repeats. Started again
after a stop, the script resumes with the shards that are not finished.
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from openpali.data.files.shard_files import find_shards
from openpali.data.records import SkipLog
from openpali.modeling.user_errors import at_least, command
from openpali.scripts.shards.image_hashes import HashImages, read_hashes, set_rows, shard_row
from openpali.scripts.shards.near_duplicates import FindDuplicates, duplicates_within, removal_record
from openpali.scripts.shards.parallel import WriteKept, claim, in_parallel, write_json, written_aside


def deduplicate(args: argparse.Namespace) -> dict[str, Any]:
    """Hash the images, compare them, and write the shards; returns the report."""
    urls, names = find_shards(args.shards)
    settings = {"shards": names, "against": args.against, "within": args.within, "distance": args.distance}
    claim(args.output, settings)
    skipped = args.output / "skipped_records.jsonl"
    own = [args.output / "hashes" / "train" / f"{name}.parquet" for name in names]
    rows = [shard_row(url, name, path) for url, name, path in zip(urls, names, own)]
    against = [row for given in args.against for row in set_rows(given, args.output / "hashes" / "against")]
    for what, some in (("evaluation images", against), ("shards", rows)):
        missing = [row for row in some if not Path(row["path"]).exists()]
        in_parallel(HashImages(str(skipped)), missing, args.processes, f"hashing {what}")
    removed = find_duplicates(args, own, [row["path"] for row in against])
    kept, total = [], 0
    for row, path, lines in zip(rows, own, removed):
        numbers, out = set(read_hashes([path]).numbers.tolist()), {line["number"] for line in lines}
        kept.append({"url": row["url"], "name": row["name"], "keep": sorted(numbers - out)})
        total += len(numbers)
    in_parallel(WriteKept(str(args.output / "shards")), kept, args.processes, "writing shards")
    records = [{key: value for key, value in line.items() if key != "number"} for lines in removed for line in lines]
    with written_aside(args.output / "removed.jsonl") as aside:
        aside.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records), "utf-8")
    report = {"samples": total, "kept": sum(len(row["keep"]) for row in kept)}
    report |= {"found": dict(Counter(line["kind"] for line in records)), "unusable": len(SkipLog(skipped).read())}
    write_json(args.output / "report.json", report | {"settings": settings})
    return report


def find_duplicates(args: argparse.Namespace, own: list[Path], against: list[str]) -> list[list[dict[str, Any]]]:
    """Records of removed.jsonl for each shard."""
    find = FindDuplicates(tuple(against), args.distance)
    done = in_parallel(find, [{"path": str(path)} for path in own], args.processes, "comparing") if against else []
    removed = [json.loads(row["removed"]) for row in done] or [[] for _ in own]
    if not args.within:
        return removed
    everything = read_hashes(own)
    ends = np.cumsum([len(read_hashes([path])) for path in own])
    for duplicate in duplicates_within(everything, args.distance):
        line = removal_record(duplicate, everything, everything)
        removed[int(np.searchsorted(ends, duplicate.index, "right"))].append(
            line | {"kind": f"{duplicate.kind}, within"}
        )
    return removed


@command("error", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Remove duplicates and print their number."""
    parser = argparse.ArgumentParser(prog="deduplicate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", nargs="+", required=True, help="folder, pattern or addresses of tar shards")
    parser.add_argument("--output", type=Path, required=True, help="folder for hashes, shards and report")
    parser.add_argument("--against", nargs="*", default=[], help="folders of images, tar shards, sources as JSON")
    parser.add_argument("--within", action="store_true", help="also remove duplicates of earlier samples")
    parser.add_argument("--distance", type=int, default=6, help="bits of 64 in which hashes of duplicates may differ")
    parser.add_argument("--processes", type=at_least(1), default=os.cpu_count() or 1, help="parallel processes")
    args = parser.parse_args(argv)
    if not args.against and not args.within:
        parser.error("nothing to compare with: give --against, --within or both")
    if not 0 <= args.distance <= 31:
        parser.error(f"--distance {args.distance} is not from 0 to 31")
    report = deduplicate(args)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in report["found"].items()) or "none"
    print(f"{report['kept']:,} of {report['samples']:,} samples kept. Duplicates: {shown}")
    if report["unusable"]:
        print(f"{report['unusable']:,} samples cannot be used; {args.output / 'skipped_records.jsonl'} lists them")
    print(f"Shards: {args.output / 'shards'}. Removed samples: {args.output / 'removed.jsonl'}")


if __name__ == "__main__":
    main()
