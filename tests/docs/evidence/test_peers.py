"""How other programs train PaliGemma: the page shows what was measured, and the questions find what they should."""

import importlib
import json
import re
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import page_folders as given
import pytest
from page_blocks import ROOT, blocks, run_command

GUIDE = ROOT / "docs" / "guide"
BENCHMARKS = ROOT / "benchmarks"
RESULTS = json.loads((BENCHMARKS / "results" / "peers.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def peers():
    """The modules of benchmarks/peers/, which programs import without a package."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (BENCHMARKS, BENCHMARKS / "peers"):
            patch.syspath_prepend(str(folder))
        names = ["peers.checkpoint", "peers.environments", "peers.table", "kinds", "probes", "openpali_trainer"]
        yield SimpleNamespace(**{name.split(".")[-1]: importlib.import_module(name) for name in names})


@pytest.fixture
def case(peers, tmp_path):
    peers.checkpoint.save_checkpoint(tmp_path / "tiny")
    return peers.probes.Case(str(tmp_path / "tiny"), str(tmp_path / "run"))


@pytest.fixture
def trained_badly(peers, case):
    """A trainer whose collator changes what the processor made."""

    def built(change):
        trainer = peers.openpali_trainer.build(case)
        collate = trainer.data_collator
        trainer.data_collator = lambda rows: change(collate(rows))
        return trainer

    return built


def test_the_page_shows_what_was_measured(peers):
    page = (ROOT / "docs" / "evidence" / "paligemma-elsewhere.md").read_text("utf-8")
    assert peers.table.markdown(RESULTS) in page
    assert f"\n{peers.table.versions(RESULTS)}\n" in page
    explained = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    assert explained == ["column", *peers.table.COLUMNS[1:]]


def test_the_command_of_the_page_has_these_rows(peers):
    source = (BENCHMARKS / "peers.py").read_text("utf-8")
    named = re.findall(r'^    "(.+)": Peer\("(\w+)", "(\w+)", "([^"]+)"', source, re.MULTILINE)
    assert list(RESULTS) == [name for name, *_ in named]
    for _, environment, script, variant in named:
        assert environment in {*peers.environments.REQUIREMENTS, "openpali"}
        assert f'"{variant}"' in (BENCHMARKS / "peers" / f"{script}.py").read_text("utf-8")
    pinned = [one for packages in peers.environments.REQUIREMENTS.values() for one in packages]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", one) for one in pinned)


def test_make_bench_leaves_other_programs_alone():
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    (line,) = [one for one in lines if "wildcard benchmarks/*.py" in one]
    assert re.search(r"\$\(filter-out [^,]*\bbenchmarks/peers\.py,", line)


def test_rows_of_the_table(peers):
    good = RESULTS["openpali under Transformers' Trainer"]
    shown = ["no", "image and prompt", "mean of tokens", "answer, end", "same losses", "equal", "same logits"]
    assert peers.table.cells(good)[:-1] == shown
    bad = {"future alone": True, "loss": {"error": "ValueError: a | b"}, "resume": {"same": False}}
    bad["resume"] |= {"uninterrupted": [7.6, 6.1], "resumed": [7.4, 6.3]}
    bad["accumulation"] = {"same": False, "1 x 3": {"loss": 1, "norm": 2}, "3 x 1": {"loss": 3, "norm": 4}}
    bad["prefix"] = good["prefix"] | {"the image sees the prompt": False, "the prompt sees the prompt": False}
    text = peers.table.markdown({"one": good | bad, "other": {"error": "ImportError: no such module"}})
    first, second = text.splitlines()[2:]
    assert "| yes, without padding | image | failed: ValueError: a \\| b | failed:" in first
    assert "| other losses: 7.400, not 7.600 | losses 3.00 and 1.00, gradient norms 4.00 and 2.00 |" in first
    assert second.startswith("| other | does not run: ImportError: no such module | – |")
    assert {line.count(" | ") for line in (second, text.splitlines()[0])} == {len(peers.table.COLUMNS) - 1}


def test_our_class_under_the_trainer_sees_what_the_papers_see(peers, case):
    found = peers.probes.answers(peers.openpali_trainer.build, peers.openpali_trainer.load, case)
    assert (found["future"], found["future alone"]) == (False, False)
    assert all(found["prefix"].values())
    assert (found["loss"]["kind"], found["loss"]["predicts"]) == ("mean of tokens", ["answer", "end"])
    assert found["loss"]["mean of tokens"] != pytest.approx(found["loss"]["mean of examples"], rel=1e-2)
    assert [found[key]["same"] for key in ("resume", "accumulation", "saved")] == [True, True, True]
    assert found["saved"]["moved by training"] > 0.1


def test_an_answer_that_sees_its_end_is_found(peers, case, trained_badly):
    trainer = trained_badly(lambda batch: {**batch, "token_type_ids": batch["token_type_ids"] * 0})
    assert peers.probes.sees_future(trainer, peers.kinds.Kinds.of_folder(case.model))


def test_a_prompt_that_is_read_from_left_to_right_is_found(peers, case, trained_badly):
    kinds = peers.kinds.Kinds.of_folder(case.model)
    image = kinds.ids["image"][0]
    trainer = trained_badly(lambda batch: {**batch, "token_type_ids": (batch["input_ids"] != image).long()})
    found = peers.probes.prefix_attention(trainer, kinds)
    assert peers.table.prefix(found) == "image"


def test_a_loss_on_the_prompt_is_found(peers, case, trained_badly):
    def change(batch):
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    found = peers.probes.loss_kind(trained_badly(change), peers.kinds.Kinds.of_folder(case.model))
    assert {"prompt", "image", "answer", "end"} <= set(found["predicts"])


def test_a_resumed_run_with_other_weights_is_found(peers, case):
    def build(run):
        trainer = peers.openpali_trainer.build(run)
        if run.output.endswith("resumed"):
            trainer._load_from_checkpoint = lambda *_, **__: None
        return trainer

    found = peers.probes.resumes(build, replace(case, output=f"{case.output}/bad"))
    assert not found["same"]


def test_a_question_without_an_answer_tells_why(peers, case):
    def build(run):
        raise RuntimeError("no driver\nand more")

    assert peers.probes.answers(build, None, case) == {"error": "RuntimeError: no driver"}


def test_the_script_for_trl_is_python():
    for block in blocks(GUIDE / "trl.md"):
        if block.language == "python":
            compile(block.text, str(block.page), "exec")
        else:
            assert block.commands() in (["pip install trl"], ['openpali predict outputs/trl cat.png "what is this"'])


@pytest.mark.skipif(
    find_spec("trl") is None, reason="TRL is not installed, so the script of docs/guide/trl.md is not run"
)
def test_the_script_for_trl_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given.paligemma("google/paligemma2-3b-pt-224")
    given.save_images("cat.png", "dogs.png", "bus.png")
    # without a GPU; everything else is as the page says
    quick = "max_steps=2, use_cpu=True, bf16=False"
    names = {"__name__": "block"}
    for block in blocks(GUIDE / "trl.md"):
        if block.language == "python":
            exec(compile(block.text.replace("max_steps=100", quick), "docs/guide/trl.md", "exec"), names)
    names["trainer"].train()  # with the papers' loss
    run_command('openpali predict outputs/trl cat.png "what is this"')
