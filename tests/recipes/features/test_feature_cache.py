import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from openpali.data.collator import Collator
from openpali.data.files.config import ConfigError
from openpali.data.images import open_image
from openpali.data.mixture import TaskDataset
from openpali.data.sources import augmented
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.tasks import load_task
from openpali.modeling.dropout import set_text_dropout
from openpali.recipes.features import cache as feature_cache
from openpali.recipes.features.cache import FOLDER, cached_features
from openpali.recipes.features.examples import CachedExamples
from openpali.recipes.run.arguments import RunArguments, parse
from openpali.recipes.run.resume import open_run
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.training.progress import read_log
from openpali.recipes.training.trainer import run_training
from openpali.recipes.transfer import TransferArguments
from openpali.recipes.transfer import main as transfer

# some runs are forked
pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES, DISTINCT = 8, 6
WORDS = ["a red dog", "two green cats", "dog", "en", "what", "caption", "detect dog", "a dog"]


def write_images(folder, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for i in range(DISTINCT):
        pixels = torch.randint(0, 256, (20 + i, 24, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")


@pytest.fixture
def data(tmp_path):
    """Eight records; two of the six images are used twice, and the last record has two."""
    write_images(tmp_path)
    names = [[f"{i % DISTINCT}.png"] for i in range(EXAMPLES - 1)] + [["1.png", "4.png"]]
    lines = [
        {"image": images, "prefix": ("caption en", "what is this")[i % 2], "suffix": WORDS[i]}
        for i, images in enumerate(names)
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def dataset(path, augment=None):
    source = JsonlSource(path)
    return TaskDataset(augmented(source, augment) if augment else source, load_task({"name": "plain"}), seed=5)


@pytest.fixture
def make(tiny_model, tiny_processor, tiny_paligemma):
    """A new copy of a family's model, and its processor."""
    weights = {"pali3": tiny_model.state_dict(), "paligemma": tiny_paligemma[0].state_dict()}
    weights = {kind: {key: value.clone() for key, value in state.items()} for kind, state in weights.items()}

    def made(kind):
        model = tiny_model if kind == "pali3" else tiny_paligemma[0]
        model.load_state_dict(weights[kind])
        return model, tiny_processor if kind == "pali3" else tiny_paligemma[1]

    return made


def arguments(folder, **options):
    defaults = {"num_train_epochs": 3, "per_device_train_batch_size": 3, "learning_rate": 0.01, "logging_steps": 1}
    defaults |= {"save_steps": 500, "tensorboard": False, "use_cpu": True, "seed": 3, "freeze": "vision_tower"}
    argv = [part for key, value in (defaults | options).items() for part in (f"--{key}", str(value))]
    return parse([RunArguments], ["--output_dir", str(folder), *argv])[0]


def train(folder, data, made, mode, exact=True, limits=None, **options):
    """The losses of a run."""
    model, processor = made
    run = arguments(folder, **options)
    checkpoint = open_run(run)
    set_text_dropout(model, 0.1)
    collator = Collator(processor, **(limits or {}), exact_images=exact)
    examples, batches = cached_features(mode, model, dataset(data), collator, run)
    assert isinstance(examples, CachedExamples) == (mode == "on")
    run_training(model, processor, run, examples, batches, resume_from=checkpoint)
    losses = [row["loss"] for row in read_log(folder / LOG_FILE) if "loss" in row]
    assert losses
    return losses


@pytest.mark.parametrize("kind", ["pali3", "paligemma"])
@pytest.mark.parametrize("exact", [True, False])
def test_losses_of_three_epochs_are_those_of_the_images(make, data, tmp_path, kind, exact):
    runs = [train(tmp_path / mode, data, make(kind), mode, exact) for mode in ("off", "on")]
    assert len(runs[0]) == len(runs[1]) == 8
    assert runs[1] == pytest.approx(runs[0], abs=1e-5)
    assert runs[0][0] - min(runs[0]) > 0.05


def test_projector_and_text_model_move_and_the_encoder_does_not(make, data, tmp_path):
    model, processor = make("pali3")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tmp_path / "run", data, (model, processor), "on")
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if "projector" in name} <= moved
    assert not any("vision_tower" in name for name in moved)


def test_packed_rows_and_loader_workers_change_no_loss(make, data, tmp_path):
    limits = {"pack_length": 40}
    runs = [train(tmp_path / mode, data, make("paligemma"), mode, limits=limits) for mode in ("off", "on")]
    assert runs[1] == pytest.approx(runs[0], abs=1e-5)
    workers = train(tmp_path / "w", data, make("paligemma"), "on", limits=limits, dataloader_num_workers=2)
    # their batches come through shared memory, which lies at other addresses
    assert workers == pytest.approx(runs[1], abs=1e-5)


class Count:
    """How often the encoder is called, and on how many images."""

    def __init__(self, model):
        self.images = 0
        model.get_encoder(modality="image").register_forward_hook(self.add)

    def add(self, module, inputs, output):
        self.images += len(output.last_hidden_state)


@pytest.fixture
def filled(make, data, tmp_path, capsys):
    """Ask for features as a run does; answers how many images were computed, and the examples and collator."""

    def asked(folder="run", change=None, mode: Any = "on", exact=True, augment=None, source=None, **options):
        model, processor = make("pali3")
        if change:
            change(model, processor)
        count = Count(model)
        run = arguments(tmp_path / folder, **options)
        collator = Collator(processor, exact_images=exact)
        found = cached_features(mode, model, source or dataset(data, augment), collator, run)
        return count.images, *found, capsys.readouterr().out

    return asked


def test_each_image_is_computed_once_and_the_next_run_computes_none(filled, tmp_path):
    computed, _, _, shown = filled("a")
    assert computed == DISTINCT
    assert f"{DISTINCT} distinct images of 4 x 16 values in float32" in shown
    size = sum(path.stat().st_size for path in (tmp_path / FOLDER).glob("*/*.features"))
    assert size == DISTINCT * 4 * 16 * 4
    computed, examples, collator, shown = filled("b")
    assert computed == 0
    assert "0 are to be computed" in shown
    batch = collator([examples[7], examples[1]])
    assert torch.equal(batch["image_features"][0], batch["image_features"][2])
    assert len(batch["image_features"]) == 3


def new_weights(model, processor):
    model.get_encoder(modality="image").post_layernorm.bias.data[0] += 1e-3


def new_resolution(model, processor):
    processor.image_processor.size = {"height": 16, "width": 16}
    processor.image_processor.resample = Image.Resampling.NEAREST


def wider(model, processor):
    model.config.vision_config.layer_norm_eps = 1e-5


@pytest.mark.parametrize("change", [new_weights, new_resolution, wider])
def test_other_weights_preprocessing_or_encoders_compute_anew(filled, change):
    assert filled()[0] == DISTINCT
    assert filled(change=change)[0] == DISTINCT
    assert filled()[0] == 0
    assert filled(change=change)[0] == 0


def test_torch_and_pillow_resizing_are_kept_apart(filled):
    assert [filled(exact=exact)[0] for exact in (True, False, True)] == [DISTINCT, DISTINCT, 0]


def test_numbers_of_another_type_are_kept_apart(filled):
    exact = filled()
    half = filled(bf16="true")
    assert half[0] == DISTINCT
    assert "in bfloat16" in half[3]
    features = [found[2]([found[1][i] for i in range(EXAMPLES)])["image_features"] for found in (exact, half)]
    assert features[1].dtype == torch.bfloat16
    torch.testing.assert_close(features[1].float(), features[0], atol=0.05, rtol=0.05)


def test_a_image_that_changes_under_the_same_name_is_computed_anew_and_only_it(filled, data):
    _, examples, collator, _ = filled()
    before = collator([examples[2]])["image_features"]
    path = data.parent / "2.png"
    stat = path.stat()
    changed = Image.open(path).convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    computed, examples, collator, _ = filled()
    assert computed == 1
    assert not torch.equal(collator([examples[2]])["image_features"], before)


def test_changed_texts_are_read_anew(filled, data):
    filled()
    data.write_text(data.read_text().replace("a red dog", "a blue dog"))
    computed, examples, _, _ = filled()
    assert computed == 0
    assert examples[0].suffix == "a blue dog"


def test_features_are_the_encoders_own(filled, make, data):
    _, examples, collator, _ = filled()
    model, processor = make("pali3")
    images = [image for i in range(EXAMPLES) for image in dataset(data)[i].images]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_encoder(modality="image")(pixels).last_hidden_state
    found = collator([examples[i] for i in range(EXAMPLES)])["image_features"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", ["features", "keys", "both"])
def test_of_a_torn_part_the_whole_records_count(filled, tmp_path, cut):
    filled()
    (features,) = (tmp_path / FOLDER).glob("*/*.features")
    if cut != "keys":
        os.truncate(features, features.stat().st_size - 1)
    if cut != "features":
        os.truncate(features.with_suffix(".keys"), 16 * (DISTINCT - 2) - 3)
    computed, examples, collator, _ = filled()
    assert computed == (1 if cut == "features" else 3)
    assert torch.isfinite(collator([examples[i] for i in range(EXAMPLES)])["image_features"]).all()
    assert filled()[0] == 0


def test_processes_that_fill_at_once_do_not_disturb_each_other(filled):
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=filled, args=(f"run-{i}",)) for i in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert filled()[0] == 0


def killed(at, function, *args, **options):
    """Run in a process that is killed at the call of `at`, or of its method, of this number."""
    owner, name, number = at

    def run():
        calls, real = [], getattr(owner, name)

        def counted(*given, **more):
            calls.append(None)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        setattr(owner, name, counted)
        function(*args, **options)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_run_killed_while_it_fills_and_while_it_trains_ends_as_an_uninterrupted_one(make, data, tmp_path):
    whole = train(tmp_path / "whole" / "run", data, make("pali3"), "off", save_steps=3)
    folder = tmp_path / "killed" / "run"
    # the second batch has its features on the disk already, and no keys
    killed((os, "fsync", 2), train, folder, data, make("pali3"), "on", save_steps=3)
    (keys,) = (folder.parent / FOLDER).glob("*/*.keys")
    assert 0 < keys.stat().st_size < 16 * DISTINCT
    steps = (torch.optim.AdamW, "step", 5)
    killed(steps, train, folder, data, make("pali3"), "on", save_steps=3, resume="auto")
    computed = Count(make("pali3")[0])
    again = train(folder, data, make("pali3"), "on", save_steps=3, resume="auto")
    assert computed.images == 0
    assert again[-5:] == pytest.approx(whole[-5:], abs=1e-5)


REFUSED = {
    "the image encoder trains": {"freeze": "projector"},
    "augmented images are others": {"augment": {"flip": 0.5}},
    "dropout": {"change": lambda model, processor: setattr(model.config.vision_config, "attention_dropout", 0.1)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_where_features_cannot_be_kept_auto_goes_without_and_on_says_why(filled, tmp_path, reason):
    computed, examples, collator, shown = filled(mode="auto", **REFUSED[reason])
    assert (computed, type(examples), type(collator)) == (0, TaskDataset, Collator)
    # most encoders train: nothing is to be said of that
    assert (reason in shown) == ("trains" not in reason)
    assert not (tmp_path / FOLDER).exists()
    with pytest.raises(ConfigError, match=reason):
        filled(mode="on", **REFUSED[reason])


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"num_train_epochs": 2}, True),
        ({"num_train_epochs": 1}, False),
        ({"max_steps": 5}, False),
        ({"max_steps": 6}, True),
    ],
)
def test_auto_is_on_where_images_come_twice(filled, options, used):
    assert isinstance(filled(mode="auto", **options)[1], CachedExamples) == used
    assert not isinstance(filled(mode="off", **options)[1], CachedExamples)
    assert isinstance(filled(mode="on", **options)[1], CachedExamples)


def test_a_disk_without_room_is_left_alone(filled, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": DISTINCT * 4 * 16 * 4})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: usage)
    computed, examples, _, shown = filled(mode="auto")
    assert (computed, type(examples)) == (0, TaskDataset)
    assert "Image features are not kept" in shown
    assert "are free" in shown
    with pytest.raises(ConfigError, match="are needed in .*are free"):
        filled(mode="on")


def test_a_disk_that_fills_up_is_told(filled, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="is full: make room, or set feature_cache: off"):
        filled()


def test_a_image_that_changes_while_the_cache_is_filled_is_told(filled, data, monkeypatch):
    plan = feature_cache.plan

    def later(*args):
        found = plan(*args)
        write_images(Path(data).parent, seed=1)
        return found

    monkeypatch.setattr(feature_cache, "plan", later)
    with pytest.raises(ConfigError, match="changed while their features were computed"):
        filled()


@pytest.mark.parametrize("word", ["auto", "on", "off"])
def test_yaml_reads_its_three_words(tmp_path, word):
    path = tmp_path / "run.yaml"
    path.write_text(f"output_dir: run\nmodel: a/b\ndata: my.jsonl\nfeature_cache: {word}\n")
    found = [parse([TransferArguments, RunArguments], argv)[0].feature_cache for argv in (["--config", str(path)],)]
    options = ["--output_dir", "run", "--model", "a/b", "--data", "my.jsonl", "--feature_cache", word]
    assert [*found, parse([TransferArguments, RunArguments], options)[0].feature_cache] == [word, word]


def test_a_transfer_with_a_frozen_encoder_keeps_features_by_itself(make, data, tmp_path, capsys):
    model, processor = make("pali3")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    options = {"model": tmp_path / "model", "data": data, "output_dir": tmp_path / "run", "num_train_epochs": 2}
    options |= {"use_cpu": "true", "per_device_train_batch_size": 4, "test_limit": 2, "tensorboard": "false"}
    argv = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    transfer([*argv, "--freeze", "vision_tower"])
    assert "distinct images of 4 x 16 values in float32" in capsys.readouterr().out
    assert len([*(tmp_path / FOLDER).glob("*/*.keys")]) == 1


class Drawing:
    """A task that draws on the first image of every record."""

    def __init__(self, task):
        self.task, self.name = task, task.name

    def example(self, record, rng):
        example = self.task.example(record, rng)
        if example is not None:
            example.images[0].putpixel((3, 3), (9, 9, 9))
        return example


def test_known_files_are_not_decoded_again_and_those_who_draw_on_them_see_them(filled, data, monkeypatch):
    filled()
    examples, decoded, real = dataset(data), [], open_image.decode_image
    monkeypatch.setattr(open_image, "decode_image", lambda *given: decoded.append(given[0].name) or real(*given))
    assert filled(source=examples)[0] == 0
    assert decoded == []
    (data.parent / "2.png").touch()
    assert filled(source=examples)[0] == 0
    assert decoded == ["2.png"]
    examples.task = Drawing(examples.task)  # pyright: ignore[reportAttributeAccessIssue]
    # one more distinct image than there are files, of which it is known
    computed, _, _, shown = filled(source=examples)
    assert computed == DISTINCT
    assert f"{DISTINCT + 1} distinct images" in shown
    assert filled(source=examples)[0] == 0
