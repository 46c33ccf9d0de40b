"""What mkdocs does not know of these pages: README.md is the first one, and some link to files outside docs/.

mkdocs.yml names this file. Such links lead to pages that show the file, below `source/`. Lists are written as for
GitHub, where two spaces continue an item; Python's Markdown wants four.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# pages that lie outside docs/, by their place in the site
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
SOURCE = "source"
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^ *(`{3,}).*?^ *\1 *$", re.DOTALL | re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside docs/, and a page for every file and folder outside docs/ that a page links to."""
    for page, path in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text("utf-8")))
    shown: dict[str, str] = {}
    for page in files.documentation_pages():
        for _, _, path in linked(page.content_string, page.src_uri):
            if place(path).startswith(f"{SOURCE}/"):
                shown |= source_pages(path)
    for page, content in shown.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with links to where things are in the site, and with lists as Python's Markdown reads them."""
    uri = page.file.src_uri
    if uri.startswith(f"{SOURCE}/"):
        return markdown
    for start, end, path in reversed([*linked(markdown, uri)]):
        markdown = markdown[:start] + relative(place(path), uri) + markdown[end:]
    return wide_lists(markdown)


def linked(markdown: str, uri: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and target of each link of a page to a file or folder that is there, its anchor left out.

    Args:
        markdown: of the page.
        uri: of the page in the site.

    Yields:
        The target as a path in the repository. mkdocs reports links to what is not there.
    """
    home = PurePosixPath(PAGES.get(uri, f"docs/{uri}")).parent
    # the same length, so that places stay
    text = FENCE.sub(lambda match: " " * len(match[0]), markdown)
    for match in LINK.finditer(text):
        path = os.path.normpath(home / match[1])
        if not path.startswith("..") and (ROOT / path).exists():
            yield match.start(1), match.end(1), path


def place(path: str) -> str:
    """Where a file or folder of the repository is in the site."""
    for page, original in PAGES.items():
        if path == original:
            return page
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{SOURCE}/{path}.md"


def relative(target: str, uri: str) -> str:
    """The link from one page of the site to another."""
    return os.path.relpath(target, PurePosixPath(uri).parent)


def source_pages(path: str) -> dict[str, str]:
    """The page of a file, by its place; of a folder the page that lists its files, and theirs."""
    found = ROOT / path
    if found.is_dir():
        files = [one for one in sorted(found.iterdir()) if one.is_file()]
        names = [one.relative_to(ROOT).as_posix() for one in files]
        lines = [f"- [{Path(name).name}]({relative(place(name), place(path))})" for name in names]
        pages = {place(path): "\n".join([f"# {path}", "", *lines, ""])}
        for name in names:
            pages |= source_pages(name)
        return pages
    text = found.read_text("utf-8")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    kind = {".yml": "yaml", ".py": "python", ".sh": "bash"}.get(found.suffix, found.suffix[1:] or "text")
    kind = {"txt": "text", "md": "markdown", "cfg": "ini"}.get(kind, kind)
    return {place(path): f"# {path}\n\n{fence}{kind}\n{text.rstrip()}\n{fence}\n"}


def wide_lists(markdown: str) -> str:
    """The lines that continue an item of a list with two more spaces."""
    lines, inside, fenced = [], False, False
    for line in markdown.split("\n"):
        if line.startswith("```"):
            fenced, inside = not fenced, False
        elif not fenced and line:
            inside = line.startswith("- ") or inside and line.startswith("  ")
        lines.append(f"  {line}" if inside and line.startswith("  ") and not fenced else line)
    return "\n".join(lines)
