"""`make web`: every part starts from the one before, in the folder of the chain. The parts have tests of their own."""

import json
from types import SimpleNamespace

import pytest
import yaml
from transformers import SiglipVisionConfig, SiglipVisionModel

from openpali.data.files.config import find_config
from openpali.scripts import nano_web_chain
from openpali.scripts.nano_web_chain import names_only, spread
from openpali.scripts.web.command import read_arguments

CONCEPTS = [
    {"concept": "car", "names": {"en": "car", "es": "coche"}},
    {"concept": "house", "names": {"en": "house", "es": "casa"}},
]


@pytest.fixture
def ran(monkeypatch):
    calls = []

    def note(name):
        return lambda *args: calls.append((name, args))

    for module in ("contrastive", "pretrain", "web"):
        monkeypatch.setattr(getattr(nano_web_chain, module), "main", note(module))
    encoder = SiglipVisionModel(SiglipVisionConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1))
    start = SimpleNamespace(model=SimpleNamespace(encoder=SimpleNamespace(vision_tower=encoder)))
    pali3 = SimpleNamespace(from_pretrained=lambda name, dtype: start)
    monkeypatch.setattr(nano_web_chain, "Pali3ForConditionalGeneration", pali3)
    for name in ("build", "write_pages"):
        monkeypatch.setattr(nano_web_chain, name, note(name))
    monkeypatch.setattr(nano_web_chain, "naming", lambda folder: {"en": 0.25 * (1 + ("made" in folder.name))})
    return calls


def test_every_part_starts_from_the_one_before(ran, tmp_path, capsys):
    folder = tmp_path / "chain"
    nano_web_chain.main(["--folder", str(folder), "--seeds", "2", "--workers", "3"])
    assert [name for name, _ in ran] == ["build", "contrastive", "web", "write_pages", *["pretrain"] * 4]
    assert ran[0][1][0] == folder / "raw"
    options = [
        dict(zip(args[0][::2], args[0][1::2])) for name, args in ran if name in ("contrastive", "web", "pretrain")
    ]
    assert options[0]["--output_dir"] == str(folder / "siglip")
    assert yaml.safe_load(options[0]["--source"])["path"] == str(folder / "raw" / "elsewhere")
    assert options[0]["--vision_checkpoint"] == str(folder / "encoder")
    assert SiglipVisionModel.from_pretrained(folder / "encoder").config.hidden_size == 8
    assert options[1]["--workers"] == "3"
    trainings = options[2:]
    assert {one["--vision_checkpoint"] for one in trainings} == {str(folder / "siglip")}
    assert len({one["--output_dir"] for one in trainings}) == 4
    read = [(yaml.safe_load(one["--source"])["path"], one["--seed"]) for one in trainings]
    made, raw = (str(folder / name / "shards") for name in ("made", "raw"))
    assert read == [(made, "0"), (raw, "0"), (made, "1"), (raw, "1")]
    assert all(find_config(one["--config"]).is_file() for one in options)
    assert "trained on the made set: en 50.0 % (± 0.0, 2 seeds)" in capsys.readouterr().out
    assert json.loads((folder / "naming.json").read_text())["raw"] == [{"en": 0.25}] * 2


def test_the_pipeline_works_in_the_folder_of_the_chain(ran, tmp_path):
    nano_web_chain.run_pipeline(tmp_path, 2)
    args, _ = read_arguments(ran[0][1][0])
    steps = {step["name"]: step for step in args.steps}
    assert steps["similarity"]["model"] == str(tmp_path / "siglip")
    assert steps["evaluation_images"]["against"] == [str(tmp_path / "raw" / "evaluation")]
    assert (args.input, args.output) == ([str(tmp_path / "raw" / "shards")], str(tmp_path / "made"))
    assert "outputs/web" not in json.dumps(args.steps)


def test_raw_shards_that_are_there_are_kept(ran, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "truth.jsonl").touch()
    nano_web_chain.build_raw(tmp_path, 100)
    assert ran == []


@pytest.mark.parametrize(
    ("text", "language", "named"),
    [
        ("a picture of a car", "en", True),
        ("esta foto muestra: coche", "en", False),
        ("esta foto muestra: Coche", "es", True),
        ("a car and a house", "en", False),
        ("a card", "en", False),
        ("", "en", False),
    ],
)
def test_a_thing_is_named_where_nothing_else_is(text, language, named):
    assert names_only(text, "car", CONCEPTS, language) == named


def test_one_value_has_no_deviation():
    assert spread([0.5]) == "50.0 %"
