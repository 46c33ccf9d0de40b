"""Custom data from one command to a checkpoint and a report, for every kind and every layout of files."""

import json

import datasets
import pytest
import torch
import yaml
from custom_files import NAMES, class_folders, coco, some_box, table
from PIL import Image
from transformers import pipeline

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali import MaskVQVAE
from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.sources import Augmented, load_source
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.recipes import transfer
from openpali.recipes.custom_data.defaults import epochs_for, schedule_keys
from openpali.recipes.run.datasets import load_splits
from openpali.recipes.transfer import CLASSES, configure, with_default_config

QUICK = ["--max_steps", "2", "--use_cpu", "true", "--tensorboard", "false", "--task.max_new_tokens", "4"]
QUICK += ["--eval_limit", "2", "--test_limit", "2", "--per_device_train_batch_size", "2"]


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    torch.manual_seed(0)
    config = MaskVQVAEConfig(image_size=16, channels=[4, 8], num_residual_blocks=1, codebook_dim=8)
    folder = tmp_path_factory.mktemp("codec")
    MaskVQVAE(config).save_pretrained(folder)
    return folder


def rows(**columns):
    return [{key: value(number) for key, value in columns.items()} for number in range(30)]


def question(number):
    return f"which colour has number {number}?"


def detected(number):
    return {"bbox": [list(some_box(number))], "categories": [NAMES[number % 3]]}


def saved(folder, kind):
    """A dataset of `datasets` with images in it, on disk."""
    table(folder / "files", rows(answer=lambda n: NAMES[n % 3]))
    images = [str(folder / "files" / f"{number}.png") for number in range(30)]
    columns = {"img": images, "colour": [number % 3 for number in range(30)]}
    features = datasets.Features({"img": datasets.Image(), "colour": datasets.ClassLabel(names=NAMES)})
    data = datasets.Dataset.from_dict(columns, features=features)
    data.save_to_disk(str(folder / "saved"))
    return folder / "saved"


MAKE = {
    ("detect", "coco"): lambda folder: coco(folder),
    ("segment", "coco"): lambda folder: coco(folder).parent,
    ("detect", "jsonl"): lambda folder: table(folder, rows(objects=detected)),
    ("caption", "jsonl"): lambda folder: table(
        folder, rows(captions=lambda n: ["a square", NAMES[n % 3]]), "my.jsonl"
    ),
    ("vqa", "csv"): lambda folder: table(folder, rows(question=question, answer=lambda n: NAMES[n % 3]), "my.csv"),
    ("classify", "folders"): lambda folder: class_folders(folder, 10),
    ("classify", "saved"): lambda folder: saved(folder, "classify"),
    ("ocr", "metadata"): lambda folder: table(folder, rows(text=lambda n: f"number {n}"), "metadata.csv").parent,
}
TASKS = {"detect": "detection", "segment": "segmentation", "caption": "cider", "vqa": "exact_match"}
TASKS |= {"classify": "exact_match", "ocr": "anls"}


@pytest.mark.parametrize(("kind", "layout"), MAKE)
def test_one_command_trains_scores_and_saves(kind, layout, checkpoint, codec, tmp_path, capsys):
    data, run = MAKE[kind, layout](tmp_path / "data"), tmp_path / "run"
    line = ["transfer", "--model", str(checkpoint), "--data", str(data), "--kind", kind, "--output_dir", str(run)]
    line += ["--task.codec", str(codec)] if kind == "segment" else []
    line += ["--columns", '{"image": "img", "answers": "colour"}'] if layout == "saved" else []
    openpali_cli.main([*line, *QUICK])
    shown = capsys.readouterr().out
    assert "error: " not in shown
    assert shown.index("examples as the model sees them") < shown.index("2 steps of 2 examples")
    metrics = json.loads((run / "metrics.json").read_text())[kind]["metrics"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["kind"] == kind
    assert metrics["examples"] == 2
    findings = json.loads((run / "data_check.json").read_text())["findings"]
    # these few tokens are for quick tests
    assert {finding["check"] for finding in findings} <= {"length"}
    best = json.loads((run / "best" / "best.json").read_text())
    assert best["loss"] > 0
    assert {"report.html", "model.safetensors", "best"} <= {path.name for path in run.iterdir()}
    with Image.open(run / "examples.png") as image:
        assert min(image.size) > 500


def test_the_checkpoint_answers_in_a_pipeline(checkpoint, tmp_path):
    data, run = class_folders(tmp_path / "data"), tmp_path / "run"
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify", "--output_dir", str(run)]
    transfer.main([*line, *QUICK])
    answer = pipeline("image-text-to-text", model=str(run), device="cpu")
    found = answer(images=Image.new("RGB", (40, 40)), text="answer en what is this?", max_new_tokens=3)
    assert "generated_text" in found[0]


def test_the_same_command_resumes_and_a_changed_one_is_refused(checkpoint, tmp_path, capsys):
    data, run = class_folders(tmp_path / "data"), tmp_path / "run"
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify", "--output_dir", str(run), *QUICK]
    transfer.main([*line, "--save_steps", "1"])
    capsys.readouterr()
    transfer.main([*line, "--save_steps", "1"])
    assert "resumed from" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds a run with another configuration"):
        transfer.main([*line, "--save_steps", "1", "--prompt", "which colour?"])


def test_splits_are_by_images_and_do_not_depend_on_the_order_of_records(tmp_path):
    path = coco(tmp_path / "data", 40)
    spec = custom_spec(str(path), "detect")
    before = {split: {row.record for row in rows} for split, rows in read_custom(spec).splits().items()}
    content = json.loads(path.read_text())
    content["images"].reverse()
    path.write_text(json.dumps(content))
    read_custom.cache_clear()
    after = {split: {row.record for row in rows} for split, rows in read_custom(spec).splits().items()}
    assert after == before
    assert [len(found) for found in before.values()] == [32, 4, 4]


def test_all_questions_about_an_image_are_in_one_split(tmp_path):
    questions = [{"file_name": f"{n % 15}.png", "question": f"{n}?", "answer": "x"} for n in range(60)]
    table(tmp_path, questions)
    read_custom.cache_clear()
    data_splits = read_custom(custom_spec(str(tmp_path), "vqa")).splits()
    digests = [{row.digest for row in rows} for rows in data_splits.values()]
    assert [len(found) for found in digests] == [11, 2, 2]
    assert sum(map(len, digests)) == len(set.union(*digests))
    assert sum(map(len, data_splits.values())) == 60


def test_given_splits_are_kept(tmp_path):
    for place, name in enumerate(("train", "valid", "test")):
        coco(tmp_path / name, 5 + place, "_annotations.coco.json", first=20 * place, images=".")
    read_custom.cache_clear()
    sources = [
        load_source({"name": "custom", "path": str(tmp_path), "kind": "detect", "split": name}) for name in TRIO
    ]
    assert [len(source) for source in sources] == [5, 6, 7]


TRIO = ("train", "validation", "test")


def test_separate_files_of_splits_are_kept(tmp_path):
    train, valid = coco(tmp_path / "a", 9), coco(tmp_path / "b", 4, first=50)
    options = {"name": "custom", "path": str(train), "kind": "detect", "validation_path": str(valid)}
    read_custom.cache_clear()
    assert [len(load_source(options | {"split": name})) for name in TRIO] == [9, 4, 4]


def test_boxes_and_masks_are_those_of_the_file(tmp_path):
    read_custom.cache_clear()
    source = load_source({"name": "custom", "path": str(coco(tmp_path)), "kind": "segment"})
    for record in (source[index] for index in range(len(source))):
        number = int(record["id"].split()[-1])
        x, y, wide, high = some_box(number)
        (item,) = record["objects"]
        assert item["names"] == {"en": NAMES[number % 3]}
        found = [value * 40 for value in (item["box"].x0, item["box"].y0, item["box"].x1, item["box"].y1)]
        assert found == pytest.approx([x, y, x + wide, y + high])
        mask = item["mask"].array
        assert mask.shape == (40, 40)
        assert mask[y + 1 : y + high - 1, x + 1 : x + wide - 1].all()
        assert mask.sum() == pytest.approx(wide * high, rel=0.3)


def arguments(checkpoint, data, kind, tmp_path, *argv):
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", kind, "--output_dir", str(tmp_path / "run")]
    return configure(with_default_config([*line, "--use_cpu", "true", *argv]))


def test_prompts_name_every_class_and_answers_have_room(checkpoint, tmp_path):
    read_custom.cache_clear()
    data = coco(tmp_path / "data")
    task = arguments(checkpoint, data, "detect", tmp_path)[0].task
    assert task["classes"] == NAMES
    assert task["max_new_tokens"] >= 5
    task = arguments(checkpoint, data, "detect", tmp_path, "--prompt", "where are {classes}?")[0].task
    assert (task["prompt"], task["classes"]) == ("where are red ; lime ; blue?", NAMES)


@pytest.mark.adapters
def test_the_schedule_follows_from_the_data_and_options_override_it(checkpoint, tmp_path):
    read_custom.cache_clear()
    data = class_folders(tmp_path / "data", 60)
    run = arguments(checkpoint, data, "classify", tmp_path)[-1]
    # 144 of 180 images to train on
    assert (run.per_device_train_batch_size, run.num_train_epochs, run.freeze) == (8, 100, ["vision_tower"])
    assert (run.eval_steps, run.save_steps) == (180, 180)
    run = arguments(checkpoint, data, "classify", tmp_path, "--max_steps", "100", "--learning_rate", "5e-5")[-1]
    assert (run.max_steps, run.eval_steps, run.learning_rate) == (100, 10, 5e-5)
    run = arguments(checkpoint, data, "classify", tmp_path, "--freeze", "--peft", "lora")[-1]
    assert (run.freeze, run.learning_rate) == ([], 2e-3)


def test_large_models_see_examples_less_often():
    assert [epochs_for(examples, 3_000_000_000) for examples in (50, 500, 5_000, 50_000, 500_000)] == [
        100,
        30,
        10,
        3,
        1,
    ]
    assert [epochs_for(examples, 2_000_000) for examples in (50, 500, 5_000, 50_000, 500_000)] == [100, 100, 30, 10, 3]


def test_few_images_with_boxes_are_cropped(checkpoint, tmp_path):
    read_custom.cache_clear()
    data = coco(tmp_path / "data")
    for argv, expected in (([], True), (["--augment", "false"], False), (["--source.augment.flip", "0.5"], True)):
        args, *_, run = arguments(checkpoint, data, "detect", tmp_path, *argv)
        by_split = load_splits(args.source, run)
        assert [isinstance(by_split[split], Augmented) for split in TRIO] == [expected, False, False]
    assert args.source["augment"]["flip"] == 0.5
    args, *_, run = arguments(checkpoint, class_folders(tmp_path / "classes"), "classify", tmp_path)
    assert not isinstance(load_splits(args.source, run)["train"], Augmented)


@pytest.mark.parametrize(("examples", "batch", "epochs"), [(50, 8, 100), (3_000, 256, 30), (1_000_000, 256, 3)])
def test_large_data_get_large_batches_and_few_epochs(checkpoint, examples, batch, epochs):
    values = {"model": str(checkpoint), "examples": None, "max_steps": -1, "peft": "none"}
    keys = schedule_keys(values, set(), examples)
    assert keys["per_device_train_batch_size"] * keys["gradient_accumulation_steps"] == batch
    assert keys["num_train_epochs"] == epochs


def test_no_two_keys_of_the_recipe_share_a_name():
    names = [name for cls in CLASSES for name in cls.__dataclass_fields__]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kind", "detect", "--model", "x"], "give them as --data FOLDER_OR_FILE"),
        (["--kind", "detect", "--data", "x"], "there is no model: give --model"),
        (["--data", "nowhere.jsonl", "--model", "outputs/none"], "there is no folder outputs/none|no such file"),
    ],
)
def test_missing_options_are_reported(argv, message):
    with pytest.raises(SystemExit, match=message):
        transfer.main([*argv, "--use_cpu", "true"])
