"""Make docs/notebooks/NAME.ipynb of NAME.md: a cell for each block of Python or bash, and one for each text between.

python docs/tools/make_notebook.py

Bash becomes `!command`, which fills in `$NAME` from Python's variables. A command that fails stops the notebook.
"""

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FENCE = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STOP = 'assert not _exit_code, "the command stopped; its last line says why"'


def cells(text: str) -> list[dict[str, Any]]:
    """The cells of a page."""
    found, end = [], 0
    for match in FENCE.finditer(text):
        found.append(cell("markdown", text[end : match.start()]))
        found.append(cell("code", match[2] if match[1] == "python" else commands(match[2])))
        end = match.end()
    found.append(cell("markdown", text[end:]))
    found = [one for one in found if one["source"]]
    return [{"id": f"cell-{number:02}"} | one for number, one in enumerate(found)]


def cell(kind: str, text: str) -> dict[str, Any]:
    """A cell without outputs."""
    found: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.strip("\n").splitlines(keepends=True)}
    return found | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def commands(text: str) -> str:
    """Lines of bash as a cell, each with a check that it succeeded."""
    # a line that ends in a backslash goes on
    lines = re.findall(r"(?:.*\\\n)*.+\n", text)
    return "".join(f"!{line}{STOP}\n" for line in lines)


def notebook(page: Path) -> str:
    """The notebook of a page, for a runtime with a GPU."""
    metadata = {"accelerator": "GPU", "colab": {"gpuType": "T4"}, "language_info": {"name": "python"}}
    metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells(page.read_text("utf-8")), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every notebook."""
    for page in sorted(NOTEBOOKS.glob("*.md")):
        page.with_suffix(".ipynb").write_text(notebook(page), "utf-8")


if __name__ == "__main__":
    main()
