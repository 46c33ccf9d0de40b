"""Adapters go on the weights that they were trained on, wherever those are now, and on no others."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import FAMILIES, save_adapters, save_checkpoint

from openpali.eval.answering.base_weights import BASE_FILE, fingerprint
from openpali.eval.answering.load_model import load_model
from openpali.modeling.auto import load_answering
from openpali.modeling.user_errors import CheckpointError
from openpali.scripts.merge_adapter import main, merge_adapter

pytestmark = pytest.mark.adapters


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture(scope="module")
def adapters(base):
    save_adapters(base, "lora", base.parent / "lora")
    return base.parent / "lora"


def changed(base, folder, change):
    shutil.copytree(base, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def move_slightly(weights):
    for key, value in weights.items():
        weights[key] = value + 0.02


def test_other_weights_of_the_same_shapes_are_refused(base, adapters, tmp_path):
    other = changed(base, tmp_path / "other", move_slightly)
    with pytest.raises(SystemExit) as stop:
        main([str(adapters), str(tmp_path / "merged"), "--base", str(other)])
    assert stop.value.code == (
        f"openpali merge: the adapters of {adapters} were not trained on the weights of {other} but on what was at"
        f" {base}, and would be wrong on any others: give that checkpoint as base"
    )
    assert not (tmp_path / "merged").exists()


def test_a_base_that_was_trained_on_in_its_place_is_refused_by_all(base, tmp_path):
    place = shutil.copytree(base, tmp_path / "base")
    save_adapters(place, "lora", tmp_path / "lora")
    load_model(str(tmp_path / "lora"), "cpu")
    changed(base, place, move_slightly)
    for use in (lambda: load_model(str(tmp_path / "lora"), "cpu"), lambda: merge_adapter(tmp_path / "lora", "new")):
        with pytest.raises(CheckpointError, match=f"not trained on the weights of {place} but on what was there then"):
            use()


def test_a_merged_adapter_is_another_base(base, adapters, tmp_path):
    merged = merge_adapter(adapters, tmp_path / "merged")
    assert fingerprint(merged) != fingerprint(base)
    with pytest.raises(CheckpointError, match="were not trained on the weights of"):
        merge_adapter(adapters, tmp_path / "again", base=str(merged))


def test_the_same_weights_are_taken_from_elsewhere_in_shards_and_in_bfloat16(base, adapters, tmp_path):
    model = load_answering(base)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bfloat16")
    assert fingerprint(tmp_path / "shards") == fingerprint(tmp_path / "bfloat16") == fingerprint(base)
    moved = shutil.copytree(base, tmp_path / "moved")
    merge_adapter(adapters, tmp_path / "merged", base=str(moved))


def test_adapters_without_a_fingerprint_are_said_not_to_be_checked(base, adapters, tmp_path, capsys):
    older = shutil.copytree(adapters, tmp_path / "older")
    assert json.loads((older / BASE_FILE).read_text())["base"] == str(base)
    (older / BASE_FILE).unlink()
    main([str(older), str(tmp_path / "merged")])
    message = f"It was not checked that {base} is what the adapters were trained on: {older} has no {BASE_FILE}\n"
    assert message in capsys.readouterr().err
    main([str(adapters), str(tmp_path / "checked")])
    assert "not checked" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["qlora", "dora"])
def test_the_other_kinds_know_their_base_too(base, kind, tmp_path):
    save_adapters(base, kind, tmp_path / kind)
    assert json.loads((tmp_path / kind / BASE_FILE).read_text())["fingerprint"] == fingerprint(base)


def test_adapters_that_lack_tensors_or_are_cut_off_are_one_line(base, adapters, tmp_path):
    part = shutil.copytree(adapters, tmp_path / "part")
    path = part / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[1:]), path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{path} lacks 1 adapter parameters, .*: give the whole folder"):
        load_model(str(part), "cpu")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{part} cannot be loaded: Error while deserializing header"):
        load_model(str(part), "cpu")
    path.unlink()
    with pytest.raises(CheckpointError, match="does not appear to have a file named adapter_model.safetensors"):
        load_model(str(part), "cpu")
    (part / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="base_model_name_or_path' is missing"):
        load_model(str(part), "cpu")
