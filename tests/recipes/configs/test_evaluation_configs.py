"""The configurations for evaluation alone run on miniatures of their datasets, as their first lines say."""

import json
import shlex

import pytest
import synthetic_evaluation
from tiny_adapters import save_checkpoint

from openpali.data.files.config import CONFIGS
from openpali.eval import run as evaluation
from openpali.eval.answering.confidence import answer_confidence

SHIPPED = sorted(path.stem for path in (CONFIGS / "evaluation").glob("*.yaml"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_tokenizer):
    return str(save_checkpoint("paligemma", tiny_tokenizer, tmp_path_factory.mktemp("paligemma")))


def commands(name):
    """Command lines in the comments of a configuration; `#   ` continues the line before."""
    lines = (CONFIGS / "evaluation" / f"{name}.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("# ") for line in lines if line.startswith("# ")).replace("\n  ", " ")
    return [shlex.split(line)[2:] for line in text.split("\n") if line.startswith("openpali eval ")]


def test_every_configuration_has_a_miniature():
    assert set(SHIPPED) == set(synthetic_evaluation.MINIATURES)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_set_is_evaluated_as_its_first_lines_say(name, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / name.removesuffix("_multiview")
    synthetic_evaluation.MINIATURES[name](folder)
    given = commands(name)
    assert given[0][:2] == ["--config", f"evaluation/{name}"]
    for number, line in enumerate(given):
        assert line[2] == "--model"
        line[3], line[line.index("--output") + 1] = checkpoint, f"scores-{number}"
        if "--toxicity" in line:
            del line[line.index("--toxicity") :]
        evaluation.main([*line, "--device", "cpu", "--limit", "6", "--batch_size", "3"])
        content = json.loads((tmp_path / f"scores-{number}" / "metrics.json").read_text())
        assert content["metrics"][content["metric_key"]] >= 0
        assert content["metric_key"] in content["intervals"]
        assert bool(content["groups"]) == (name in ("miap", "fairface"))


def test_letters_are_read_from_the_answers(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic_evaluation.mmvp(tmp_path / "data" / "mmvp")
    line = commands("mmvp")[2]
    line[3] = checkpoint
    evaluation.main([*line, "--device", "cpu", "--limit", "2"])
    rows = [json.loads(row) for row in (tmp_path / "outputs" / "mmvp" / "predictions.jsonl").read_text().splitlines()]
    assert [row["prefix"] for row in rows] == ["Is it 0? (a) Red (b) Blue Answer with the letter alone."] * 2
    assert [row["references"] for row in rows] == [["(a)"], ["(b)"]]
    assert rows[0]["reference"] == {"answers": ["(a)"], "type": "pair 1"}


def test_answers_about_views_have_confidences(checkpoint, tmp_path):
    source = {"name": "objaverse_multiview", **synthetic_evaluation.objaverse(tmp_path / "data")}
    output = tmp_path / "scores"
    options = ["--config", "evaluation/objaverse_multiview", "--model", checkpoint, "--source", json.dumps(source)]
    evaluation.main([*options, "--output", str(output), "--device", "cpu", "--limit", "4"])
    rows = [json.loads(row) for row in (output / "predictions.jsonl").read_text().splitlines()]
    assert all(0 < answer_confidence(row) < 1 for row in rows)
