"""A folder as `make data36` builds it, with ten made-up concepts whose drawings are easy to check."""

import io
import json
import zipfile
from pathlib import Path

from PIL import Image

from openpali.data.sources.builtin.emoji36_folder import FORMAT, LANGUAGES, STYLES

SEEN, HELD_OUT = 7, 3
INK = {"openmoji": (255, 0, 0), "twemoji": (0, 255, 0), "fluent": (255, 255, 0), "noto": (0, 0, 255)}
"""The colour of the left half of every drawing of a style; the right half is black."""


def concept_row(number: int) -> dict:
    name = f"thing {number}"
    return {
        "char": chr(0x1F400 + number),
        "code": f"{0x1F400 + number:X}",
        "concept": name,
        "split": "seen" if number < SEEN else "held_out",
        "names": {language: name if language == "en" else f"{language} {number}" for language in LANGUAGES},
        "keywords": {language: [f"{language} word"] for language in LANGUAGES},
        "colours": {"openmoji": "red", "twemoji": "green", "fluent": "yellow", "noto": None},
    }


def png(style: str, size: tuple[int, int] = (128, 96)) -> bytes:
    image = Image.new("RGBA", size, (0, 0, 0, 255))
    image.paste((*INK[style], 255), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_set(folder: Path, raster: int = 128) -> Path:
    """Write it; returns the folder."""
    rows = [concept_row(number) for number in range(SEEN + HELD_OUT)]
    (folder / "drawings").mkdir(parents=True)
    (folder / "concepts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for style in STYLES:
        with zipfile.ZipFile(folder / "drawings" / f"{style}.zip", "w") as archive:
            for row in rows:
                archive.writestr(f"{row['code']}.png", png(style))
    (folder / "build.json").write_text(json.dumps({"format": FORMAT, "raster": raster}), "utf-8")
    return folder
