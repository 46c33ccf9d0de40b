"""Miniature npm packages of the layout that `make data36` reads, and an `npm` that hands them out."""

import io
import json
import shutil
import tarfile
from pathlib import Path

from openpali.data.sources.builtin.emoji36_folder import LANGUAGES
from openpali.scripts.emoji36.packages import ANNOTATIONS, DERIVED, ICONS, Package

CONCEPTS = ["🐶", "🍎", "🚗", "🌲", "🏠", "❤", "👨"]
"""What is left of everything below."""
VARIANTS = ["👋🏻", "🏃\u200d♀", "1\u20e3", "🔹", "👩\u200d🚀"]
UNNAMED, UNDRAWN, DOUBLE = "🐱", "🐭", "🧔"
NAMES = dict(zip(CONCEPTS, ["dog", "apple", "car", "tree", "house", "red heart", "man"]))
NAMES |= {UNNAMED: "cat", UNDRAWN: "mouse", DOUBLE: "person: beard", "{": "brace"}
NAMES |= {char: f"variant {number}" for number, char in enumerate(VARIANTS)}
CLDR = {language: "qu" if language == "quz" else language for language in LANGUAGES}
SQUARE = '<path fill="#e02020" d="M4 4h8v4H4z"/>'


def annotations(language: str, chars: list[str]) -> dict:
    """CLDR's form: names and keywords in lists, the name among the keywords, some without keywords."""
    table = {}
    for char in chars:
        name = NAMES[char] if language == "en" else f"  {language}\u00a0{NAMES[char]} "
        table[char] = {"tts": [name], "default": [name, f"{language} word", "cafe\u0301"]}
    if language == "mi":
        table.pop(UNNAMED, None)
    if language == "te" and DOUBLE in table:
        table[DOUBLE]["tts"] = table["👨"]["tts"]
    if "🌲" in table:
        del table["🌲"]["default"]
    return {"identity": {"language": language}, "annotations": table}


def icons(chars: list[str]) -> dict[str, dict]:
    """Iconify's form; an icon that is another one mirrored stands among the aliases."""
    names = {char: f"icon-{number}" for number, char in enumerate(chars)}
    drawn = {name: {"body": SQUARE} for name in names.values()} | {"unused": {"body": SQUARE, "hidden": True}}
    drawn["icon-0"] = {"body": '<circle fill="#2020e0" cx="4" cy="8" r="4"/>', "width": 8}
    codes = {"-".join(f"{ord(part):x}" for part in char): name for char, name in names.items()}
    aliases = {"turned": {"parent": "icon-1", "hFlip": True}}
    table = {"prefix": "x", "icons": drawn, "aliases": aliases, "width": 16, "height": 16}
    return {"icons.json": table, "chars.json": codes | {"1f449": "turned"}}


def contents() -> dict[str, dict[str, bytes]]:
    """Files by archive and then by member, without `package/`."""
    simple = [char for char in NAMES if "\u200d" not in char]
    joined = [char for char in NAMES if "\u200d" in char]
    found: dict[str, dict[str, object]] = {ANNOTATIONS.archive: {}, DERIVED.archive: {}}
    for language, code in CLDR.items():
        tables = {"annotations": annotations(language, simple)}
        found[ANNOTATIONS.archive][f"annotations/{code}/annotations.json"] = tables
        tables = {"annotationsDerived": annotations(language, joined)}
        found[DERIVED.archive][f"annotationsDerived/{code}/annotations.json"] = tables
    for style, package in ICONS.items():
        left = [char for char in NAMES if char != "{" and not (style == "fluent" and char == UNDRAWN)]
        found[package.archive] = dict(icons(left))
    files = {name: {path: json.dumps(table).encode() for path, table in own.items()} for name, own in found.items()}
    files[ANNOTATIONS.archive]["LICENSE"] = "UNICODE LICENSE V3\n\nCopyright © Unicode".encode()
    return files


def write_archive(folder: Path, package: Package, files: dict[str, bytes]) -> Path:
    """An archive as npm makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / package.archive, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder / package.archive


def write_archives(folder: Path, files: dict[str, dict[str, bytes]]) -> Path:
    """All of them; returns the folder."""
    for package in (ANNOTATIONS, DERIVED, *ICONS.values()):
        write_archive(folder, package, files[package.archive])
    return folder


def write_npm(folder: Path, script: str) -> Path:
    """A program `npm` which a shell runs, in a folder that holds no other."""
    folder.mkdir(exist_ok=True)
    (folder / "npm").write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (folder / "npm").chmod(0o755)
    return folder
