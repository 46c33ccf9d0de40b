"""The page for people who come from other tools: their files in miniature are read, and our commands run."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import datasets
import page_folders as given
import pytest
from big_vision_files import save_tokenizer
from layout_files import roboflow_paligemma
from page_blocks import ROOT, Block, blocks, run_command

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.recipes.transfer import CLASSES

PAGE = ROOT / "docs" / "guide" / "coming-from.md"


def section(name: str) -> list[Block]:
    """The blocks below a heading that run here."""
    text = PAGE.read_text("utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [one for one in part if one.startswith(f"{name}\n")]
    return [block for block in blocks(PAGE) if block.text in found and block.language not in ("text", "yaml")]


def run_section(name: str) -> None:
    for block in section(name):
        if block.language == "python":
            exec(compile(block.text, str(PAGE), "exec"), {"__name__": "block"})
        for command in block.commands():
            run_command(command)


def split_folders(folder: Path, kept: str) -> None:
    """maestro's layout: in each of train, valid and test the images and an annotations.jsonl."""
    roboflow_paligemma(folder)
    for split in ("train", "valid", "test"):
        below = folder.with_name(kept) / split
        below.mkdir(parents=True)
        rows = [json.loads(line) for line in (folder / f"dataset/_annotations.{split}.jsonl").read_text().splitlines()]
        for row in rows:
            shutil.copy(folder / "dataset" / row["image"], below)
            if kept == "dataset":
                row |= {"prefix": "extract data in JSON format", "suffix": json.dumps({"name": row["image"]})}
        (below / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def conversations(path: str) -> None:
    """LLaMA-Factory's example: a list of messages, with the images named beside them."""
    names = [f"mllm_demo_data/{number}.jpg" for number in range(12)]
    given.save_images(*(f"data/{name}" for name in names))
    asked = {"role": "user", "content": "<image>Who is he?"}, {"role": "assistant", "content": "Thomas Müller."}
    more = {"role": "user", "content": "Why is he on the ground?"}, {"role": "assistant", "content": "He slides."}
    rows = [{"messages": [*asked, *more], "images": [name]} for name in names]
    Path(path).write_text(json.dumps(rows), "utf-8")
    Path(path).with_name("dataset_info.json").write_text('{"mllm_demo": {"file_name": "mllm_demo.json"}}')


def hub_data(name: str) -> datasets.DatasetDict:
    """What the page loads from the Hub, in its columns."""
    paths = [f"hub/{number}.png" for number in range(12)]
    given.save_images(*paths)
    images = [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]
    asked, answer = {"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a dog"}
    if name == "merve/vqav2-small":
        columns = {"image": images, "question": ["what is it?"] * 12, "multiple_choice_answer": ["a dog"] * 12}
        data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        return datasets.DatasetDict(validation=data)
    columns = {"images": [[one] for one in images]}
    columns |= {"messages": [[asked, answer]] * 12} if "HuggingFaceH4" in name else {}
    columns |= {"prompt": [[asked]] * 12, "completion": [[answer]] * 12} if "trl-lib" in name else {}
    data = datasets.Dataset.from_dict(columns).cast_column("images", datasets.List(datasets.Image()))
    return datasets.DatasetDict(train=data)


@pytest.fixture
def day(tmp_path, monkeypatch):
    """An empty folder with the checkpoint that the page names."""
    monkeypatch.chdir(tmp_path)
    given.paligemma("google/paligemma2-3b-pt-224")


@pytest.mark.adapters
def test_maestros_folders_are_read_as_they_are(day, tmp_path, capsys):
    split_folders(tmp_path / "one", "dataset")
    split_folders(tmp_path / "two", "boxes")
    run_section("maestro")
    splits = json.loads(Path("outputs/from-boxes/data_check.json").read_text())["splits"]
    assert [splits[split]["records"] for split in ("train", "validation", "test")] == [8, 3, 3]
    assert "extract data in JSON format" in Path("outputs/from-maestro/report.html").read_text("utf-8")


@pytest.mark.adapters
def test_conversations_of_llama_factory_are_read_as_they_are(day, capsys):
    conversations("data/mllm_demo.json")
    given.save_images("photo.png")
    run_section("LLaMA-Factory")
    splits = json.loads(Path("outputs/from-factory/data_check.json").read_text())["splits"]
    assert sum(splits[split]["records"] for split in splits) == 24
    assert Path("outputs/from-factory-merged/model.safetensors").exists()


@pytest.mark.adapters
def test_datasets_of_notebooks_and_trl_are_read(day, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config=None: hub_data(name))
    run_section("TRL and notebooks")
    for run in ("notebook", "trl", "messages"):
        assert Path(f"outputs/from-{run}/adapter_model.safetensors").exists()


def test_a_file_and_a_folder_of_big_vision_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ckpts").mkdir()
    shutil.copy(ROOT / "tests/fixtures/paligemma2_tiny.npz", "ckpts/pt_3b_224.bf16.npz")
    save_tokenizer(Path("gemma-2b"), 512)
    for name, count in (("train90", 12), ("val10", 3)):
        rows = [{"image": f"{number}.png", "suffix": f"a long caption {number}"} for number in range(count)]
        given.save_images(*(f"longcap100/{row['image']}" for row in rows))
        Path(f"longcap100/data_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert, train = [command for block in section("big_vision") for command in block.commands()]
    run_command(convert)
    config = json.loads(Path("ckpts/pt_3b_224/config.json").read_text())
    assert config["text_config"]["final_logit_softcapping"] is None
    # the file in miniature has fewer rows than its tokenizer
    shutil.rmtree("ckpts/pt_3b_224")
    given.paligemma("ckpts/pt_3b_224")
    run_command(train)
    assert Path("outputs/from-big-vision/model.safetensors").exists()


def test_the_options_on_our_side_are_there():
    known = {field.name for kind in CLASSES for field in dataclasses.fields(kind)} | {"set", "key", "num_beams"}
    known |= {"task.max_new_tokens", "task.metric", "task.metric_key"}
    rows = re.findall(r"^\| .* \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    options = {option for row in rows for option in re.findall(r"--([\w.]+)", row)}
    assert len(options) > 40
    assert options - known == set()
    verbs = set(re.findall(r"`openpali (\w+)", PAGE.read_text("utf-8")))
    assert verbs <= set(openpali_cli.VERBS)


def test_every_block_is_run_or_shows_what_others_write():
    ours = [
        block for name in ("maestro", "LLaMA-Factory", "TRL and notebooks", "big_vision") for block in section(name)
    ]
    theirs = [block for block in blocks(PAGE) if block.language in ("text", "yaml")]
    assert len(ours) + len(theirs) == len(blocks(PAGE))
    assert all("openpali" not in block.text for block in theirs)
