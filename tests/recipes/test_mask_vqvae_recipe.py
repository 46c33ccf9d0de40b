import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from openpali import MaskVQVAE
from openpali.data.example import Box
from openpali.data.files.config import ConfigError
from openpali.data.masks.rle import LazyMask, encode_rle
from openpali.data.records import BadRecord
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.recipes import mask_vqvae
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import skip_log
from openpali.recipes.stages.instance_masks import Masks, cached_masks, collate, crop_masks, instances
from openpali.recipes.stages.mask_scores import (
    draw_reconstruction,
    draw_sheet,
    mask_iou,
    reconstructions,
    square_scores,
)

# 16 x 16 masks in 4 x 4 codes of 128: small, and its text is that of the real one
CODEC = {"image_size": 16, "channels": [4, 8], "num_residual_blocks": 1, "codebook_dim": 8}
EMOJI = "{name: emoji, split: train, size: 64, concepts: 12, objects: [1, 3], length: 60}"
ARGV = ["--source", EMOJI, "--codec", json.dumps(CODEC), "--train_masks", "40", "--test_masks", "10"]
ARGV += ["--max_steps", "4", "--save_steps", "2", "--eval_steps", "2", "--eval_limit", "8", "--logging_steps", "1"]
ARGV += ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "8", "--warmup_steps", "1"]
ARGV += ["--dataloader_num_workers", "0", "--orientations", "2", "--learning_rate", "3e-3"]
UNSEEN = EMOJI.replace("split: train", "split: test, concept_split: held_out")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks") / "run"
    mask_vqvae.main([*ARGV, "--output_dir", str(folder), "--unseen", UNSEEN])
    return folder


def run_in(folder, **options) -> RunArguments:
    folder.mkdir(exist_ok=True)
    return RunArguments(output_dir=str(folder), use_cpu=True, **options)


class Shapes:
    """Records of a rectangle each; the second is broken, and the third has a box of no pixel and no mask beside it."""

    name = "shapes"

    def __init__(self, objects=True, length=6):
        self.objects, self.length, self.reads = objects, length, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads += 1
        if index == 1:
            raise BadRecord(self.name, index, "it is torn")
        mask = np.zeros((20, 40), bool)
        mask[5:15, 10 : 20 + index] = True
        box = Box(0.25, 0.25, (20 + index) / 40, 0.75, "bar")
        if index == 2:
            box = Box(0.25, 0.25, 0.2501, 0.75, "bar")
        objects = [{"mask": mask, "box": box}, {"box": box}, {"mask": np.zeros((20, 40), bool), "box": box}]
        image = Image.new("RGB", (40, 20))
        return {"id": f"shape-{index}", "image": image, "objects": objects if self.objects else []}


def test_the_run_leaves_a_codec_its_scores_and_images(finished):
    model = MaskVQVAE.from_pretrained(finished)
    assert model.config.channels == [4, 8]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) == {"held-out masks", "masks of unseen things"}
    for scores in metrics.values():
        assert scores["examples"] == 10
        assert 0 <= scores["lowest_tenth"] <= scores["iou"] <= 1
        assert 1 <= scores["perplexity"] <= scores["codes_used"] <= 128
    assert Image.open(finished / "masks.png").width > 1000
    page = (finished / "report.html").read_text()
    assert "masks of unseen things" in page
    assert "OpenMoji" in page
    assert "<seg" not in page
    assert "&lt;seg" in page


def test_resumed_is_uninterrupted_codebook_and_all(finished, tmp_path):
    shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2")
    mask_vqvae.main([*ARGV, "--output_dir", str(tmp_path), "--unseen", UNSEEN])
    whole, resumed = (MaskVQVAE.from_pretrained(f / "checkpoint-4").state_dict() for f in (finished, tmp_path))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    start = MaskVQVAE.from_pretrained(finished / "checkpoint-2").state_dict()
    assert not any(torch.equal(whole[key], start[key]) for key in whole)


def test_training_goes_on_from_a_checkpoint(finished, tmp_path, capsys):
    argv = [argument for argument in ARGV if argument not in ("--codec", json.dumps(CODEC))]
    argv += ["--output_dir", str(tmp_path), "--model", str(finished), "--max_steps", "1", "--eval_steps", "1"]
    mask_vqvae.main([*argv, "--save_steps", "9"])
    assert MaskVQVAE.from_pretrained(tmp_path).config.channels == [4, 8]
    with pytest.raises(SystemExit, match="leave it out, or leave out model"):
        mask_vqvae.main([*argv, "--codec", "{image_size: 8}", "--overwrite", "true"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--codec", "{codebook_sice: 4}"], "no field 'codebook_sice'"),
        (["--orientations", "3"], "orientations is one of 1, 2, 8, not 3"),
        (["--test_masks", "0"], "at least 1"),
        (["--source", "{name: emogi}"], "emogi"),
        (["--model", "outputs/nowhere"], "no folder outputs/nowhere"),
    ],
)
def test_mistakes_end_with_one_sentence(argv, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        mask_vqvae.main(["--output_dir", str(tmp_path), "--use_cpu", "true", "--source", EMOJI, *argv])


def test_masks_are_cut_out_of_their_boxes_and_bad_records_are_listed(tmp_path):
    run = run_in(tmp_path)
    squares = crop_masks(Shapes(), 10, 16, run)
    # a rectangle fills its own box
    assert squares.shape == (4, 16, 16)
    assert squares.dtype == torch.uint8
    assert (squares == 255).all()
    reasons = [row["reason"] for row in skip_log(run).read()]
    assert reasons[0] == "it is torn"
    assert "covers no pixel of a mask of 20 x 40" in reasons[1]
    assert len(crop_masks(Shapes(), 2, 16, run)) == 2


@pytest.mark.parametrize("kind", [encode_rle, lambda mask: LazyMask(lambda: mask)])
def test_masks_may_have_any_form_of_a_record(kind):
    record = Shapes()[0]
    (true,) = instances(record)
    record["objects"][0]["mask"] = kind(record["objects"][0]["mask"])
    record["objects"][0]["box"] = Box(0.25, 0.25, 0.5, 0.75, "bar; rod")
    (found,) = instances(record)
    assert torch.equal(found.mask, true.mask)
    assert found.box.label == "bar, rod"
    assert found.box[:4] == true.box[:4] == (0.25, 0.25, 0.75, 0.5)


def test_sources_without_masks_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="shapes has no masks"):
        crop_masks(Shapes(objects=False, length=1), 10, 16, run_in(tmp_path))


def test_masks_are_cut_once_for_the_same_description_only(tmp_path):
    source = Shapes()
    first = cached_masks({"name": "shapes"}, "train", source, 10, 16, run_in(tmp_path))
    reads = source.reads
    again = cached_masks({"name": "shapes"}, "train", source, 10, 16, run_in(tmp_path))
    assert torch.equal(first, again)
    assert source.reads == reads
    assert cached_masks({"name": "shapes", "size": 3}, "train", source, 10, 8, run_in(tmp_path)).shape[1:] == (8, 8)
    reads = source.reads
    cached_masks({"name": "shapes"}, "train", source, 10, 16, run_in(tmp_path, overwrite=True))
    assert source.reads > reads


@pytest.mark.parametrize("orientations", [1, 2, 8])
def test_orientations_are_all_different(orientations):
    squares = torch.stack([torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5], [6, 7]])]).byte()
    data = Masks(squares, orientations)
    seen = {tuple(data[i].flatten().tolist()) for i in range(len(data))}
    assert len(data) == len(seen) == 2 * orientations
    assert torch.equal(data[0], squares[0])
    if orientations == 2:
        assert data[1].tolist() == [[1, 0], [3, 2]]
    assert collate([data[0], data[0]])["masks"].tolist() == [(squares[0] / 255).tolist()] * 2


def test_iou_of_known_masks():
    one = torch.tensor([[1, 1], [0, 0]]).bool()
    other = torch.tensor([[1, 0], [1, 0]]).bool()
    assert mask_iou(one, other).item() == pytest.approx(1 / 3)
    both = torch.stack([one, torch.zeros(2, 2).bool()])
    assert mask_iou(both, torch.zeros(2, 2, 2).bool()).tolist() == [0.0, 1.0]


class Perfect(MaskVQVAE):
    """Gives back what it was given, with codes that are counted by hand below."""

    def encode(self, masks):
        self.kept = masks
        return torch.tensor([[0, 0, 1, 1]] * (len(masks) - 1) + [[0, 0, 0, 0]])

    def decode(self, codes):
        return 2 * self.kept.float() - 1


def test_scores_of_a_codec_that_loses_nothing():
    squares = (torch.rand(3, 16, 16) > 0.5).byte() * 255
    scores = square_scores(Perfect(MaskVQVAEConfig(**CODEC)), squares)
    # code 0 eight times, code 1 four times
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert scores == {"iou": 1.0, "codes_used": 2.0, "perplexity": pytest.approx(np.exp(entropy))}


def test_pairs_are_measured_at_the_size_of_the_image():
    """A decoder that says "inside" everywhere gives back rectangles, but for the edges that tokens cannot tell."""
    torch.manual_seed(0)
    model = MaskVQVAE(MaskVQVAEConfig(**CODEC)).eval()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.fill_(1.0)
    source = Shapes(length=1)
    (pair,) = reconstructions(model, source, 5)
    # tokens of 0.25, 0.5 and 0.75 are 256, 512 and 767: back in pixels 5 and 10 to 14 (of 15) and 20
    assert pair.mask.sum() == 9 * 10
    assert pair.iou == pytest.approx(9 / 10)
    assert pair.text.startswith("<loc0256><loc0256><loc0767><loc0512><seg")
    assert pair.text.endswith(" bar")
    assert draw_reconstruction(pair).size == (226, 112)
    assert draw_sheet([pair] * 30).height > draw_sheet([pair]).height


def test_masks_whose_text_cannot_be_read_back_count_as_zero():
    class Thin(Shapes):
        def __getitem__(self, index):
            mask = np.zeros((5000, 4), bool)
            mask[0:1] = True
            return {"id": "thin", "objects": [{"mask": mask, "box": Box(0, 0, 1, 1 / 5000, "hair")}]}

    torch.manual_seed(0)
    (pair,) = reconstructions(MaskVQVAE(MaskVQVAEConfig(**CODEC)).eval(), Thin(length=1), 1)
    assert pair.iou == 0
    assert pair.mask.shape == (5000, 4)
