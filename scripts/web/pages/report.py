"""A page on a made set: what each step dropped and why, with samples, the scores of pairs, and samples that were kept.

    python -m openpali.scripts.web.pages.report --input 'raw/*.tar' --made outputs/web

Pictures and captions are read again from the raw shards. Of all shards a few are opened, the same ones each time.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openpali.data.files.shard_files import find_shards
from openpali.eval.report.page import BUDGET, write_page
from openpali.modeling.user_errors import at_least, command
from openpali.scripts.web.pages.histogram import score_histograms
from openpali.scripts.web.pages.made_set import MadeSet, NotMade
from openpali.scripts.web.pages.shown_samples import KEPT, choose, in_fixed_order, read_cards, within

MOST = 50  # samples of a reason, and of what was kept
FIRST = 12  # of them in sight; the others are shown on request
SHARDS = 8
TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE = "report.html"
# what the steps do, for those who do not know them
ABOUT = {
    "language": "Captions in other languages, or in none that can be told.",
    "text_rules": "Captions that describe nothing.",
    "image_rules": "Images that are too small, too long and narrow, or empty.",
    "safety": "Images that should not be shown.",
    "evaluation_images": "Near copies of images that models are evaluated on.",
    "duplicates": "Near copies of an image that is kept.",
    "best_share": "Pairs whose caption does not suit the image, by the similarity of a SigLIP.",
}


@dataclass
class Reason:
    """Samples that a step dropped for one reason.

    Attributes:
        text: the reason.
        count: of all samples that it dropped for it.
        cards: samples on the page.
    """

    text: str
    count: int
    cards: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class StepPart:
    """A step on the page.

    Attributes:
        name: of its tables.
        reached: samples that it was called on.
        reasons: why it dropped some.
    """

    name: str
    reached: int
    reasons: list[Reason]

    @property
    def dropped(self) -> int:
        """Samples that it dropped."""
        return sum(reason.count for reason in self.reasons)

    @property
    def about(self) -> str:
        """What it looks for."""
        return ABOUT.get(self.name.partition("-")[2], "")


def write_web_report(
    made: MadeSet, urls: dict[str, str], most: int = MOST, shards: int = SHARDS, credits: str = ""
) -> Path:
    """Write report.html into the made set.

    Args:
        made: a finished run.
        urls: of the raw shards, by name.
        most: samples of each reason.
        shards: raw shards that are opened.
        credits: for the footer.

    Raises:
        NotMade: a table is missing, or the raw shards are other ones.
    """
    opened = in_fixed_order(made.shards)[:shards]
    if missing := [name for name in opened if name not in urls]:
        raise NotMade(f"--input has no shard {missing[0]}, and {made.folder} was made from one")
    cards: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in opened:
        for shown, card in read_cards(
            urls[name], name, choose(made, name, -(-most // len(opened))), made.settings["language"]
        ):
            cards.setdefault((shown.step, shown.drop), []).append(card)
    budget = BUDGET // max(1, len(cards))
    shown = {key: within(own[:most], budget) for key, own in cards.items()}
    return write_page(
        made.folder / PAGE,
        TEMPLATE,
        title=f"{made.counts['kept']:,} of {made.counts['samples']:,} samples kept",
        settings={
            "cannot be used": f"{made.counts['unusable']:,} samples (skipped_records.jsonl)",
            "samples on this page": f"from {len(opened)} of {len(made.shards):,} raw shards",
            "folder": str(made.folder),
        },
        counts=made.counts,
        parts=step_parts(made, shown),
        histograms=score_histograms(made),
        kept=shown.get(KEPT, []),
        models=models_of(shown.get(KEPT, [])),
        first=FIRST,
        credits=credits,
    )


def step_parts(made: MadeSet, cards: dict[tuple[str, str], list[dict[str, Any]]]) -> list[StepPart]:
    """The steps with their reasons, the most frequent first, and their cards."""
    parts = []
    for row in made.counts["steps"]:
        reasons = sorted(row["dropped"].items(), key=lambda one: (-one[1], one[0]))
        own = [Reason(text, count, cards.get((row["step"], text), [])) for text, count in reasons]
        parts.append(StepPart(row["step"], row["reached"], own))
    return parts


def models_of(cards: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The models behind each label of some cards."""
    labels = sorted({label for card in cards for label in card["models"]})
    return {label: sorted({card["models"][label] for card in cards if label in card["models"]}) for label in labels}


def urls_of(given: list[str]) -> dict[str, str]:
    """Addresses of raw shards by name.

    Raises:
        ValueError: there are none.
    """
    urls, names = find_shards(given)
    return dict(zip(names, urls))


@command("error", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Write the page and print where it is."""
    parser = argparse.ArgumentParser(prog="report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input", nargs="+", required=True, help="the raw shards: folder, pattern or addresses")
    parser.add_argument("--made", type=Path, required=True, help="output folder of openpali web")
    parser.add_argument("--samples", type=at_least(1), default=MOST, help="of each reason")
    parser.add_argument("--shards", type=at_least(1), default=SHARDS, help="raw shards that are opened")
    args = parser.parse_args(argv)
    path = write_web_report(MadeSet(args.made), urls_of(args.input), args.samples, args.shards)
    print(f"Report: {path}")


if __name__ == "__main__":
    main()
