"""`make docs`: the pages become a site whose links lead somewhere and that fetches nothing from elsewhere."""

import re
import subprocess
import sys

import pytest
from page_blocks import ROOT

pytest.importorskip("material", reason='make docs needs mkdocs-material: pip install -e ".[docs]"')

from mkdocs.config import load_config  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Strict: a broken link or anchor, or a page that the navigation lacks, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_the_first_one_is_the_readme(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")}
    assert {path if path.name != "README.md" else path.with_name("index.md") for path in pages} <= built
    assert "<h1" in (site / "index.html").read_text("utf-8")
    assert 'src="located.png"' in (site / "index.html").read_text("utf-8")
    assert not (site / "tools").exists()


def test_links_out_of_docs_lead_to_the_files(site):
    text = (site / "transfers.html").read_text("utf-8")
    assert 'href="source/recipes/configs/transfers/vqav2.yaml.html"' in text
    shown = (site / "source/recipes/configs/transfers/vqav2.yaml.html").read_text("utf-8")
    assert "per_device_train_batch_size" in shown
    for page in site.rglob("*.html"):
        for link in re.findall(r'href="([^"#:]+)(?:#[^"]*)?"', page.read_text("utf-8")):
            assert link.startswith("/") or (page.parent / link).exists(), (page.name, link)


def test_nothing_is_fetched_from_elsewhere(site):
    fetched = r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?https?:|<link\b[^>]*\bhref=\"?https?:"
    assert [page.name for page in site.rglob("*.html") if re.search(fetched, page.read_text("utf-8"))] == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not any(re.search(r"url\([\"']?https?:|@import", text) for text in styles)


def test_tables_lists_and_blocks_in_lists_are_rendered(site):
    for page in site.rglob("*.html"):
        assert not re.search(r"^\|[ -]+\||<p>- |<p>\|", page.read_text("utf-8"), re.MULTILINE), page
    # a block of code within an item of a list
    assert re.search(r"<code>detect\s+\"detect circle", (site / "training.html").read_text("utf-8"))


def test_the_navigation_has_every_page_once():
    def flat(part):
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part
        return [one for each in parts for one in flat(each)]

    named = flat(load_config(str(ROOT / "mkdocs.yml")).nav)
    assert len(named) == len(set(named))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(named) - {"index.md", "contributing.md"} == there
