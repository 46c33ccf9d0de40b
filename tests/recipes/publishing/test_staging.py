"""What `openpali push --dry_run` writes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from tiny_adapters import save_adapters

from openpali.eval.answering.load_model import load_model
from openpali.recipes.publishing.push import main


def metadata(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md").data


@pytest.fixture
def adapters(runs, tmp_path):
    save_adapters(runs["base-paligemma"], "lora", tmp_path / "lora")
    return tmp_path / "lora"


def test_the_folder_is_written_beside_the_run_and_listed(runs, tmp_path, capsys):
    run = tmp_path / "shapes"
    shutil.copytree(runs["paligemma"], run)
    folder, told = tmp_path / "shapes-push", ""
    for _ in range(2):
        main([str(run), "you/my-shapes", "--dry_run", "--licence", "mit"])
        told = capsys.readouterr().out
        assert "Gemma's terms also hold" in told
        assert all(path.name in told for path in folder.iterdir())
    assert "training_args.bin" not in told
    assert (metadata(folder).license, metadata(folder).model_name) == ("mit", "my-shapes")
    assert "# my-shapes" in (folder / "README.md").read_text()
    # the run has its own card still
    assert metadata(run).license == "gemma"
    load_model(str(folder), "cpu")


def test_another_folder_of_that_name_is_left_alone(runs, tmp_path):
    shutil.copytree(runs["paligemma"], tmp_path / "run")
    (tmp_path / "run-push").mkdir()
    (tmp_path / "run-push" / "thesis.tex").write_text("")
    with pytest.raises(SystemExit, match="run-push is in the way"):
        main([str(tmp_path / "run"), "you/run", "--dry_run"])
    assert (tmp_path / "run-push" / "thesis.tex").exists()


@pytest.mark.adapters
def test_adapters_go_alone_with_the_name_of_their_base(adapters, tmp_path, capsys):
    main([str(adapters), "you/lora", "--dry_run", "--base", "them/base"])
    folder = tmp_path / "lora-push"
    assert not list(folder.glob("model*.safetensors"))
    named = json.loads((folder / "adapter_config.json").read_text())
    assert named == json.loads((adapters / "adapter_config.json").read_text()) | {
        "base_model_name_or_path": "them/base"
    }
    assert json.loads((folder / "base_weights.json").read_text())["base"] == "them/base"
    assert (folder / "adapter_model.safetensors").read_bytes() == (adapters / "adapter_model.safetensors").read_bytes()
    data = metadata(folder)
    assert (data.library_name, data.base_model, data.base_model_relation) == ("peft", ["them/base"], "adapter")
    assert not [path for path in folder.glob("*.*") if str(tmp_path).encode() in path.read_bytes()]


@pytest.mark.adapters
def test_adapters_of_a_folder_need_the_name_of_their_base(adapters, tmp_path):
    with pytest.raises(SystemExit, match="others cannot find: .* --base, or push a whole model: openpali merge"):
        main([str(adapters), "you/lora", "--dry_run"])
    assert not (tmp_path / "lora-push").exists()


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="there is no folder"):
        main([str(tmp_path / "none"), "you/run", "--dry_run"])
    (tmp_path / "run" / "checkpoint-4").mkdir(parents=True)
    with pytest.raises(SystemExit, match="holds no model: the run has not ended; the same command resumes it"):
        main([str(tmp_path / "run"), "you/run", "--dry_run"])


def test_a_lost_shard_is_named(runs, tmp_path):
    shutil.copytree(runs["paligemma"], tmp_path / "run")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "run" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SystemExit, match=r"it lacks model-2\.safetensors, which .*\.index\.json lists"):
        main([str(tmp_path / "run"), "you/run", "--dry_run"])


def test_a_path_of_this_machine_is_not_uploaded(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["paligemma"], run)
    (run / "README.md").write_text(f"# mine\n\nThe data are in {tmp_path}/data.\n")
    with pytest.raises(SystemExit, match=r"README\.md names .*/data\., a path of this machine: take it out"):
        main([str(run), "you/run", "--dry_run"])


def test_metadata_that_cannot_be_read_are_told(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["paligemma"], run)
    (run / "README.md").write_text("---\nlicense: [mit\n---\n\n# mine\n")
    with pytest.raises(SystemExit, match=r"README\.md: its metadata cannot be read"):
        main([str(run), "you/run", "--dry_run"])
    (run / "README.md").write_text("# mine\n")
    main([str(run), "you/run", "--dry_run", "--licence", "mit"])
    assert metadata(tmp_path / "run-push").license == "mit"
