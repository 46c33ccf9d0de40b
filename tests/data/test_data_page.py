import re
import shlex
import subprocess
import sys
from pathlib import Path

import openpali.data
from openpali.data.sources.drawings import concept_chars
from openpali.data.tasks import TASKS

PAGE = (Path(openpali.data.__file__).parents[1] / "docs" / "data.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_what_the_page_runs_runs(drawings, monkeypatch, capsys):
    monkeypatch.setenv("OPENPALI_CACHE", str(drawings))
    assert len(blocks("python")) == 1
    exec(compile(blocks("python")[0], "docs/data.md", "exec"), {})
    assert re.match(r"(answer|caption) (en|de).* -> .+", capsys.readouterr().out)
    (command,) = blocks("bash")
    arguments = shlex.split(command)
    assert arguments[0] == "python"
    found = subprocess.run([sys.executable, *arguments[1:]], capture_output=True, text=True, check=True)
    assert found.stdout.count("what is the largest thing?") == 10


def test_what_the_page_counts_is_right():
    for text, split in [("of the 204 things", "seen"), ("50 things", "held_out")]:
        number = int(re.search(r"\d+", text)[0])
        assert text in PAGE
        assert len(concept_chars(split, number)) == number
    assert all(f"`{name}" in PAGE or f"{name}.py" in PAGE for name in TASKS)
