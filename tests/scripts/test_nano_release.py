"""What ships is made from a run by one function: small, in 16 bits, with its mask tokenizer and card."""

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_adapters import save_checkpoint
from tiny_mask_vqvae import save_codec

from openpali.data.files.config import find_config
from openpali.eval.answering.load_model import load_model
from openpali.scripts import nano_release

STAGES = [f"nano/{family}-{stage}" for family in nano_release.FAMILIES for stage in nano_release.STAGES]


@pytest.fixture
def runs(tmp_path, tiny_tokenizer, monkeypatch):
    """The folder of the last stages, with tiny models."""
    for family in nano_release.FAMILIES:
        run = save_checkpoint(family, tiny_tokenizer, tmp_path / f"{family}-mix")
        save_codec(run / "mask_vqvae")
    monkeypatch.setattr(nano_release, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", nano_release.FAMILIES)
def test_a_run_is_packed_in_16_bits_and_loads(family, runs, tmp_path):
    nano_release.pack(family, tmp_path / "out")
    folder = tmp_path / "out" / f"{family}-nano"
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert load_file(folder / "mask_vqvae" / "model.safetensors").popitem()[1].dtype == torch.float16
    model, processor = load_model(str(folder))
    before, _ = load_model(str(runs / f"{family}-mix"))
    for name, weight in before.state_dict().items():
        assert torch.equal(weight.bfloat16(), model.state_dict()[name]), name
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    assert processor.tokenizer.convert_tokens_to_ids("<loc0000>") > 0


def test_a_checkpoint_that_is_too_large_does_not_ship(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(nano_release, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="is larger than"):
        nano_release.pack("pali3", tmp_path / "out")


def test_the_tokenizer_learns_the_texts_of_every_task_and_no_location(monkeypatch):
    config = yaml.safe_load(find_config("nano/pali3-stage1").read_text("utf-8"))
    texts = list(nano_release.mixture_texts(config, 3))
    assert not any("<loc" in text or "<seg" in text for text in texts)
    for word in ("detect ", "caption ", "answer en how many ", "ocr"):
        assert any(text.startswith(word) for text in texts), word


@pytest.mark.parametrize("stage", STAGES)
def test_all_stages_train_the_same_tasks_on_images_of_their_size(stage):
    config, first = (yaml.safe_load(find_config(name).read_text("utf-8")) for name in (stage, STAGES[0]))
    assert {name: entry["task"] for name, entry in config["mixture"].items()} == {
        name: entry["task"] for name, entry in first["mixture"].items()
    }
    sizes = {spec["size"] for spec in (config["source"], config["mixture"]["ocr"]["source"])}
    assert sizes == {64 if stage.endswith("stage1") else 96}
