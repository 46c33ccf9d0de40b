"""The model card that a run leaves: its metadata and its text are those of the run."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants

from openpali.recipes.publishing.card import CARD_FILE, cell, is_ours, make_card, marked, write_card
from openpali.recipes.publishing.facts import data_name, on_hub, read_facts


@pytest.fixture
def card(runs) -> Any:
    return ModelCard.load(runs["paligemma"] / CARD_FILE)


def test_the_metadata_are_those_of_the_run(card, runs):
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-text-to-text", "gemma")
    assert (data.language, data.tags, data.base_model) == (["en"], ["openpali", "paligemma"], None)
    assert data.widget == [{"text": "answer en what is this?"}]
    metrics = json.loads((runs["paligemma"] / "metrics.json").read_text())["answer"]["metrics"]
    told = {one.metric_type: one.metric_value for one in data.eval_results}
    assert told == {key: round(value, 4) for key, value in metrics.items() if key != "examples"}
    assert {one.dataset_name for one in data.eval_results} == {"emoji: answer"}
    other: Any = ModelCard.load(runs["pali3"] / CARD_FILE).data
    assert other.license is None


def test_the_text_is_that_of_the_run(card, runs):
    text = card.text
    assert "A PaliGemma, trained from a checkpoint of its author (`base-paligemma`)" in text
    metrics = json.loads((runs["paligemma"] / "metrics.json").read_text())["answer"]
    low, high = metrics["intervals"]["exact_match"]
    assert f"| {100 * low:.1f} – {100 * high:.1f} % |" in text
    assert text.count("| answer en what is this? |") == 3
    rows = [json.loads(line) for line in (runs["paligemma"] / "logs.jsonl").read_text().splitlines()]
    for row in rows:
        if "loss" in row:
            assert f"| {row['step']} | {row['loss']:.4g} |" in text
    assert "openpali predict you/my-model photo.jpg 'answer en what is this?' --max_new_tokens 6" in text
    assert "OpenMoji (https://openmoji.org), licensed CC BY-SA 4.0" in text
    assert "| `examples_per_step` | 4 |" in text
    assert str(runs["paligemma"].parent) not in text
    assert "trust_remote_code" not in text
    assert "trust_remote_code=True" in (runs["pali3"] / CARD_FILE).read_text()


def test_an_edited_card_is_kept_and_another_is_replaced(runs, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(runs["pali3"], folder)
    run = SimpleNamespace(process_index=0, folder=folder, resolved={}, max_steps=3, examples_per_step=4)
    run.say = said.append
    path = folder / CARD_FILE
    original = path.read_text()
    write_card(run)  # type: ignore[arg-type]
    assert path.read_text() != original
    assert is_ours(path.read_text())
    path.write_text(original.replace("## Use it", "## How to use it"))
    write_card(run)  # type: ignore[arg-type]
    assert "## How to use it" in path.read_text()
    assert "was edited and is kept" in said[-1]


def test_other_line_ends_are_no_edit():
    text = marked("# a card\n\nof a model\n")
    assert is_ours(text)
    assert is_ours(marked(text))
    assert marked(text) == text
    assert not is_ours(text.replace("model", "run"))
    assert not is_ours("# somebody's own\n")


def test_a_base_of_the_hub_is_named_and_a_folder_is_not(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    snapshot = tmp_path / "cache" / "models--them--base" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    assert on_hub("them/base")
    assert not on_hub("outputs/base")
    config = yaml.safe_load((runs["paligemma"] / "config.yaml").read_text()) | {"model": "them/base"}
    text = make_card(read_facts(runs["paligemma"], config))
    assert "trained from [them/base](https://huggingface.co/them/base)" in text
    data: Any = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == (["them/base"], "finetune")
    (tmp_path / "them" / "base").mkdir(parents=True)
    assert not on_hub("them/base")


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        ({"name": "custom", "path": "/home/a/shapes/", "kind": "detect"}, "shapes", "custom data, detect"),
        ({"name": "custom", "path": "hf:them/data:small", "kind": "vqa"}, "them/data", "a dataset of the Hub"),
        ({"name": "jsonl", "path": "/home/a/my.jsonl"}, "my.jsonl", "a JSONL file"),
        ({"name": "emoji", "split": "train"}, "emoji", "built-in images"),
        ({"name": "gqa", "path": "/data/gqa"}, "gqa", "in the layout of gqa"),
    ],
)
def test_data_are_named_without_their_path(source, name, kind):
    assert data_name(source) == (name, kind)


def test_a_text_stays_in_its_cell():
    assert cell("a | b\n<loc0001> `c`") == r"a \| b \<loc0001\> \`c\`"
    assert len(cell("x" * 1000)) < 210


def test_languages_of_texts_that_nothing_is_known_of_are_left_out(runs):
    def languages(**config):
        return read_facts(runs["pali3"], config).languages()

    assert languages(task={"name": "answer", "languages": ["de", "en"]}) == ["de", "en"]
    assert languages(task={"name": "plain"}, source={"name": "jsonl", "path": "x"}) == []
    assert languages(task={"name": "detect", "language": "fr"}) == ["fr"]
    assert languages(mixture={"a": {"task": {"name": "caption"}}}) == ["en"]
