"""Every command loads a checkpoint whole, or refuses it with one line that names the fault."""

import json
import logging
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_adapters import FAMILIES, save_adapters, save_checkpoint
from tiny_paligemma import VISION
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali import MaskVQVAE
from openpali.modeling.auto import load_answering, load_processor
from openpali.modeling.checkpoints import is_folder_name, load_checkpoint, load_config, load_tower
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.user_errors import CheckpointError

GONE = "model.decoder.block.0.layer.0.SelfAttention.q.weight", "model.language_model.layers.0.mlp.up_proj.weight"
FIRST = dict(zip(FAMILIES, GONE, strict=True))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_tokenizer, family):
    return save_checkpoint(family, tiny_tokenizer, tmp_path_factory.mktemp(family) / "whole")


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy of the checkpoint whose weights were changed."""

    def make(change):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def test_missing_renamed_and_further_weights_are_an_error_that_names_them(damaged, family, caplog):
    name = FIRST[family]
    with pytest.raises(CheckpointError, match=rf"lacks 1 weights \({name}\) as \w+: give the whole checkpoint"):
        load_answering(damaged(lambda weights: weights.pop(name)))

    def rename(weights):
        weights[f"old.{name}"] = weights.pop(name)

    with pytest.raises(CheckpointError, match=rf"lacks 1 weights \({name}\) and has 1 weights .*\(old.{name}\)"):
        load_answering(damaged(rename))

    def add(weights):
        weights.update({f"model.extra.{number}": torch.ones(2) for number in range(5)})

    with pytest.raises(
        CheckpointError, match=r"has 5 weights .* \(model.extra.0, model.extra.1, model.extra.2, ...\)"
    ):
        load_answering(damaged(add))

    def shrink(weights):
        weights[name] = weights[name][:1].clone()

    with pytest.raises(CheckpointError, match=rf"has 1 weights of another shape \({name} \[1, 16\] for \["):
        load_answering(damaged(shrink))
    assert "LOAD REPORT" not in caplog.text


def test_an_incomplete_checkpoint_is_taken_where_that_is_asked_for(damaged, whole, family, caplog):
    name = FIRST[family]
    with caplog.at_level(logging.WARNING, "transformers.modeling_utils"):
        logging.getLogger("transformers").propagate = True
        model = load_answering(damaged(lambda weights: weights.pop(name)), incomplete=True)
    logging.getLogger("transformers").propagate = False
    there, before = model.state_dict(), load_answering(whole).state_dict()
    assert [key for key in before if not torch.equal(there[key], before[key])] == [name]
    assert "LOAD REPORT" in caplog.text


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_file_that_was_cut_off_is_told(whole, tmp_path, content):
    folder = tmp_path / "cut"
    shutil.copytree(whole, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2] if content else b"")
    with pytest.raises(CheckpointError, match=f"{folder} cannot be loaded: Error while deserializing header"):
        load_answering(folder)


CONFIGS = {
    "": "is not a valid JSON file",
    "{": "is not a valid JSON file",
    "{}": "Should have a `model_type` key",
    '{"model_type": "bert"}': "a model of the type bert, which answers no prompts about images",
    '{"model_type": "none"}': "model type `none`",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_wrong_configuration_is_told(whole, tmp_path, config):
    folder = tmp_path / "wrong"
    shutil.copytree(whole, folder)
    (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=CONFIGS[config]) as refused:
        load_answering(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_of_another_type_is_no_mask_vqvae(whole, family):
    with pytest.raises(CheckpointError, match=f"of the type {family}, and one of the type mask_vqvae is wanted"):
        load_checkpoint(MaskVQVAE, whole)


def test_tokens_without_a_row_and_another_image_token_are_told(whole, tmp_path):
    """They ended the first step in an IndexError."""
    from openpali.eval.answering.load_model import load_model

    folder = tmp_path / "tokens"
    shutil.copytree(whole, folder)
    rows = len(load_processor(whole).tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_token_id": 3}))
    with pytest.raises(CheckpointError, match=r"image_token_id is 3 in its configuration and \d+ in its tokenizer"):
        load_model(str(folder), "cpu")
    processor = load_processor(whole)
    processor.tokenizer.add_tokens(["<more>"])
    processor.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=rf"has the token {rows}, <more>, and its embedding table {rows} rows"):
        load_model(str(folder), "cpu")


def test_what_may_be_missing_or_beyond_is_passed_over(whole, family, tmp_path):
    """Tied weights, older names, shards, buffers of older versions, and the head that an image tower goes without."""
    model = load_answering(whole)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load_answering(tmp_path / "shards").state_dict().keys() == model.state_dict().keys()
    if family == "paligemma":
        # as the published checkpoints have them
        shutil.copytree(whole, tmp_path / "stock")
        new = load_file(whole / "model.safetensors")
        older = {key.removeprefix("model."): value for key, value in new.items() if key != "lm_head.weight"}
        older = {key.replace("language_model.", "language_model.model.", 1): value for key, value in older.items()}
        save_file(older, tmp_path / "stock" / "model.safetensors", metadata={"format": "pt"})
        old = load_answering(tmp_path / "stock").state_dict()
        assert all(torch.equal(old[key], weight) for key, weight in model.state_dict().items())


def test_a_tower_is_taken_out_of_a_whole_siglip_and_nothing_else_may_lack(tmp_path):
    vision = {key: value for key, value in VISION.items() if key not in ("vision_use_head", "model_type")}
    text = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    siglip = SiglipModel(SiglipConfig(vision_config=vision, text_config=text | {"vocab_size": 50}))
    siglip.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file(
        weights | {"vision_model.embeddings.position_ids": torch.arange(4)[None]}, path, metadata={"format": "pt"}
    )
    assert any(name.startswith("vision_model.head.") for name in weights)
    tower = load_tower(str(tmp_path), SiglipVisionModel, vision_config_of(str(tmp_path)))
    named = {name.removeprefix("vision_model."): value for name, value in tower.state_dict().items()}
    assert all(torch.equal(weights[f"vision_model.{name}"], value) for name, value in named.items())
    load_checkpoint(SiglipModel, tmp_path)
    gone = next(name for name in weights if name.startswith("vision_model.encoder"))
    save_file({name: value for name, value in weights.items() if name != gone}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        load_tower(str(tmp_path), SiglipVisionModel, vision_config_of(str(tmp_path)))
    with pytest.raises(CheckpointError, match=rf"lacks 1 weights \({gone}\) as SiglipModel"):
        load_checkpoint(SiglipModel, tmp_path)


@pytest.mark.adapters
def test_every_command_refuses_it_and_takes_it_on_request(
    damaged, whole, family, tmp_path, tiny_tokenizer, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "my.jsonl"
    for number in range(8):
        Image.new("RGB", (20, 20), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
        with source.open("a") as file:
            file.write(json.dumps({"image": f"{number}.png", "prefix": "what?", "suffix": "dog"}) + "\n")
    save_adapters(whole, "lora", tmp_path / "lora")
    bad = str(damaged(lambda weights: weights.pop(FIRST[family])))
    quick = ["--use_cpu", "true", "--max_steps", "1", "--eval_limit", "1", "--test_limit", "1"]
    commands = {
        "predict": [bad, "0.png", "what?", "--max_new_tokens", "2"],
        "eval": ["--model", bad, "--task", "plain", "--source", str(source), "--limit", "1", "--output", "eval"],
        "export": [bad, "exported"],
        "transfer": ["--model", bad, "--data", str(source), "--output_dir", "run", *quick],
    }
    for verb, line in commands.items():
        with pytest.raises(SystemExit, match=rf"{bad} lacks 1 weights \({FIRST[family]}\)"):
            openpali_cli.main([verb, *line])
    with pytest.raises(SystemExit, match="were not trained on the weights of"):
        openpali_cli.main(["merge", "lora", "merged", "--base", bad])
    for verb in ("predict", "export", "transfer"):
        assert openpali_cli.main([verb, *commands[verb], "--incomplete_checkpoint"]) == 0
    load_answering(tmp_path / "exported")
    load_answering(tmp_path / "run")


def test_a_mistyped_folder_is_told_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "paligemma").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    reasons = {
        "checkpoints/paligema": "there is no folder checkpoints/paligema: did you mean checkpoints/paligemma",
        "checkpoint": "there is no folder checkpoint: did you mean checkpoints",
        "./a/b": r"there is no folder ./a/b: check the path",
        "/nowhere/at/all": "there is no folder /nowhere/at/all",
        "file": "file is a file: give the folder of a checkpoint",
        "google/paligemma-3b": "no folder google/paligemma-3b here, and the Hub cannot be reached for it",
    }
    for name, reason in reasons.items():
        with pytest.raises(CheckpointError, match=reason) as error:
            load_config(name)
        assert "\n" not in str(error.value)
    assert not is_folder_name("google/paligemma-3b-pt-224")


class Refusing(BaseHTTPRequestHandler):
    """A Hub on which one repository is gated and all others are missing."""

    def refuse(self):
        status, code = (403, "GatedRepo") if "/gated/" in self.path else (404, "RepoNotFound")
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = refuse  # noqa: N815

    def log_message(self, *args):
        pass


def test_a_gated_and_a_missing_repository_are_one_line(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import openpali_cli\n"
        "for name in ('gated/model', 'you/missing'):\n"
        "    try:\n"
        "        openpali_cli.main(['export', name, 'out'])\n"
        "    except SystemExit as stop:\n"
        "        print(stop.code)\n"
    )
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    environment |= {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    server.shutdown()
    gated, missing = done.stdout.splitlines()
    assert gated == (
        "openpali export: gated/model is gated: accept its licence on https://huggingface.co/gated/model, log in with"
        " `hf auth login`, or give a folder"
    )
    assert "neither a folder you/missing here nor such a repository on the Hub: check the spelling" in missing
    assert "Traceback" not in done.stderr


def test_a_tower_without_a_head_gets_a_new_one_and_half_a_head_is_an_error(tmp_path):
    """As contrastive training begins from an encoder of classification."""
    config = SiglipVisionConfig(**{key: value for key, value in VISION.items() if key != "model_type"})
    tower = SiglipVisionModel(config)
    tower.save_pretrained(tmp_path)
    assert not any("head." in name for name in load_file(tmp_path / "model.safetensors"))
    wanted = SiglipVisionConfig(**(config.to_dict() | {"vision_use_head": True}))
    loaded = load_tower(str(tmp_path), SiglipVisionModel, wanted)
    assert any("head." in name for name in loaded.state_dict())
    path = tmp_path / "model.safetensors"
    half = {name: value for name, value in loaded.state_dict().items() if not name.endswith("head.probe")}
    save_file({name: value.clone() for name, value in half.items()}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights \(\S*head.probe\)"):
        load_tower(str(tmp_path), SiglipVisionModel, wanted)
