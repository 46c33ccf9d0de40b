"""One run in trackio (a local SQLite file), wandb (offline) and TensorBoard, interrupted and resumed."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_run
from torch.utils.tensorboard import SummaryWriter

from openpali.data.files.config import ConfigError
from openpali.eval.answering.evaluate_task import TaskResult
from openpali.recipes.run import tracker_names
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.trackers.tables import SAMPLES, SampleTables, log_trackio, log_wandb, markdown_table, sample_rows

# read when trackio is imported
STORE = Path(os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp()))
STATE = SimpleNamespace(is_world_process_zero=True, global_step=7)


def parsed(*words):
    return parse([RunArguments], ["--output_dir", "x", "--use_cpu", "true", *words])[0]


@pytest.fixture
def installed(monkeypatch):
    """Names of the trackers that are installed, as the machine tells Transformers."""
    names = ["tensorboard", "trackio", "wandb"]
    monkeypatch.setattr(tracker_names, "get_available_reporting_integrations", lambda: names)
    return names


@pytest.mark.parametrize("words", [["trackio", "wandb"], ["trackio,wandb"], ["wandb", "trackio", "tensorboard"]])
def test_several_trackers_are_named_in_one_option(installed, words):
    run = parsed("--tensorboard", "false", "--report_to", *words)
    assert sorted(run.report_to) == ["trackio", "wandb"]
    assert run.tensorboard == ("tensorboard" in words)
    # nothing is published unless it is asked for
    assert run.trackio_static_space_id is False
    assert parsed().report_to == parsed("--report_to", "none").report_to == []


def test_a_missing_package_is_told_with_its_command_before_anything_is_loaded(installed):
    installed.remove("wandb")
    with pytest.raises(ConfigError, match=r'wandb is not installed: pip install "openpali\[trackers\]"'):
        parsed("--report_to", "trackio", "wandb")


def result(count=SAMPLES + 4):
    rows = [
        {"id": f"id-{i}", "index": i, "prefix": "what?", "text": "a | <b>", "references": ["x", "y"], "score": i / 2}
        for i in range(count)
    ]
    return TaskResult("naming", {"exact_match": 0.5}, rows, "exact_match")


def test_tables_hold_the_first_examples_and_are_safe_markdown():
    rows = list(sample_rows(result()))
    assert len(rows) == SAMPLES
    assert rows[1] == {"id": "id-1", "prompt": "what?", "prediction": "a | <b>", "reference": "x · y", "score": 0.5}
    lines = markdown_table(rows[:1]).split("\n")
    assert lines[0] == "| id | prompt | prediction | reference | score |"
    assert lines[2] == "| id-0 | what? | a &#124; &#60;b> | x · y | 0.000 |"


def test_tensorboard_has_the_table_of_each_validation(tmp_path):
    found = {"naming": result()}
    validation = SimpleNamespace(datasets={}, last=found)
    with SummaryWriter(str(tmp_path)) as writer:
        tables = SampleTables(validation, SimpleNamespace(trackers=[]), lambda: writer)
        tables.on_evaluate(None, STATE, None)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    (event,) = events.Tensors("predictions/naming/text_summary")
    assert event.step == 7
    assert b"| id-15 |" in event.tensor_proto.string_val[0]
    assert b"id-16" not in event.tensor_proto.string_val[0]


def test_a_resumed_run_goes_on_in_trackio(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason='TRACKIO IS NOT TRIED: pip install "openpali[trackers]"')
    options = {"output_dir": str(tmp_path), "report_to": "trackio", "project": "resumed", "save_steps": 2}
    tiny_run(**options, max_steps=2)
    tiny_run(**options, max_steps=4, resume="auto")
    name = json.loads((tmp_path / "trackers.json").read_text())["run"]
    assert name.startswith(f"{tmp_path.name}-")
    with sqlite3.connect(STORE / "resumed.db") as store:
        rows = store.execute("select run_name, step, metrics from metrics order by step").fetchall()
    rows = [(run, step, json.loads(values)) for run, step, values in rows]
    losses = [values["train/global_step"] for _, _, values in rows if "train/loss" in values]
    assert losses == [1, 2, 3, 4]
    assert {run for run, _, _ in rows} == {name}
    # steps of trackio go on as well
    assert len({step for _, step, _ in rows}) == len(rows)

    trackio.init(project="tables", name="one", resume="allow", auto_log_cpu=False)
    log_trackio("predictions/naming", list(sample_rows(result(2))), [Image.new("RGB", (8, 8)), None])
    trackio.finish()
    with sqlite3.connect(STORE / "tables.db") as store:
        ((values,),) = store.execute("select metrics from metrics").fetchall()
    table = json.loads(values)["predictions/naming"]["_value"]
    assert [row["prediction"] for row in table] == ["a | <b>"] * 2
    assert table[0]["image"]["_type"] == "trackio.image"


OFFLINE_RUN = """
import socket, sys
asked = []
def refuse(self, address, connect=socket.socket.connect):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        asked.append(address)
    return connect(self, address)
socket.socket.connect = refuse
from tiny_run import tiny_run
for steps in (2, 4):
    tiny_run(output_dir=sys.argv[1], report_to=sys.argv[2], save_steps=2, max_steps=steps, resume="auto")
import wandb
assert wandb.run is None
assert not asked, asked
"""


def test_offline_wandb_has_both_parts_under_one_id_and_no_tracker_asks_a_network(tmp_path):
    pytest.importorskip("wandb", reason='WANDB IS NOT TRIED: pip install "openpali[trackers]"')
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = os.environ | {"WANDB_MODE": "offline", "HTTPS_PROXY": address, "HTTP_PROXY": address}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
        # a login, of which trackio would ask the Hub who it is
        environment |= {
            "HF_TOKEN": "hf_nobody",
            "HF_HUB_OFFLINE": "1",
            "TRACKIO_DIR": str(tmp_path / "run" / "trackio"),
        }
        trackers = ",".join(name for name in ("wandb", "trackio") if find_spec(name))
        command = [sys.executable, "-c", OFFLINE_RUN, str(tmp_path / "run"), trackers]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        # wandb's own program takes the proxy too, and nobody has called
        with pytest.raises(BlockingIOError):
            proxy.accept()
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["run"]
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert [part.name for part in parts] == [f"run-{name}.wandb"] * len(parts)
    # a second that both began in gives them one folder
    assert len(parts) in (1, 2)
    assert b"grad_norm" in b"".join(part.read_bytes() for part in parts)
    # nothing beside the run's folder
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_table_of_wandb_has_images(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason='WANDB IS NOT TRIED: pip install "openpali[trackers]"')
    logged = []
    monkeypatch.setattr(wandb, "log", logged.append)
    log_wandb("predictions/naming", list(sample_rows(result(2))), [Image.new("RGB", (8, 8)), None], 3)
    (values,) = logged
    table = values["predictions/naming"]
    assert values["train/global_step"] == 3
    assert table.columns == ["image", "id", "prompt", "prediction", "reference", "score"]
    assert [row[3] for row in table.data] == ["a | <b>"] * 2
    assert isinstance(table.data[0][0], wandb.Image)
    assert table.data[1][0] is None
