"""What the feature cache computes, keeps and finds again."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from feature_runs import DISTINCT, EXAMPLES, dataset, write_images
from PIL import Image

from openpali.data.files.config import ConfigError
from openpali.data.images import open_image
from openpali.data.mixture import TaskDataset
from openpali.recipes.features import cache as feature_cache
from openpali.recipes.features.cache import FOLDER

# some runs are forked
pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_image_is_computed_once_and_the_next_run_computes_none(fill_cache, tmp_path):
    computed, _, _, shown = fill_cache("a")
    assert computed == DISTINCT
    assert f"{DISTINCT} distinct images of 4 x 16 values in float32" in shown
    size = sum(path.stat().st_size for path in (tmp_path / FOLDER).glob("*/*.features"))
    assert size == DISTINCT * 4 * 16 * 4
    computed, examples, collator, shown = fill_cache("b")
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
def test_other_weights_preprocessing_or_encoders_compute_anew(fill_cache, change):
    assert fill_cache()[0] == DISTINCT
    assert fill_cache(change=change)[0] == DISTINCT
    assert fill_cache()[0] == 0
    assert fill_cache(change=change)[0] == 0


def test_torch_and_pillow_resizing_are_kept_apart(fill_cache):
    assert [fill_cache(exact=exact)[0] for exact in (True, False, True)] == [DISTINCT, DISTINCT, 0]


def test_numbers_of_another_type_are_kept_apart(fill_cache):
    exact = fill_cache()
    half = fill_cache(bf16="true")
    assert half[0] == DISTINCT
    assert "in bfloat16" in half[3]
    features = [found[2]([found[1][i] for i in range(EXAMPLES)])["image_features"] for found in (exact, half)]
    assert features[1].dtype == torch.bfloat16
    torch.testing.assert_close(features[1].float(), features[0], atol=0.05, rtol=0.05)


def test_an_image_that_changes_under_the_same_name_is_computed_anew_and_only_it(fill_cache, data):
    _, examples, collator, _ = fill_cache()
    before = collator([examples[2]])["image_features"]
    path = data.parent / "2.png"
    stat = path.stat()
    changed = Image.open(path).convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    computed, examples, collator, _ = fill_cache()
    assert computed == 1
    assert not torch.equal(collator([examples[2]])["image_features"], before)


def test_changed_texts_are_read_anew(fill_cache, data):
    fill_cache()
    data.write_text(data.read_text().replace("a red dog", "a blue dog"))
    computed, examples, _, _ = fill_cache()
    assert computed == 0
    assert examples[0].suffix == "a blue dog"


def test_features_are_the_encoders_own(fill_cache, make, data):
    _, examples, collator, _ = fill_cache()
    model, processor = make("pali3")
    images = [image for i in range(EXAMPLES) for image in dataset(data)[i].images]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_encoder(modality="image")(pixels).last_hidden_state
    found = collator([examples[i] for i in range(EXAMPLES)])["image_features"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", ["features", "keys", "both"])
def test_of_a_torn_part_the_whole_records_count(fill_cache, tmp_path, cut):
    fill_cache()
    (features,) = (tmp_path / FOLDER).glob("*/*.features")
    if cut != "keys":
        os.truncate(features, features.stat().st_size - 1)
    if cut != "features":
        os.truncate(features.with_suffix(".keys"), 16 * (DISTINCT - 2) - 3)
    computed, examples, collator, _ = fill_cache()
    assert computed == (1 if cut == "features" else 3)
    assert torch.isfinite(collator([examples[i] for i in range(EXAMPLES)])["image_features"]).all()
    assert fill_cache()[0] == 0


def test_processes_that_fill_at_once_do_not_disturb_each_other(fill_cache):
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=fill_cache, args=(f"run-{i}",)) for i in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert fill_cache()[0] == 0


class Drawing:
    """A task that draws on the first image of every record."""

    def __init__(self, task):
        self.task, self.name = task, task.name

    def example(self, record, rng):
        example = self.task.example(record, rng)
        if example is not None:
            example.images[0].putpixel((3, 3), (9, 9, 9))
        return example


def test_known_files_are_not_decoded_again_and_those_who_draw_on_them_see_them(fill_cache, data, monkeypatch):
    fill_cache()
    examples, decoded, real = dataset(data), [], open_image.decode_image
    monkeypatch.setattr(open_image, "decode_image", lambda *given: decoded.append(given[0].name) or real(*given))
    assert fill_cache(source=examples)[0] == 0
    assert decoded == []
    (data.parent / "2.png").touch()
    assert fill_cache(source=examples)[0] == 0
    assert decoded == ["2.png"]
    examples.task = Drawing(examples.task)  # pyright: ignore[reportAttributeAccessIssue]
    # one more distinct image than there are files, of which it is known
    computed, _, _, shown = fill_cache(source=examples)
    assert computed == DISTINCT
    assert f"{DISTINCT + 1} distinct images" in shown
    assert fill_cache(source=examples)[0] == 0


def test_a_disk_that_fills_up_is_told(fill_cache, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="is full: make room, or set feature_cache: off"):
        fill_cache()


def test_a_disk_without_room_is_left_alone(fill_cache, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": DISTINCT * 4 * 16 * 4})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: usage)
    computed, examples, _, shown = fill_cache(mode="auto")
    assert (computed, type(examples)) == (0, TaskDataset)
    assert "Image features are not cached" in shown
    assert "are free" in shown
    with pytest.raises(ConfigError, match="are needed in .*are free"):
        fill_cache(mode="on")


def test_an_image_that_changes_while_the_cache_is_filled_is_told(fill_cache, data, monkeypatch):
    plan = feature_cache.plan_fill

    def later(*args):
        found = plan(*args)
        write_images(Path(data).parent, seed=1)
        return found

    monkeypatch.setattr(feature_cache, "plan_fill", later)
    with pytest.raises(ConfigError, match="changed while their features were computed"):
        fill_cache()
