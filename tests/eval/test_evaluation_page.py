import re
import shlex
from pathlib import Path

import evaluate

import openpali.eval
from openpali.eval.evaluate_task import METRICS, load_metric
from openpali.eval.predict import parse_arguments
from openpali.eval.run import main

ROOT = Path(openpali.eval.__file__).parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands():
    lines = "".join(blocks("sh")).replace("\\\n", " ").split("\n")
    return [shlex.split(line) for line in lines if line]


def test_commands_parse(monkeypatch):
    seen = []
    monkeypatch.setattr("openpali.eval.run.run", lambda args: seen.append(args) or {})
    for words in commands():
        if words[0] == "accelerate":
            words = ["openpali", "eval", *words[words.index("openpali.eval.run") + 1 :]]
        program, verb, *arguments = words
        assert program == "openpali"
        if verb == "eval":
            main(arguments)
        else:
            seen.append(parse_arguments(arguments))
    measured = [args for args in seen if "task" in vars(args)]
    assert {"answer", "detect"} <= {args.task for args in measured}
    assert [args.task for args in measured if args.box_scores] == ["detect"]
    assert [bool(args.masks) for args in seen if "masks" in vars(args)] == [False, False, True]


def test_metrics_run_as_shown(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = [block for block in blocks("python") if "evaluate.load" in block]
    assert len(shown) == 2
    for block in shown:
        *before, last = block.strip().split("\n")
        names = {"evaluate": evaluate}
        exec("\n".join(before), names)
        result = eval(last, names)
        assert next(iter(result.values())) == 1.0


def test_the_table_names_every_metric_and_its_keys():
    rows = dict(re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE))
    assert set(rows) == {path.name for path in METRICS.iterdir() if path.is_dir()}
    for name in ("box_f1", "segmentation"):
        result = load_metric(name).compute(predictions=[[]], references=[[]])
        assert re.findall(r"\w+", rows[name]) == list(result)
