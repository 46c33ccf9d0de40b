"""A nano web: raw image-text shards from the built-in drawings, with the noise of a real one, and the truth about it.

    python -m openpali.scripts.web.nano.build --output outputs/web/raw

It writes `shards/` (what a crawl gives: an image and an alternative text, some with a json), `evaluation/` (images for
evaluation, some of which are hidden among the shards), `elsewhere/` (clean pairs for the model that filters), and
`truth.jsonl`, a line for each sample of the shards. The same seed gives the same files.
"""

import argparse
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openpali.modeling.user_errors import at_least, command
from openpali.scripts.web.nano.captions import WANTED, sentences
from openpali.scripts.web.nano.images import TEST, EmojiScenes, Pictures, encoded
from openpali.scripts.web.nano.samples import SHARES, Member, RawSample, SampleMaker
from openpali.scripts.web.running.files import write_shard, written_aside

TRUNCATED = 3  # number of the shard that ends too early


@dataclass(frozen=True)
class NanoWeb:
    """What is built.

    Attributes:
        samples: number in all shards.
        shards: number.
        evaluation: number of evaluation images.
        elsewhere: number of clean pairs.
        seed: of everything random.
    """

    samples: int = 6000
    shards: int = 12
    evaluation: int = 150
    elsewhere: int = 6000
    seed: int = 0

    @property
    def each(self) -> int:
        """Samples in a shard."""
        return -(-self.samples // self.shards)

    def kinds(self) -> list[str]:
        """The kind of each sample, in random order; those without another one are right."""
        kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * self.samples)))]
        kinds += ["right"] * (self.samples - len(kinds))
        random.Random(f"openpali web/{self.seed}/kinds").shuffle(kinds)
        return kinds

    def originals(self, kinds: list[str]) -> dict[int, int]:
        """For each copy a right sample of another shard."""
        rng = random.Random(f"openpali web/{self.seed}/copies")
        right = [place for place, kind in enumerate(kinds) if kind == "right"]
        return {
            place: rng.choice([own for own in right if own // self.each != place // self.each])
            for place, kind in enumerate(kinds)
            if kind == "copy"
        }


def build(folder: Path, web: NanoWeb) -> list[dict[str, Any]]:
    """Write everything; returns the lines of truth.jsonl.

    Raises:
        FileExistsError: the folder has something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: remove it, or give another --output")
    write_evaluation(folder / "evaluation", web.evaluation)
    write_elsewhere(folder / "elsewhere", web)
    kinds = web.kinds()
    maker = SampleMaker(kinds, web.originals(kinds), web.each, web.evaluation, web.seed)
    truth: list[dict[str, Any]] = []
    for shard in range(-(-web.samples // web.each)):
        places = range(shard * web.each, min((shard + 1) * web.each, web.samples))
        samples = [maker.make(place) for place in places]
        path = folder / "shards" / f"{shard:05d}.tar"
        write_members(path, (member for sample in samples for member in sample.members))
        rows = [sample.truth for sample in samples]
        if shard == TRUNCATED % web.shards:
            for row in rows[truncate(path, samples) :]:
                row["damage"] = "truncated shard"
        truth += rows
    with written_aside(folder / "truth.jsonl") as aside:
        aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in truth), "utf-8")
    return truth


def write_members(path: Path, members: Iterator[Member]) -> None:
    """Write a tar file of members with any names, also of links."""
    with written_aside(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size = len(member.content)
            if member.link:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, member.link, 0
            archive.addfile(info, io.BytesIO(member.content))


def truncate(path: Path, samples: list[RawSample]) -> int:
    """End a shard in the middle of an image; returns the number of the first sample that is lost."""
    lost = next(number for number in range(len(samples) * 3 // 5, len(samples)) if not samples[number].truth["damage"])
    name = samples[lost].members[0].name
    with tarfile.open(path) as archive:
        info = archive.getmember(name)
    with path.open("r+b") as file:
        file.truncate(info.offset_data + info.size // 2)
    return lost


def write_evaluation(folder: Path, count: int) -> None:
    """The first test scenes, as a folder of images."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = EmojiScenes(**TEST)
    for number in range(count):
        (folder / f"{number:05d}.png").write_bytes(encoded(scenes[number]["image"], "png"))


def write_elsewhere(folder: Path, web: NanoWeb) -> None:
    """Clean pairs of other scenes, with captions by language, in shards of a thousand."""
    pictures = Pictures(web.seed + 500)
    for start in range(0, web.elsewhere, 1000):
        clean = (clean_pair(pictures, number) for number in range(start, min(start + 1000, web.elsewhere)))
        write_shard(folder / f"{start // 1000:05d}.tar", clean)


def clean_pair(pictures: Pictures, number: int) -> tuple[str, dict[str, bytes]]:
    """Key and members of a pair for training the model that filters: an image with all its captions and names.

    Two of three images show one thing, from which words are learned sooner.
    """
    record = (pictures.single(number) if number % 3 else pictures.scene(number)).record
    captions = {language: sentences(record, language) for language in WANTED}
    objects = [{"names": {language: item["names"][language] for language in WANTED}} for item in record["objects"]]
    text = json.dumps({"captions": captions, "objects": objects}, ensure_ascii=False).encode()
    return f"{number:07d}", {"jpg": encoded(record["image"], "jpeg", quality=90), "json": text}


@command("error", FileExistsError)
def main(argv: list[str] | None = None) -> None:
    """Build a nano web and print what is in it."""
    parser = argparse.ArgumentParser(prog="nano.build", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--samples", type=at_least(50), default=NanoWeb.samples, help="in all shards")
    parser.add_argument("--shards", type=at_least(2), default=NanoWeb.shards, help="number of shards")
    parser.add_argument("--evaluation", type=at_least(1), default=NanoWeb.evaluation, help="evaluation images")
    parser.add_argument("--elsewhere", type=at_least(1), default=NanoWeb.elsewhere, help="clean pairs")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    args = parser.parse_args(argv)
    web = NanoWeb(args.samples, args.shards, args.evaluation, args.elsewhere, args.seed)
    truth = build(args.output, web)
    for kind, count in Counter(row["damage"] or row["kind"] for row in truth).most_common():
        print(f"{count:6,} {kind}")
    print(f"{len(truth):6,} samples in {args.output / 'shards'}; the truth: {args.output / 'truth.jsonl'}")


if __name__ == "__main__":
    main()
