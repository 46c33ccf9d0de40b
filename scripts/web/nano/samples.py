"""Samples of the nano web: of each kind its members, and its line of truth.jsonl."""

import json
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openpali.scripts.web.nano.captions import BOILERPLATE, UNWANTED, WANTED, sentences
from openpali.scripts.web.nano.images import (
    READABLE,
    TEST,
    EmojiScenes,
    Picture,
    Pictures,
    copied,
    encoded,
    tiny,
    wide,
)

SHARES = {
    "wrong caption": 0.15,
    "copy": 0.08,
    "evaluation image": 0.015,
    "unwanted language": 0.09,
    "boilerplate": 0.06,
    "tiny image": 0.015,
    "wide image": 0.015,
    "empty image": 0.004,
    "broken json": 0.004,
    "hostile name": 0.004,
}
"""Share of each kind of noise; the rest is right."""
DAMAGE = ("empty image", "broken json", "hostile name")
READABLE_WORDS, UNREADABLE_WORDS = 0.12, 0.05
"""Shares of right pairs with words on the image."""
_WITH_JSON = 0.4
_LICENCES = ("CC BY 4.0", "CC BY-SA 4.0", "CC0 1.0", "all rights reserved")
_HOSTS = ("photos", "shop", "news", "blog")
_FORMATS = (*(["jpg"] * 8), "png", "webp")
_PILLOW = {"jpg": "jpeg", "png": "png", "webp": "webp"}


@dataclass(frozen=True)
class Member:
    """A member of a tar file; with `link` a symbolic link to it."""

    name: str
    content: bytes
    link: str = ""


@dataclass(frozen=True)
class RawSample:
    """The members of a sample, its image first, and what is true of it."""

    members: list[Member]
    truth: dict[str, Any]


@dataclass(frozen=True)
class SampleMaker:
    """Makes the sample at any place of the web.

    Attributes:
        kinds: of all samples.
        originals: place of a copy to the place of what it repeats.
        each: samples in a shard.
        evaluation: number of evaluation images.
        seed: of everything random.
    """

    kinds: list[str]
    originals: dict[int, int]
    each: int
    evaluation: int
    seed: int

    @cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self.seed)

    def make(self, place: int) -> RawSample:
        """The sample at a place among all."""
        rng, kind = self._rng(place, "text"), self.kinds[place]
        key = f"{place:07d}"
        truth: dict[str, Any] = {"shard": f"{place // self.each:05d}", "number": place % self.each, "key": key}
        truth |= {"kind": kind, "detail": "", "damage": kind if kind in DAMAGE else "", "of": "", "words": []}
        picture, content, ending, more = self._image(place, rng)
        caption, language, detail = self._text(place, picture, rng)
        truth |= {"language": language, "caption": caption} | more
        truth["detail"] = truth["detail"] or detail
        members = [Member(f"{key}.{ending}", content), Member(f"{key}.txt", caption.encode())]
        if kind == "broken json":
            members.append(Member(f"{key}.json", b'{"license": "CC BY 4.0", "source": '))
        elif rng.random() < _WITH_JSON:
            origin = {"license": rng.choice(_LICENCES), "source": f"https://{rng.choice(_HOSTS)}.example.com/{key}"}
            truth["origin"] = origin
            members.append(Member(f"{key}.json", json.dumps(origin).encode()))
        if kind == "hostile name":
            members, truth["key"], truth["detail"] = hostile(members, key, rng)
        return RawSample(members, truth)

    def _rng(self, place: int, what: str) -> random.Random:
        return random.Random(f"openpali web/{self.seed}/{place}/{what}")

    def _picture(self, place: int) -> Picture:
        """The scene at a place, as it is before anything happens to it."""
        rng, pictures = self._rng(place, "image"), self._pictures
        draw = rng.random() if self.kinds[place] == "right" else 1.0
        if draw < READABLE_WORDS:
            return pictures.readable(place)
        return pictures.unreadable(place, rng) if draw < READABLE_WORDS + UNREADABLE_WORDS else pictures.scene(place)

    def _image(self, place: int, rng: random.Random) -> tuple[Picture, bytes, str, dict[str, Any]]:
        """The scene of a sample, its file and its ending, and what is true of it."""
        kind = self.kinds[place]
        if kind in ("copy", "evaluation image"):
            picture, of = self._repeated(place, rng)
            content, how = copied(picture.image, rng)
            return (
                picture,
                content,
                "jpg",
                {"of": of, "how": how, "words": [_moved(w, picture, how) for w in picture.words]},
            )
        picture = self._picture(place)
        if kind == "empty image":
            return picture, b"", "jpg", {}
        image = {"tiny image": tiny, "wide image": wide}.get(kind, lambda image, rng: image)(picture.image, rng)
        ending = rng.choice(_FORMATS)
        options = {} if ending == "png" else {"quality": 90}
        return picture, encoded(image, _PILLOW[ending], **options), ending, {"words": picture.words}

    def _repeated(self, place: int, rng: random.Random) -> tuple[Picture, str]:
        """The picture that a sample repeats, and its name: shard and number, or a file of evaluation images."""
        if self.kinds[place] == "copy":
            original = self.originals[place]
            return self._picture(original), f"{original // self.each:05d}:{original % self.each}"
        number = rng.randrange(self.evaluation)
        record = EmojiScenes(**TEST)[number]
        return Picture(record["image"], record), f"{number:05d}.png"

    def _text(self, place: int, picture: Picture, rng: random.Random) -> tuple[str, str, str]:
        """Caption, its language, and what is wrong with it."""
        kind = self.kinds[place]
        if kind == "boilerplate":
            what = rng.choice(list(BOILERPLATE))
            return BOILERPLATE[what](rng), "", what
        language = rng.choice(UNWANTED if kind == "unwanted language" else WANTED)
        record = picture.record
        if kind == "wrong caption":
            others = (self._pictures.scene(rng.randrange(500_000, 1_000_000)) for _ in range(1000))
            record = next(other.record for other in others if not other.things & picture.things)
        return rng.choice(sentences(record, language)), language, ""


def _moved(word: dict[str, Any], picture: Picture, how: dict[str, float]) -> dict[str, Any]:
    """A word in the pixels of a copy."""
    edge = how["crop"]
    factor = how["scale"] / (1 - 2 * edge)
    sides = picture.image.size * 2
    box = [round(factor * (x - edge * side)) for x, side in zip(word["box"], sides)]
    height = box[3] - box[1]
    return word | {"box": box, "height": height, "readable": word["readable"] and height >= READABLE}


def hostile(members: list[Member], key: str, rng: random.Random) -> tuple[list[Member], str, str]:
    """The members under names that lead out of the folder of a shard; the sample's new key, and what was done."""
    what = rng.choice(("a parent folder", "an absolute path", "a link"))
    if what == "a link":
        image = members[0]
        return [Member(image.name, b"", "/etc/passwd"), *members[1:]], key, what
    start = "../../" if what == "a parent folder" else "/tmp/"
    return [Member(start + own.name, own.content) for own in members], start + key, what
