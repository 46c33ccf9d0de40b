"""The step `masks`, on a tiny random SAM that is saved to disk."""

import importlib.util
import json
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_label_models import tiny_owlv2, tiny_sam
from tiny_mask_vqvae import save_codec
from transformers import SamModel, SamProcessor

from openpali.data.example import Box
from openpali.data.masks import mask_tokenizer
from openpali.data.masks.rle import encode_rle, mask_array
from openpali.data.tasks import load_task
from openpali.modeling.segmentation_tokens import parse_segmentations
from openpali.modeling.user_errors import CheckpointError, explain
from openpali.scripts.web.running.registry import step_class
from openpali.scripts.web.running.samples import WebSample, merged
from openpali.scripts.web.steps.masks import Masks, box_masks


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("masks")
    return {"sam": str(tiny_sam(folder / "sam")), "codec": str(save_codec(folder / "codec"))}


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
LEFT, RIGHT = [0.1, 0.1, 0.5, 0.6], [0.5, 0.2, 1.0, 1.0]


def thing(name: str, box: list[float] | None, **others) -> dict:
    return {"names": {"en": name}} | ({"box": box} if box else {}) | others


def sample(*objects: dict, **record) -> WebSample:
    return WebSample("shard", 0, "0001", IMAGE, {"objects": list(objects)} | record)


def test_masks_of_boxes_become_an_example_of_segment(folders):
    step = step_class("masks")(model=folders["sam"], codec=folders["codec"], least_iou=0.1)
    batch = [sample(thing("cup", LEFT), thing("cat", RIGHT, score=0.5)), sample(), WebSample("s", 1, "1", IMAGE, {})]
    verdicts = step(batch)
    assert step(batch) == verdicts
    assert [own.values for own in verdicts] == [{"masks": 2}, {"masks": 0}, {"masks": 0}]
    assert [(own.labels, own.models) for own in verdicts[1:]] == [({}, {})] * 2
    record = json.loads(json.dumps(merged(batch[0].record, verdicts[0])))
    assert record["label_models"]["masks"].startswith(f"{folders['sam']} (transformers 5.")
    for item in record["objects"]:
        assert mask_array(item["mask"]).shape == (40, 60)
        assert item["mask_model"] == record["label_models"]["masks"]
        assert item["mask_codec"] == mask_tokenizer.codec_name(folders["codec"])
        task = load_task({"name": "segment", "codec": folders["codec"]})
        own = {"id": "1", "image": IMAGE, "objects": [item | {"box": Box(*item["box"])}]}
        made = task.example(own, random.Random(0))
        assert made is not None
        assert list(parse_segmentations(made.suffix).masks[0].codes) == item["mask_tokens"]
        del own["objects"][0]["mask_tokens"]
        assert task.example(own, random.Random(0)) == made


@torch.no_grad()
def test_masks_are_those_of_transformers(folders):
    model, processor = SamModel.from_pretrained(folders["sam"]).eval(), SamProcessor.from_pretrained(folders["sam"])
    pixels = [[6.0, 4.0, 30.0, 24.0], [30.0, 8.0, 60.0, 40.0]]
    inputs = processor(images=IMAGE, input_boxes=[pixels], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    outputs = model(**inputs, multimask_output=False)
    expected = processor.post_process_masks(outputs.pred_masks, *sizes)[0][:, 0]
    found = box_masks(folders["sam"], "auto", IMAGE, [LEFT, RIGHT])
    for (mask, iou), own, own_iou in zip(found, expected, outputs.iou_scores[0, :, 0].tolist(), strict=True):
        # pixels at the threshold may round to either side
        assert (mask != own.numpy()).mean() < 0.01
        assert iou == pytest.approx(own_iou, abs=1e-4)


def test_masks_of_low_predicted_iou_are_left_out(folders):
    batch = [sample(thing("cup", LEFT), thing("cat", RIGHT))]
    ious = [iou for _, iou in box_masks(folders["sam"], "auto", IMAGE, [LEFT, RIGHT])]
    assert abs(ious[0] - ious[1]) > 1e-4
    (verdict,) = Masks(model=folders["sam"], least_iou=sum(ious) / 2)(batch)
    assert ["mask" in item for item in verdict.labels["objects"]] == [iou == max(ious) for iou in ious]
    assert "mask_tokens" not in str(verdict)
    (verdict,) = Masks(model=folders["sam"], least_iou=1.0)(batch)
    assert (verdict.labels, verdict.models, verdict.values) == ({}, {}, {"masks": 0})


def test_what_people_drew_stays_and_gets_its_tokens(folders):
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    drawn = thing("cup", LEFT, mask=encode_rle(mask))
    nothing = thing("line", LEFT, mask=encode_rle(np.zeros((40, 60), bool)))
    others = [thing("no box", None), thing("flat", [0.5, 0.5, 0.5, 0.9]), nothing]
    step = Masks(model=folders["sam"], codec=folders["codec"], least_iou=0.0)
    (verdict,) = step([sample(drawn, *others)])
    first, *rest = verdict.labels["objects"]
    assert rest == others
    assert first["mask"] == drawn["mask"]
    assert len(first["mask_tokens"]) == 16
    assert "mask_model" not in first
    assert verdict.models == {}
    # and nothing is done again
    assert step([sample(first, *others)])[0].labels == {}


def test_no_more_objects_than_asked(folders):
    step = Masks(model=folders["sam"], least_iou=0.0, most_objects=1)
    (verdict,) = step([sample(thing("cup", LEFT), thing("cat", RIGHT))])
    assert ["mask" in item for item in verdict.labels["objects"]] == [True, False]
    assert pickle.loads(pickle.dumps(step)) == step


def test_mistakes_are_told_before_a_shard_is_read(tmp_path, folders, monkeypatch):
    with pytest.raises(ValueError, match="model: give the folder or Hub name of one of the types sam, sam_hq"):
        Masks()
    with pytest.raises(CheckpointError, match="is a model of the type owlv2, and masks are made by sam"):
        Masks(model=str(tiny_owlv2(tmp_path / "owl")))
    with pytest.raises(ValueError, match="there is no mask codec at .*/none"):
        Masks(model=folders["sam"], codec=str(tmp_path / "none"))
    for options in ({"least_iou": 3}, {"most_objects": 0}, {"dtype": "int8"}):
        with pytest.raises(ValueError, match="least_iou is 0 to 1"):
            Masks(model=folders["sam"], **options)
    (tmp_path / "config.json").write_text('{"model_type": "sam2"}')
    monkeypatch.setattr("openpali.scripts.web.labelling.label_models.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as error:
        Masks(model=str(tmp_path))
    assert explain(error.value).endswith(
        "prepares images by torchvision, which is missing: install it with pip, or openpali anew"
    )


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="SAM 2 prepares images by torchvision")
def test_sam_2(tmp_path):
    from tiny_label_models import tiny_sam2

    step = Masks(model=str(tiny_sam2(tmp_path / "sam2")), least_iou=0.0)
    (verdict,) = step([sample(thing("cup", LEFT), thing("cat", RIGHT))])
    assert [mask_array(item["mask"]).shape for item in verdict.labels["objects"]] == [(40, 60)] * 2


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (16, 320)])
def test_images_of_any_size(size, folders):
    one = WebSample("s", 0, "0", Image.new("RGB", size), {"objects": [thing("cup", RIGHT)]})
    (verdict,) = Masks(model=folders["sam"], codec=folders["codec"], least_iou=0.0)([one])
    assert verdict.values["masks"] <= 1
