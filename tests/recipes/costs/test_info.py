"""`openpali info` on checkpoints of every family, on disk."""

import json

import pytest
import torch
from tiny_adapters import save_adapters, save_checkpoint
from tiny_mask_vqvae import save_codec
from tiny_siglip import tiny_siglip

from openpali.modeling.auto import load_answering
from openpali.recipes.costs import checkpoint_facts as facts
from openpali.recipes.costs.command import main as costs
from openpali.recipes.costs.info import main

COSTS = ["--bf16", "true", "--per_device_train_batch_size", "1"]


def shown(capsys, *argv):
    main([str(word) for word in argv])
    return capsys.readouterr().out


def known(capsys, folder):
    return json.loads(shown(capsys, folder, "--json"))


@pytest.mark.adapters
@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_a_whole_checkpoint(family, tiny_tokenizer, tmp_path, capsys):
    folder = save_checkpoint(family, tiny_tokenizer, tmp_path / "whole")
    found, model = known(capsys, folder), load_answering(folder, dtype=torch.float32)
    assert found["architecture"] == type(model).__name__
    assert (found["model_type"], found["text_model"]) == (family, {"pali3": "t5", "paligemma": "gemma"}[family])
    assert found["total"] == sum(p.numel() for p in model.parameters()) == sum(found["parameters"].values())
    assert found["parameters"]["vision_tower"] > 0
    assert found["dtypes"] == {"float32": found["total"]}
    assert (found["resolution"], found["image_tokens"]) == (16, 4)
    assert found["vocabulary"] == model.get_input_embeddings().weight.shape[0] == found["tokens"]
    assert {kind: found["special_tokens"][kind]["state"] for kind in ("location", "segmentation")} == {
        "location": "untrained",
        "segmentation": "untrained",
    }
    assert found["special_tokens"]["image"]["id"] == model.config.image_token_id
    text = shown(capsys, folder)
    assert "16 px, 4 tokens an image" in text
    assert "location tokens        untrained: rows are random" in text
    assert f"{found['total']:>15,}  in all" in text


@pytest.mark.adapters
def test_memory_is_that_of_costs(tiny_tokenizer, tmp_path, capsys):
    folder = save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "whole")
    memory = known(capsys, folder)["memory"]
    assert list(memory) == ["inference", "lora", "qlora", "full"]
    for use, peft in facts.TRAININGS.items():
        plan = facts.plan_training(["--model", str(folder), "--peft", peft, *COSTS])
        found, _ = facts.stage_costs(plan)
        assert found.micro_batch == 1
        assert memory[use]["bytes"] == int(found.gpu_bytes(1))
        assert memory[use]["with_activation_checkpointing"] <= memory[use]["bytes"]
    # the command of the last line is one that runs
    last = shown(capsys, folder).splitlines()[-1].partition("openpali costs ")[2]
    costs(last.split())
    assert "examples on one GPU" in capsys.readouterr().out


@pytest.mark.adapters
def test_adapters_are_told_with_their_base(tiny_tokenizer, tmp_path, capsys):
    folder = save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "whole")
    save_adapters(folder, "dora", tmp_path / "adapters")
    capsys.readouterr()
    found, base = known(capsys, tmp_path / "adapters"), known(capsys, folder)
    assert found["adapters"] == {"kind": "DoRA", "rank": 2, "base": str(folder)}
    same = ("architecture", "parameters", "total", "dtypes", "resolution", "special_tokens", "memory")
    assert {key: found[key] for key in same} == {key: base[key] for key in same}
    assert f"DoRA of rank 2, on {folder}" in shown(capsys, tmp_path / "adapters")
    content = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    content["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="there is no such folder here"):
        main([str(tmp_path / "adapters")])


@pytest.mark.adapters
def test_rows_and_types_are_those_on_disk(tiny_tokenizer, tmp_path, capsys):
    """In bfloat16, in several files, under the names of published checkpoints, and trained."""
    folder = save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "whole")
    model = load_answering(folder, dtype=torch.bfloat16)
    ids = [tiny_tokenizer.convert_tokens_to_ids(f"<loc{i:04d}>") for i in range(1024)]
    model.get_input_embeddings().weight.data[ids] += 1.0
    model.save_pretrained(folder, max_shard_size="20KB", save_original_format=True)
    (folder / "model.safetensors").unlink()
    found = known(capsys, folder)
    assert found["special_tokens"]["location"]["state"] == "trained"
    assert found["special_tokens"]["segmentation"]["state"] == "untrained"
    assert found["dtypes"] == {"bfloat16": found["total"]}


def test_image_encoders_and_mask_tokenizers(tmp_path, capsys):
    for part in tiny_siglip():
        part.save_pretrained(tmp_path / "siglip")
    found = known(capsys, tmp_path / "siglip")
    assert found["model_type"] == "siglip"
    assert {"vision_model", "text_model"} <= set(found["parameters"])
    assert found["image_tokens"] > 0
    assert (found["memory"], found["special_tokens"]) == ({}, {})
    found = known(capsys, save_codec(tmp_path / "codec"))
    assert (found["model_type"], found["image_tokens"]) == ("mask_vqvae", 16)
    assert found["total"] > 0
    assert "px, 16 tokens an image" in shown(capsys, tmp_path / "codec")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gone", "there is no folder"),
        ("google/paligemma2-3b-pt-224", "the Hub cannot be reached for it"),
        ("empty", "cannot be loaded"),
    ],
)
def test_one_line_for_what_is_no_checkpoint(name, line, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    place = name if "/" in name else str(tmp_path / name)
    with pytest.raises(SystemExit) as stop:
        main([place])
    assert line in str(stop.value)
    assert "\n" not in str(stop.value)
    assert name in str(stop.value)


def test_torn_weights_are_one_line(tiny_tokenizer, tmp_path):
    folder = save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "whole")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(SystemExit, match="whole cannot be loaded"):
        main([str(folder)])
