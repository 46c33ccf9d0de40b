"""The notebook is that of its page, and runs from the first to the last cell: on the CPU, with a small model."""

import configparser
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import page_folders as given
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from page_blocks import ROOT, words

from openpali.modeling.transformers_versions import RELEASE, peft_refusal
from openpali.recipes.costs.command import main as costs

sys.path.append(str(ROOT / "docs" / "tools"))
from make_notebook import STOP, commands, notebook  # noqa: E402

PAGE = ROOT / "docs" / "notebooks" / "finetune_paligemma.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
# the shortest training that there is
EXTRA = "--max_steps 2 --eval_limit 2 --test_limit 2 --use_cpu true --task.max_new_tokens 6 --save_steps 1"


def test_the_notebook_is_that_of_its_page():
    assert NOTEBOOK.read_text("utf-8") == notebook(PAGE), "run python docs/tools/make_notebook.py"
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


def test_a_command_over_several_lines_is_one_and_is_checked():
    made = commands("openpali a \\\n    --b $C\nopenpali d\n")
    assert made == f"!openpali a \\\n    --b $C\n{STOP}\n!openpali d\n{STOP}\n"


def test_it_runs_from_the_first_to_the_last_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given.paligemma("small")
    # transformers that refuse every peft leave training in full
    settings = {"MODEL": "small", "BASE": "you/small", "PEFT": "none" if peft_refusal() else "lora", "EXTRA": EXTRA}
    settings |= {"SCENES": "20", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "JUPYTER_PLATFORM_DIRS": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    found = nbformat.read(NOTEBOOK, as_version=4)
    # an error in a cell raises
    NotebookClient(
        found, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    code = [one for one in found.cells if one.cell_type == "code"]
    assert [one.execution_count for one in code] == list(range(1, len(code) + 1))
    told = "".join(output.get("text", "") for one in code for output in one.outputs)
    assert "16 records of 16 images" in told
    assert "on blank images" in told
    pictures = [output for one in code for output in one.outputs if "image/png" in output.get("data", {})]
    # ten examples, and the answers about two images
    assert len(pictures) == 3
    assert {path.name for path in (tmp_path / "answered").iterdir()} == {"0_answer.png", "1_answer.png"}
    assert (tmp_path / "outputs/boxes/report.html").exists()
    card = (tmp_path / "outputs/boxes-push/README.md").read_text("utf-8")
    assert "base_model:\n- you/small" in card


@pytest.mark.adapters
def test_what_a_t4_takes_is_what_openpali_costs_prints(capsys):
    text = PAGE.read_text("utf-8")
    (command,) = re.findall(r"`(openpali costs [^`]+)`", text)
    (quoted,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    costs(words(command)[2:])
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in quoted.splitlines() if line not in printed] == []
    # what the training of the page takes, of the memory with checkpointing
    (batch,) = re.findall(r"a batch of (\d+) fits", text)
    assert f"--per_device_train_batch_size {batch} " in text
    most = re.search(r"16 GB: \d+ \((\d+)\)", quoted)
    assert most
    assert int(batch) <= int(most[1])


@pytest.mark.skipif(RELEASE >= (5, 24), reason="the pins are for Transformers 5.23")
def test_the_releases_that_it_installs_accept_each_other():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    ours = {one.name: one.specifier for one in map(Requirement, setup["options"]["install_requires"].split())}
    source = "".join(line for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] for line in cell["source"])
    (line,) = re.findall(r"%pip install .*", source)
    pins = {one.name: one.specifier for one in map(Requirement, re.findall(r'"(\w+[<>=][^"]*)"', line))}
    assert set(pins) == {"transformers", "peft"}
    assert pins["peft"] == ours["peft"]
    assert all(bound.contains("5.23.0") for bound in (pins["transformers"], ours["transformers"]))
    assert not pins["transformers"].contains("5.24.0")
    assert peft_refusal() is None
