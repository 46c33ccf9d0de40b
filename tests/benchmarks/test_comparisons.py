"""The comparisons' rows: their options are those of the recipes, equal steps are shared, verdicts follow intervals,
and scores are read from runs."""

import json
import math
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from openpali.eval.encoders import EncoderArguments
from openpali.recipes import captioner, classification, contrastive, pretrain, reward, siglip2, transfer
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.stages.pretrain_learning_rate import StageArguments
from openpali.recipes.stages.pretrain_start import StartArguments

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "comparisons"
sys.path.insert(0, str(FOLDER))
import page  # noqa: E402
import plan  # noqa: E402
import plots  # noqa: E402
import run  # noqa: E402
import verdicts  # noqa: E402

ROWS = {name: row for name, row in plan.read_rows().items() if "reason" not in row}
CLASSES = {
    "contrastive": [contrastive.ContrastiveArguments, RunArguments],
    "classification": [classification.ClassificationArguments, RunArguments],
    "captioner": [captioner.CaptionerArguments, RunArguments],
    "siglip2": [siglip2.Siglip2Arguments, RunArguments],
    "reward": reward.CLASSES,
    "pretrain": [pretrain.PretrainArguments, StartArguments, StageArguments],
    "transfer": transfer.CLASSES,
    "encoders": [EncoderArguments],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_whole(name):
    row = ROWS[name]
    assert row["seeds"] >= 3
    measures, variants = row["measures"], row["variants"]
    assert {*row.get("lower", []), *row.get("curves", [])} <= set(measures)
    for claim in row["claims"]:
        assert claim["measure"] in measures
        assert {*claim.get("equal", [claim.get("better"), claim.get("than")])} <= set(variants)


@pytest.mark.parametrize("name", ROWS)
def test_options_are_those_of_the_command(name):
    for chain in plan.chains(name, ROWS[name]):
        for step in chain.steps:
            known = {field.name for kind in CLASSES[step.verb] for field in fields(kind)}
            assert set(step.options) | {step.folder_option} <= known, (chain.variant, step.name)


def test_variants_that_begin_alike_share_their_steps():
    first, second = (plan.chains(name, ROWS[name]) for name in ("05-mask-of-the-prompt", "08-connector"))
    encoders = [[chain.steps[0].key for chain in chains] for chains in (first, second)]
    assert len(set(encoders[0])) == ROWS["05-mask-of-the-prompt"]["seeds"]  # one for each seed, for all variants
    assert set(encoders[0]) == set(encoders[1])
    stages = [chain.steps[1].key for chain in plan.chains("05-mask-of-the-prompt", ROWS["05-mask-of-the-prompt"])]
    assert len(set(stages)) == len(stages)


def test_an_earlier_change_changes_the_later_steps():
    step = plan.Step("b", "pretrain", {"model": "{a}"}, {"a": "1"})
    assert step.key != plan.Step("b", "pretrain", {"model": "{a}"}, {"a": "2"}).key
    # a step that is not named does not matter
    assert plan.Step("b", "x", {}, {"a": "1"}).key == plan.Step("b", "x", {}, {"a": "2"}).key
    assert step.resolved(Path("runs")) == {"model": "runs/1", "output_dir": f"runs/{step.key}"}


def test_changes_are_laid_over_level_by_level():
    found = plan.merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "d": None, "e": 5})
    assert found == {"a": {"b": 4, "c": 2}, "e": 5}


def test_a_variant_can_take_away_what_its_row_and_the_shared_step_have():
    row = {"seeds": 1, "chain": ["more"], "steps": {"more": {"image_size": 96}}}
    row["variants"] = {"new": {"more": {"model": None, "image_size": None, "family": "paligemma"}}}
    ((step,),) = [chain.steps for chain in plan.chains("x", row)]
    assert not {"model", "image_size"} & set(step.options)
    assert step.options["family"] == "paligemma"


def scores(**values):
    return {name: {seed: {"f1": value} for seed, value in enumerate(found)} for name, found in values.items()}


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ([0.8, 0.81, 0.82], [0.5, 0.52, 0.51], "agrees"),
        ([0.5, 0.52, 0.51], [0.8, 0.81, 0.82], "disagrees"),
        ([0.5, 0.9, 0.7], [0.6, 0.6, 0.6], "not decided"),
        ([0.5], [0.1], "not decided"),  # one seed has no interval
    ],
)
def test_a_difference_is_decided_by_its_interval(first, second, word):
    claim = {"measure": "f1", "better": "a", "than": "b"}
    assert verdicts.verdict(claim, scores(a=first, b=second), []).word == word
    opposite = {"agrees": "disagrees", "disagrees": "agrees"}.get(word, word)
    assert verdicts.verdict(claim, scores(a=first, b=second), ["f1"]).word == opposite


@pytest.mark.parametrize(
    ("second", "word"),
    [([0.5, 0.51, 0.49], "agrees"), ([0.9, 0.91, 0.92], "disagrees"), ([0.2, 0.9, 0.5], "not decided")],
)
def test_an_equality_needs_the_interval_within_the_margin(second, word):
    claim = {"measure": "f1", "equal": ["a", "b"], "within": 0.05}
    assert verdicts.verdict(claim, scores(a=[0.5, 0.5, 0.5], b=second), []).word == word


def test_the_interval_is_students():
    # t(0.975, 2) = 4.3027, deviation 0.1, three seeds
    found = verdicts.mean_of([0.4, 0.5, 0.6])
    assert found.value == pytest.approx(0.5)
    assert found.half == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A row whose steps are programs that write their scores, and a count of their runs."""
    program = tmp_path / "step.py"
    program.write_text(
        "import json, pathlib, sys\n"
        "options = dict(a.split('=', 1) for a in sys.argv[1:])\n"
        "folder = pathlib.Path(options['--output'])\n"
        "with open(folder.parent / 'runs.txt', 'a') as file: file.write(options['--value'] + '\\n')\n"
        "if options['--value'] == '13': sys.exit('unlucky')\n"
        "(folder / 'metrics.json').write_text(json.dumps({'f1': float(options['--value'])}))\n"
    )

    def command(step, root):
        given = [f"--{name}={value}" for name, value in step.resolved(root).items()]
        return [sys.executable, str(program), *given]

    monkeypatch.setattr(run, "step_command", command)
    return tmp_path


def chain(variant, value):
    step = plan.Step("only", "x", {"value": value}, {}, "output")
    return plan.Chain("row", variant, 0, (step,))


def test_a_run_keeps_scores_and_runs_no_step_twice(folder):
    results = folder / "results.jsonl"
    rows = {"row": {"measures": {"F1": "only:f1"}}}
    todo = [chain("a", 1), chain("b", 1), chain("c", 13)]
    for _ in range(2):
        (failure,) = run.run_all(todo, rows, folder, 2, results)
        assert "comparison.log" in failure
    assert sorted((folder / "runs.txt").read_text().split()) == ["1", "13", "13"]
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(line["variant"], line["scores"]) for line in lines] == [("a", {"F1": 1.0}), ("b", {"F1": 1.0})]
    assert lines[0]["cpu_seconds"]["only"] >= 0


def test_variants_with_scores_of_the_same_steps_are_not_missing(folder):
    results = folder / "results.jsonl"
    kept = chain("a", 1)
    assert not run.run_all([kept], {"row": {"measures": {"F1": "only:f1"}}}, folder, 1, results)
    lines = run.read_results(results)
    assert run.has_scores(kept, lines)
    assert not run.has_scores(chain("a", 2), lines)  # its options are others by now
    assert not run.has_scores(chain("b", 1), lines)


def test_the_results_are_of_the_rows_as_they_are():
    chains = {chain.name: chain for name, row in ROWS.items() for chain in plan.chains(name, row)}
    lines = run.read_results()
    assert [name for name in lines if name not in chains or not run.has_scores(chains[name], lines)] == []


def test_scores_of_the_last_validation(tmp_path):
    rows = [{"step": 1, "eval_f1": 0.1}, {"step": 2, "eval_f1": 0.3}, {"step": 2, "loss": 1.0}]
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run.read_score(tmp_path, "f1") == 0.3
    assert run.read_score(tmp_path, "map") is None
    (tmp_path / "metrics.json").write_text(json.dumps({"probe": {"a name": {"mean": 0.7}}}))
    assert run.read_score(tmp_path, "probe.*.mean") == 0.7
    assert run.read_score(tmp_path, "probe.*.mean.more") is None


def test_curves_of_all_validations(tmp_path):
    own = chain("a", 1)
    folder = tmp_path / own.steps[0].key
    folder.mkdir()
    rows = [{"step": 0, "eval_f1": 0.1}, {"step": 1, "loss": 2.0}, {"step": 2, "eval_f1": 0.3}]
    (folder / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {"measures": {"F1": "only:f1", "CIDEr": "other:cider"}, "curves": ["F1", "CIDEr"]}
    assert run.found_curves(own, row, tmp_path) == {"F1": [[0, 0.1], [2, 0.3]], "CIDEr": []}
    line = {"variant": "a", "curves": {"F1": [[0, 0.1], [2, 0.3]]}}
    shorter = line | {"curves": {"F1": [[0, 0.1]]}}
    row = row | {"variants": {"a": {}}, "curves": ["F1"]}
    plots.plot_curves([line, line, shorter], row, tmp_path / "curves.svg")
    assert "F1" in (tmp_path / "curves.svg").read_text()


def test_a_verdict_shows_its_difference():
    claim = {"measure": "f1", "better": "a", "than": "b"}
    text = "f1: a better than b: difference 0.200 ± 0.000, **agrees**"
    assert str(verdicts.verdict(claim, scores(a=[0.5, 0.5, 0.5], b=[0.3, 0.3, 0.3]), [])) == text
    assert str(verdicts.verdict(claim, scores(a=[0.5]), [])) == "f1: a better than b: not run"


def test_the_pages_are_those_of_the_results():
    for file, text in page.make_pages(write_plots=False).items():
        assert file.read_text("utf-8") == text, "run benchmarks/comparisons/page.py"
        for figure in re.findall(r"!\[.*?\]\((.*?)\)", text):
            assert (file.parent / figure).is_file(), f"{figure}: run benchmarks/comparisons/page.py"


def test_every_row_has_its_page():
    rows = plan.read_rows()
    assert {row["page"] for row in rows.values()} == set(page.PAGES)
    first, *pages = page.make_pages(write_plots=False).values()
    for name, row in rows.items():
        assert first.count(f"[{page.heading(name, row)}]") == 1
        assert sum(f"## {page.heading(name, row)}\n" in text for text in pages) == 1
