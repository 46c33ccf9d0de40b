"""Keep the best share of image-text pairs by their similarity, as for PaLI-3's WebLI (section 3.1: about 40 %).

    python -m openpali.scripts.filter_pairs --shards 'web/{0000..0999}.tar' --model google/siglip-base-patch16-224 \\
        --share 0.4 --output web-filtered

It scores every pair, computes the threshold over all shards, and writes shards with the pairs above it. Started again
after a stop, the script resumes with the shards that are not finished.
"""

import argparse
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from openpali.data.files.shard_files import find_shards
from openpali.data.records import SkipLog
from openpali.modeling.dtypes import CHOICES
from openpali.modeling.user_errors import at_least, command
from openpali.scripts.shards.pair_scores import REDUCE, PairScores
from openpali.scripts.shards.parallel import WriteKept, claim, in_parallel, read_table, write_json

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_BINS = 40


def threshold(scores: np.ndarray, share: float) -> float:
    """The lowest score to keep, so that at least `share` of the pairs remain, and more only with equal scores."""
    count = max(1, math.ceil(share * len(scores)))
    return float(np.partition(scores, len(scores) - count)[len(scores) - count])


def summary(scores: np.ndarray, kept: int, least: float, share: float) -> dict[str, Any]:
    """Counts, threshold, quantiles and a histogram of the scores."""
    counts, edges = np.histogram(scores, _BINS)
    quantiles = dict(zip(map(str, QUANTILES), np.quantile(scores, QUANTILES).round(5).tolist()))
    return {
        "pairs": len(scores),
        "kept": kept,
        "share": share,
        "threshold": least,
        "mean": float(scores.mean()),
        "quantiles": quantiles,
        "histogram": {"edges": edges.round(5).tolist(), "counts": counts.tolist()},
    }


def filter_shards(args: argparse.Namespace) -> dict[str, Any]:
    """Score the pairs, compute the threshold, and write the shards; returns the report."""
    urls, names = find_shards(args.shards)
    tables = [args.output / "scores" / f"{name}.parquet" for name in names]
    settings = {"shards": names, "model": args.model, "languages": args.languages, "reduce": args.reduce}
    settings |= {"dtype": args.dtype} if args.dtype != "auto" else {}
    claim(args.output, settings | {"share": args.share})
    threads = max(1, (os.cpu_count() or 1) // args.processes)
    skipped = args.output / "skipped_records.jsonl"
    options = (args.reduce, args.batch_size, str(skipped), threads, args.dtype)
    scorer = PairScores(args.model, tuple(args.languages), *options)
    rows = [{"url": url, "name": name, "path": str(path)} for url, name, path in zip(urls, names, tables)]
    in_parallel(scorer, [row for row in rows if not Path(row["path"]).exists()], args.processes, "scoring shards")
    found = [read_table(path) for path in tables]
    scores = np.concatenate([np.asarray(table["score"], np.float64) for table in found])
    if len(scores) == 0:
        raise SystemExit(f"error: no pair of the {len(urls)} shards can be scored; {skipped} says why")
    least = threshold(scores, args.share)
    keep = [np.asarray(table["number"], int)[np.asarray(table["score"]) >= least].tolist() for table in found]
    to_write = [{"url": url, "name": name, "keep": own} for url, name, own in zip(urls, names, keep)]
    kept = in_parallel(WriteKept(str(args.output / "shards")), to_write, args.processes, "writing shards")
    report = summary(scores, sum(row["kept"] for row in kept), least, args.share)
    report |= {"unusable": len(SkipLog(skipped).read()), "settings": settings}
    report["shards"] = {name: {"pairs": len(own["score"]), "kept": len(k)} for name, own, k in zip(names, found, keep)}
    write_json(args.output / "report.json", report)
    return report


@command("error", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Filter the pairs and print how many were kept."""
    parser = argparse.ArgumentParser(prog="filter_pairs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", nargs="+", required=True, help="folder, pattern or addresses of tar shards")
    parser.add_argument("--model", required=True, help="SigLIP that scores the pairs, a folder or Hub name")
    parser.add_argument("--output", type=Path, required=True, help="folder for scores, shards and report")
    parser.add_argument("--share", type=float, default=0.4, help="share of the pairs to keep")
    parser.add_argument("--languages", nargs="*", default=[], help="of the captions to score; all by default")
    parser.add_argument("--reduce", choices=list(REDUCE), default="best", help="score of several captions")
    parser.add_argument("--batch-size", type=at_least(1), default=64, help="images in a batch")
    parser.add_argument("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the checkpoint's own")
    parser.add_argument(
        "--processes",
        type=at_least(1),
        default=os.cpu_count() or 1,
        help="parallel processes, each with its own model",
    )
    args = parser.parse_args(argv)
    if not 0 < args.share <= 1:
        parser.error(f"--share {args.share} is not above 0 and at most 1")
    report = filter_shards(args)
    print(f"{report['kept']:,} of {report['pairs']:,} pairs kept, with scores of at least {report['threshold']:.4f}")
    if report["unusable"]:
        print(f"{report['unusable']:,} samples cannot be used; {args.output / 'skipped_records.jsonl'} lists them")
    print(f"Shards: {args.output / 'shards'}. Report: {args.output / 'report.json'}")


if __name__ == "__main__":
    main()
