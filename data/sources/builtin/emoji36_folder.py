"""Read the folder that `make data36` builds: concepts with names in 36 languages, and drawings in four styles.

- `concepts.jsonl`: one concept a line, with `char`, `code`, `concept` (English name), `split` (seen or held_out),
  `names` and `keywords` by language, and `colours` by style. Lines are in pseudo-random order, so that the
  first hundred are a sample of all.
- `drawings/STYLE.zip`: PNG files `CODE.png`, not compressed a second time.
- `build.json` and `LICENSES.md`: its sources and their licences.
"""

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from openpali.data.sources.builtin.drawings import default_cache_dir

LANGUAGES = ("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id")
LANGUAGES += ("it", "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk")
LANGUAGES += ("vi", "zh")
"""The codes of Crossmodal-3600."""
STYLES = ("openmoji", "twemoji", "fluent", "noto")
HELD_OUT_STYLE = "noto"
FORMAT = 1
_REMEDY = "Build it with `make data36` (python -m openpali.scripts.build_emoji36"

_CREDITS = {
    "openmoji": "OpenMoji (https://openmoji.org), CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
    "twemoji": "Twemoji (https://github.com/jdecked/twemoji), © Twitter, Inc and other contributors, CC BY 4.0"
    " (https://creativecommons.org/licenses/by/4.0/)",
    "fluent": "Fluent Emoji (https://github.com/microsoft/fluentui-emoji), © Microsoft Corporation, MIT",
    "noto": "Noto Emoji (https://github.com/googlefonts/noto-emoji), © Google Inc., Apache License 2.0",
}
_HELD_OUT_SHARE = 0.1
_CACHE_BYTES, _LARGEST_RASTER = 192 * 2**20, 1024


@dataclass(frozen=True, slots=True)
class Concept:
    """A line of `concepts.jsonl`.

    Attributes:
        char: the emoji, without variation selectors.
        code: its code points, which name its drawings.
        concept: the English name.
        split: `seen`, or `held_out` for zero-shot.
        names: by language.
        keywords: related words, by language.
        colours: English name of the dominant colour of its drawing, or None, by style.
    """

    char: str
    code: str
    concept: str
    split: str
    names: dict[str, str]
    keywords: dict[str, list[str]]
    colours: dict[str, str | None]


def default_folder() -> Path:
    """`emoji36` in the cache folder."""
    return default_cache_dir() / "emoji36"


def code_of(char: str) -> str:
    """Code points in upper-case hexadecimal, as in `1F408-200D-2B1B`."""
    return "-".join(f"{ord(part):X}" for part in char)


def concept_order(char: str) -> bytes:
    """A key for `sorted` that depends on the emoji alone, so that the order is stable when concepts are added."""
    return hashlib.sha256(f"openpali/emoji36/{char}".encode()).digest()


def concept_split(char: str) -> str:
    """`held_out` for one concept in ten. It depends on the emoji alone, so that later builds keep the split."""
    place = int.from_bytes(hashlib.sha256(f"openpali/emoji36/held_out/{char}".encode()).digest()[:4], "big")
    return "held_out" if place < _HELD_OUT_SHARE * 2**32 else "seen"


def credits_of(styles: tuple[str, ...]) -> str:
    """The credit line of images with these drawings."""
    drawings = "; ".join(_CREDITS[style] for style in styles)
    shared = " Images that show OpenMoji drawings are under their licence." if "openmoji" in styles else ""
    return (
        f"Drawings: {drawings}.{shared} Names: Unicode CLDR (https://cldr.unicode.org), Unicode License V3."
        " Backgrounds: photographs that come with scikit-image, and gradients."
    )


@functools.lru_cache(maxsize=8)
def read_concepts(folder: Path, languages: tuple[str, ...] = LANGUAGES) -> tuple[list[Concept], int]:
    """The concepts of a built folder with names in some languages, and the longest side of its drawings.

    Raises:
        ValueError: the folder is missing, of another format, or damaged.
    """
    if not (folder / "build.json").is_file():
        raise ValueError(
            f"there are no images with names in 36 languages in {folder}. {_REMEDY}), which needs npm;"
            " the source `emoji` has 14 languages and needs nothing."
        )
    try:
        build = json.loads((folder / "build.json").read_text("utf-8"))
        if build["format"] != FORMAT:
            raise ValueError(f"its format is {build['format']!r}, and this version of openpali reads {FORMAT}")
        with (folder / "concepts.jsonl").open(encoding="utf-8") as lines:
            concepts = [_concept(json.loads(line), languages) for line in lines]
        return concepts, int(build["raster"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"the folder {folder} cannot be used: {error}. {_REMEDY} --overwrite).") from error


def _concept(row: dict, languages: tuple[str, ...]) -> Concept:
    names = {language: str(row["names"][language]) for language in languages}
    keywords = {language: list(row["keywords"][language]) for language in languages}
    return Concept(row["char"], row["code"], row["concept"], row["split"], names, keywords, row["colours"])


def sprite(folder: Path, style: str, code: str, side: int) -> Image.Image:
    """A drawing as RGBA, `side` pixels on its longer side, with one clear pixel around it.

    It is cached, also for processes forked later: do not modify it.

    Raises:
        ValueError: the drawing is missing or damaged.
    """
    return _reader(side)(folder, style, code)


@functools.cache
def _reader(side: int) -> Callable[[Path, str, str], Image.Image]:
    """A reader with its own cache for each size; all caches have about the same number of bytes."""

    @functools.lru_cache(maxsize=max(_CACHE_BYTES // (4 * side * side), 64))
    def read(folder: Path, style: str, code: str) -> Image.Image:
        return _bordered(_read_drawing(folder, style, code), side)

    return read


def _bordered(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(round(scale * image.width), 1), max(round(scale * image.height), 1))
    # the border makes the edge smooth when the drawing is turned
    whole = Image.new("RGBA", (size[0] + 2, size[1] + 2))
    whole.paste(image.resize(size, Image.Resampling.BOX), (1, 1))
    return whole


def _read_drawing(folder: Path, style: str, code: str) -> Image.Image:
    path = folder / "drawings" / f"{style}.zip"
    try:
        with Image.open(io.BytesIO(archive(path).read(f"{code}.png"))) as image:
            if max(image.size) > _LARGEST_RASTER:
                raise ValueError(f"it has {image.width} by {image.height} pixels")
            return image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{code}.png in {path} cannot be read: {error}. {_REMEDY} --overwrite).") from error


@functools.lru_cache(maxsize=16)
def archive(path: Path) -> zipfile.ZipFile:
    """An archive in memory, about 7 MB: processes forked later share it without sharing a file position.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the drawings {path} cannot be read: {error}. {_REMEDY} --overwrite).") from error
