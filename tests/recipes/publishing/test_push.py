"""`openpali push`, against a Hub on this machine."""

import json
import os
import subprocess
import sys
import time
from typing import Any, cast

import pytest
from absent import ABSENT
from PIL import Image

from openpali.modeling.auto import load_answering, load_processor
from openpali.recipes.publishing.push import main

LOAD = """
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

name, prompt = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
batch = processor(images=Image.new("RGB", (20, 20), "red"), text=prompt, return_tensors="pt")
print(json.dumps(model.generate(**batch, max_new_tokens=6, do_sample=False)[0].tolist()))
"""
PROMPT = "answer en what is this?"
# what a run has and nobody else needs
PRIVATE = {
    "training_args.bin",
    "logs.jsonl",
    "config.yaml",
    "fingerprints.json",
    "examples.png",
    "report.html",
    "best",
}


def apart(hub, folder, name) -> list[int]:
    """The answer of a repository where openpali is not."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    environment |= {"NO_PROXY": "*", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ABSENT + LOAD, name, PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def here(folder) -> list[int]:
    """The answer of the run itself."""
    processor, model = load_processor(folder), cast(Any, load_answering(folder))
    batch = processor(images=Image.new("RGB", (20, 20), "red"), text=PROMPT, return_tensors="pt")
    return model.generate(**batch, max_new_tokens=6, do_sample=False)[0].tolist()


@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_what_was_pushed_answers_where_openpali_is_not(family, runs, hub, tmp_path, capsys):
    main([str(runs[family]), "you/shapes", "--licence", "apache-2.0"])
    assert f"to {hub.address}/you/shapes" in capsys.readouterr().out
    files = hub.repositories["you/shapes"]
    assert PRIVATE & {path.name for path in runs[family].iterdir()} == PRIVATE
    assert not {name for name in files if name.split("/")[0] in PRIVATE or "checkpoint-" in name}
    assert {"config.json", "generation_config.json", "chat_template.jinja", "README.md"} <= set(files)
    assert bool([name for name in files if name.endswith(".py")]) == (family == "pali3")
    secrets = [str(runs[family].parent), os.path.expanduser("~/")]
    assert not [name for name, content in files.items() for one in secrets if one.encode() in content]
    assert b"license: apache-2.0" in files["README.md"]
    assert b'model="you/shapes"' in files["README.md"]
    assert apart(hub, tmp_path, "you/shapes") == here(runs[family])


def test_after_a_broken_upload_only_what_is_missing_is_sent(runs, hub, tmp_path, monkeypatch, capsys):
    run = tmp_path / "shards"
    load_answering(runs["paligemma"]).save_pretrained(run, max_shard_size="60KB")
    weights = {path.read_bytes() for path in run.glob("*.safetensors")}
    assert len(weights) > 2
    hub.large.breaks = True
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts
    with pytest.raises(SystemExit, match="openpali push: the connection to the Hub is broken .* sends only what is"):
        main([str(run), "you/shards"])
    assert (len(hub.large.contents), hub.repositories["you/shards"]) == (1, {})
    # this Hub refuses what it has already
    main([str(run), "you/shards"])
    files = hub.repositories["you/shards"]
    assert {content for name, content in files.items() if name.endswith(".safetensors")} == weights
    assert set(hub.large.contents.values()) == weights
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_card_that_was_edited_on_the_hub_is_kept(runs, hub, capsys):
    main([str(runs["pali3"]), "you/shapes"])
    assert "The card names no licence" in capsys.readouterr().out
    main([str(runs["pali3"]), "you/shapes", "--licence", "mit"])
    files = hub.repositories["you/shapes"]
    assert b"license: mit" in files["README.md"]
    edited = files["README.md"] = files["README.md"].replace(b"## Use it", b"## How it is used")
    main([str(runs["pali3"]), "you/shapes", "--licence", "apache-2.0"])
    assert files["README.md"] == edited
    assert "was edited there and is kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "message"), [("hf_reader", "may not write to you/shapes"), ("hf_unknown", "does not know your token")]
)
def test_a_token_that_may_not_write_is_told_in_one_line(token, message, runs, hub):
    hub.token(token)
    with pytest.raises(SystemExit, match=message):
        main([str(runs["paligemma"]), "you/shapes"])
    assert hub.repositories == {}


def test_without_token_or_network_nothing_is_tried(runs, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit, match="connection to the Hub is broken"):
        main([str(runs["paligemma"]), "you/shapes"])
    monkeypatch.setattr("openpali.recipes.publishing.push.get_token", lambda: None)
    with pytest.raises(SystemExit, match="not logged in: `hf auth login`"):
        main([str(runs["paligemma"]), "you/shapes"])


def test_a_public_repository_does_not_pass_for_a_private_one(runs, hub):
    main([str(runs["paligemma"]), "you/shapes"])
    before = dict(hub.repositories["you/shapes"])
    with pytest.raises(SystemExit, match="you/shapes is there already and public"):
        main([str(runs["paligemma"]), "you/shapes", "--private", "--licence", "gemma"])
    assert hub.repositories["you/shapes"] == before
    main([str(runs["paligemma"]), "you/hidden", "--private"])
    assert "model.safetensors" in hub.repositories["you/hidden"]


@pytest.mark.parametrize(
    ("name", "message"), [("shapes", "has no owner: give .* as you/shapes"), ("you/my pali", "is no name on the Hub")]
)
def test_a_wrong_name_is_told_before_anything_is_written(name, message, runs):
    with pytest.raises(SystemExit, match=message):
        main([str(runs["pali3"]), name, "--dry_run"])
