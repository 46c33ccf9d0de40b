"""How well `openpali web` has found the noise that a nano web has: shares found, and shares of other samples lost.

    python -m openpali.scripts.web.nano.scores --raw outputs/web/raw --made outputs/web/made

A sample counts for a step only if it reached it. It prints a table, and writes nano_scores.json into the made set.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openpali.modeling.user_errors import command
from openpali.scripts.web.pages.made_set import MadeSet
from openpali.scripts.web.running.files import write_json

Place = tuple[str, int]
"""A shard and the number of a sample in it."""
GOOD = ("right", "copy")
SCORES = "nano_scores.json"


def read_truth(path: Path) -> dict[Place, dict[str, Any]]:
    """The lines of truth.jsonl by place."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return {(row["shard"], row["number"]): row for row in rows}


def dropped_by(made: MadeSet, name: str) -> dict[Place, str]:
    """The samples that reached a step, with the reason of those that it dropped; empty without such a step."""
    step = made.step(name)
    rows = ((shard, row) for shard in made.shards for row in made.table(step, shard)) if step else ()
    return {(shard, row["number"]): row["drop"] for shard, row in rows}


def finding(
    dropped: dict[Place, str], is_noise: Callable[[Place], bool], is_good: Callable[[Place], bool]
) -> dict[str, Any]:
    """Recall on the noise that reached a step, share of the good samples lost, and precision among both."""
    noise = [bool(reason) for place, reason in dropped.items() if is_noise(place)]
    good = [bool(reason) for place, reason in dropped.items() if is_good(place)]
    found, lost = sum(noise), sum(good)
    return {
        "planted": len(noise),
        "found": found,
        "recall": share(found, len(noise)),
        "others": len(good),
        "lost": lost,
        "lost_share": share(lost, len(good)),
        "precision": share(found, found + lost),
    }


def share(part: int, whole: int) -> float | None:
    """A share; None of nothing."""
    return part / whole if whole else None


def scores(made: MadeSet, truth: dict[Place, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of each step that the run has."""

    def among(*kinds: str) -> Callable[[Place], bool]:
        return lambda place: truth[place]["kind"] in kinds

    plans: list[tuple[str, str, tuple[str, ...]]] = [
        ("captions in other languages", "language", ("unwanted language",)),
        ("boilerplate captions", "text_rules", ("boilerplate",)),
        ("tiny and wide images", "image_rules", ("tiny image", "wide image")),
        ("evaluation images", "evaluation_images", ("evaluation image",)),
        ("wrong captions", "best_share", ("wrong caption",)),
    ]
    found: dict[str, dict[str, Any]] = {"damaged samples": damaged(made, truth)}
    for title, step, kinds in plans:
        if made.step(step):
            found[title] = {"step": step} | finding(dropped_by(made, step), among(*kinds), among(*GOOD))
        if step == "evaluation_images" and made.step("duplicates"):
            found["copies"] = {"step": "duplicates"} | copies(dropped_by(made, "duplicates"), truth)
    if made.step("ocr"):
        found |= words(made, truth)
    return found


def damaged(made: MadeSet, truth: dict[Place, dict[str, Any]]) -> dict[str, Any]:
    """Samples that cannot be used, which must not come through, against all others, which must."""
    first = made.steps[0]
    usable = {(shard, row["number"]) for shard in made.shards for row in made.table(first, shard)}
    dropped = {place: "" if place in usable else "unusable" for place in truth}
    return {"step": "reading"} | finding(
        dropped, lambda place: bool(truth[place]["damage"]), lambda place: not truth[place]["damage"]
    )


def copies(dropped: dict[Place, str], truth: dict[Place, dict[str, Any]]) -> dict[str, Any]:
    """Of the samples with one image all but one are copies, whichever of them stays."""
    groups: dict[str, list[bool]] = {}
    for place, reason in dropped.items():
        name = truth[place]["of"] or f"{place[0]}:{place[1]}"
        groups.setdefault(name, []).append(bool(reason))
    planted = sum(len(group) - 1 for group in groups.values())
    found = sum(min(sum(group), len(group) - 1) for group in groups.values())
    lost = sum(all(group) for group in groups.values())
    return {
        "planted": planted,
        "found": found,
        "recall": share(found, planted),
        "others": len(groups),
        "lost": lost,
        "lost_share": share(lost, len(groups)),
        "precision": share(found, found + lost),
    }


def words(made: MadeSet, truth: dict[Place, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Written words that were read, of a readable size and of others; words that were read where none is are lost."""
    sizes: dict[bool, list[bool]] = {True: [], False: []}
    right = wrong = 0
    step = made.step("ocr") or ""
    for shard in made.shards:
        for row in made.table(step, shard):
            written = truth[shard, row["number"]]["words"]
            read = [word["text"].strip().lower() for word in row["labels"].get("words") or ()]
            for word in written:
                sizes[word["readable"]].append(word["text"] in read)
            right += sum(text in [word["text"] for word in written] for text in read)
            wrong += sum(text not in [word["text"] for word in written] for text in read)
    precision = {"words": right + wrong, "wrong": wrong, "precision": share(right, right + wrong)}
    return {
        title: {"step": "ocr", "planted": len(found), "found": sum(found), "recall": share(sum(found), len(found))}
        | more
        for title, found, more in (
            ("words of readable size", sizes[True], precision),
            ("words of a few pixels", sizes[False], {}),
        )
    }


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table of all figures."""
    lines = [f"{'':28} {'step':18} {'planted':>8} {'found':>7} {'recall':>8} {'precision':>10} {'others lost':>14}"]
    for title, row in found.items():
        cells = [percent(row.get(key)) for key in ("recall", "precision", "lost_share")]
        lost = f"{row['lost']:,} ({cells[2]})" if "lost" in row else ""
        counts = f"{row['planted']:8,} {row['found']:7,}"
        lines.append(f"{title:28} {row['step']:18} {counts} {cells[0]:>8} {cells[1]:>10} {lost:>14}")
    return lines


def percent(value: float | None) -> str:
    """A share in per cent; a dash for none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def score(raw: Path, made: Path) -> dict[str, dict[str, Any]]:
    """Compute the figures and write them into the made set."""
    found = scores(MadeSet(made), read_truth(raw / "truth.jsonl"))
    write_json(made / SCORES, found)
    return found


@command("error", ValueError, FileNotFoundError)
def main(argv: list[str] | None = None) -> None:
    """Score a made set against the truth, and print the figures."""
    parser = argparse.ArgumentParser(prog="nano.scores", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder of nano_web, with truth.jsonl")
    parser.add_argument("--made", type=Path, required=True, help="folder of openpali web")
    args = parser.parse_args(argv)
    print("\n".join(table(score(args.raw, args.made))))
    print(f"Scores: {args.made / SCORES}")


if __name__ == "__main__":
    main()
