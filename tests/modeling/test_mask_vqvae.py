import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from absent import ABSENT
from PIL import Image
from released_masks import FIXTURES, released_arrays
from tiny_mask_vqvae import blobs, tiny
from tolerances import assert_same_but_rounding
from transformers import AutoConfig, AutoModel

import openpali
from openpali import MaskVQVAE
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.modeling.export import main as export_main
from openpali.modeling.location_tokens import LocatedBox
from openpali.modeling.mask_pixels import crop_mask, mask_box, paste_mask
from openpali.modeling.segmentation_tokens import LocatedMask, format_segmentations, parse_segmentations
from openpali.scripts.convert_mask_vqvae import load_released, main

NPY = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n\x00"


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> MaskVQVAE:
    """Converted from an .npz of the released layout."""
    path = tmp_path_factory.mktemp("released") / "weights.npz"
    np.savez(path, **released_arrays())  # pyright: ignore
    return load_released(path)


@pytest.fixture(scope="module")
def printed() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "mask_vae.npz") as file:
        return {key: file[key] for key in file.files}


def disc(height: int, width: int, y: float, x: float, radius: float) -> torch.Tensor:
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def test_indices_are_those_of_the_released_code(released, printed):
    masks = torch.from_numpy(printed["in/masks"][..., 0])
    assert released.encode(masks).tolist() == printed["out/indices"].tolist()


def test_decoded_masks_are_those_of_the_released_code(released, printed):
    decoded = released.decode(torch.from_numpy(printed["in/dec_indices"]))
    assert decoded.shape == (7, 64, 64)
    np.testing.assert_allclose(decoded.numpy(), printed["out/decoded"][..., 0], atol=1e-4, rtol=0)
    assert printed["out/decoded"].std() > 0.05


@pytest.mark.parametrize("case", range(3))
def test_strings_are_those_of_the_released_code(released, case):
    with np.load(FIXTURES / "mask2str.npz") as file:
        mask, box, suffix = (file[f"{case}/{name}"] for name in ("mask", "bbox", "suffix"))
    text = released.write(torch.from_numpy(mask > 0)[None], boxes=[LocatedBox(*box.tolist())])
    assert text == str(suffix)


def test_names_and_number_of_the_released_values(released):
    names = [name for name in released.state_dict() if "_ema_" not in name]
    assert set(names) == set(released_arrays())
    assert sum(released.state_dict()[name].numel() for name in names) == 2_050_929


def test_conversion_writes_a_folder_that_loads(released, printed, tmp_path):
    np.savez(tmp_path / "weights.npz", **released_arrays())  # pyright: ignore
    main([str(tmp_path / "weights.npz"), str(tmp_path / "model")])
    model = MaskVQVAE.from_pretrained(tmp_path / "model")
    codes = torch.from_numpy(printed["in/dec_indices"])
    for name, value in released.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert_same_but_rounding(model.decode(codes), released.decode(codes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("encoder.0.bias"), "lacks encoder.0.bias"),
        (lambda a: a.update({"encoder.99.bias": np.zeros(1, np.float32)}), "unknown encoder.99.bias"),
        (lambda a: a.update({"encoder.0.bias": np.zeros(3, np.float32)}), "another shape of encoder.0.bias"),
        (lambda a: a.update({"encoder.0.bias": np.array([print], dtype=object)}), "plain arrays"),
    ],
)
def test_conversion_says_what_is_wrong_and_unpickles_nothing(change, message, tmp_path):
    arrays = released_arrays()
    change(arrays)
    np.savez(tmp_path / "weights.npz", **arrays)  # pyright: ignore
    with pytest.raises(ValueError, match=message):
        load_released(tmp_path / "weights.npz")


@pytest.mark.parametrize("content", [None, b"", b"not a zip", NPY])
def test_files_that_are_no_npz_end_conversion_with_a_sentence(content, tmp_path):
    path = tmp_path / "weights.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match="error: .*weights.npz"):
        main([str(path), str(tmp_path / "model")])


def test_saved_models_load_with_codebook_and_statistics(tmp_path):
    model = tiny().train()
    model(blobs(8))
    model.save_pretrained(tmp_path)
    loaded, info = MaskVQVAE.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert type(AutoModel.from_pretrained(tmp_path)) is MaskVQVAE
    assert type(AutoConfig.from_pretrained(tmp_path)) is MaskVQVAEConfig


def test_weights_without_statistics_keep_their_codebook_in_training(released, tmp_path):
    """Otherwise fine-tuning published weights would begin by throwing all of their codes away."""
    released.save_pretrained(tmp_path, state_dict={k: v for k, v in released.state_dict().items() if "_ema" not in k})
    model = MaskVQVAE.from_pretrained(tmp_path).train()
    before = model._vq_vae._embedding.clone()
    assert torch.equal(before, released._vq_vae._embedding)
    masks = blobs(4, 64)
    chosen = model.encode(masks).unique().tolist()
    model(masks)
    moved = (model._vq_vae._embedding - before).norm(dim=1) > 1e-4
    assert moved.nonzero().flatten().tolist() == chosen
    assert len(chosen) < 64


def test_half_precision_leaves_the_codebook_alone(tmp_path):
    tiny().save_pretrained(tmp_path)
    model = MaskVQVAE.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert {value.dtype for name, value in model.state_dict().items() if "_vq_vae" in name} == {torch.float32}
    codes = model.encode(blobs(3))
    assert model.decode(codes).dtype == torch.bfloat16


def test_the_loss_is_that_of_the_paper():
    model = tiny().eval()
    masks = blobs(4)
    out = model(masks)
    target = 2.0 * masks - 1
    grid = model.encoder(target[:, None]).permute(0, 2, 3, 1).reshape(-1, 5)
    distances = (grid[:, None] - model._vq_vae._embedding).norm(dim=-1)
    assert out.codes.flatten().tolist() == distances.argmin(1).tolist()
    chosen = model._vq_vae._embedding[distances.argmin(1)]
    expected = ((model.decode(out.codes) - target) ** 2).mean() + 0.25 * ((grid - chosen) ** 2).mean()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(out.reconstruction, model.decode(model.encode(masks)))


def test_every_parameter_gets_a_gradient_and_no_buffer_does():
    model = tiny().train()
    model(blobs(8)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert not any(buffer.requires_grad for buffer in model.buffers())
    assert "_vq_vae._embedding" not in dict(model.named_parameters())


def test_gradients_pass_the_codebook_unchanged():
    """d reconstruction / d encoder output is that of the decoder at the codes."""
    model = tiny(commitment_cost=0.0).eval()
    masks = blobs(2)
    model(masks).loss.backward()
    passed = model.encoder[-1].bias.grad
    vectors = model._vq_vae(model.encode(masks)).view(2, 2, 2, 5).permute(0, 3, 1, 2).requires_grad_()
    ((model.decoder(vectors)[:, 0] - (2.0 * masks - 1)) ** 2).mean().backward()
    torch.testing.assert_close(passed, vectors.grad.sum((0, 2, 3)))


def test_masks_of_images_come_back(released):
    """Through random weights nothing looks alike, but boxes, labels, shapes and the codes survive."""
    masks = torch.stack([disc(90, 120, 30, 40, 20), disc(90, 120, 60, 90, 15)])
    text = released.write(masks, ["dog", "a cat"])
    found = released.read(f"{text} ; nonsense", 90, 120)
    assert found.masks.shape == (2, 90, 120)
    assert found.masks.dtype == torch.bool
    assert [box.label for box in found.boxes] == ["dog", "a cat"]
    assert [part.text for part in found.rejected] == ["nonsense"]
    squares = torch.stack([crop_mask(mask, mask_box(mask)) for mask in masks])
    codes = [mask.codes for mask in parse_segmentations(text).masks]
    assert released.encode(squares).tolist() == [list(row) for row in codes]


def test_boxes_without_a_pixel_are_rejected_and_no_text_raises(released):
    thin = LocatedMask(LocatedBox(10 / 1023, 0, 11 / 1023, 1, "dog"), (0,) * 16)
    found = released.read(format_segmentations([thin]), 20, 20)
    assert found.masks.shape == (0, 20, 20)
    assert "covers no pixel of an image of 20 x 20" in found.rejected[0].reason
    for text in ("", " ; ", "<loc0000>", "dog"):
        assert released.read(text, 20, 20).boxes == []
    assert released.write(torch.zeros(0, 5, 5, dtype=torch.bool)) == ""


@pytest.mark.parametrize("seed", range(4))
def test_cropping_and_pasting_resize_as_pillow_does(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 200, 2).tolist()
    values = rng.standard_normal((64, 64)).astype(np.float32)
    box = LocatedBox(0.11, 0.21, 0.83, 0.97)
    top, left, bottom, right = int(0.11 * height), int(0.21 * width), int(0.83 * height), int(0.97 * width)
    resized = Image.fromarray(values).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    expected = np.zeros((height, width), bool)
    expected[top:bottom, left:right] = np.asarray(resized) > 0
    pasted = paste_mask(torch.from_numpy(values), box, height, width)
    assert pasted is not None
    assert (pasted.numpy() != expected).mean() < 1e-3
    mask = rng.random((height, width)) < 0.5
    top, left, bottom, right = (round(x) for x in (0.11 * height, 0.21 * width, 0.83 * height, 0.97 * width))
    crop = Image.fromarray(mask[top:bottom, left:right].astype(np.float32))
    expected = np.asarray(crop.resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(crop_mask(torch.from_numpy(mask), box).numpy(), expected, atol=1e-5)


def test_edges_are_truncated_as_in_the_released_code_and_rounded_on_request():
    box = LocatedBox.from_pixel_xyxy([2.9, 3.2, 7.9, 8.6], 20, 10)
    expected = {False: (2, 3, 7, 8), True: (3, 3, 8, 9)}
    for round_edges, (left, top, right, bottom) in expected.items():
        mask = torch.zeros(10, 20, dtype=torch.bool)
        mask[top:bottom, left:right] = True
        assert torch.equal(paste_mask(torch.ones(64, 64), box, 10, 20, round_edges), mask)
    assert paste_mask(torch.ones(64, 64), LocatedBox.from_pixel_xyxy([1.2, 1, 1.9, 9], 20, 10), 10, 20) is None


def test_masks_of_integers_and_of_floats_are_cropped_alike():
    mask = disc(40, 50, 20, 20, 9)
    box = mask_box(mask, "dog")
    assert box == LocatedBox.from_pixel_xyxy([11, 11, 29, 29], 50, 40, "dog")
    expected = crop_mask(mask, box)
    assert torch.equal(crop_mask(mask.byte() * 255, box), expected)
    assert torch.equal(crop_mask(mask.float(), box), expected)


def test_what_cannot_be_encoded_is_refused(released):
    full = torch.ones(40, 50, dtype=torch.bool)
    with pytest.raises(ValueError, match="without a pixel"):
        released.write(torch.zeros(1, 40, 50, dtype=torch.bool))
    with pytest.raises(ValueError, match="covers no pixel of a mask of 40 x 50"):
        crop_mask(full, LocatedBox(0.5, 0.5, 0.501, 0.9))
    with pytest.raises(ValueError, match=r"\[B, 64, 64\]"):
        released.encode(full[None])
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        crop_mask(full[None], LocatedBox(0, 0, 1, 1))
    with pytest.raises(ValueError, match="not torch.uint8"):
        released.encode(torch.full((1, 64, 64), 255, dtype=torch.uint8))
    with pytest.raises(ValueError, match="divide bytes by 255"):
        released.encode(torch.full((1, 64, 64), 255.0))


@pytest.mark.parametrize("codes", [[[0] * 15], [[0] * 15 + [128]], [[0] * 15 + [-1]], [0] * 16])
def test_what_cannot_be_decoded_is_refused(released, codes):
    with pytest.raises(ValueError, match="codes are"):
        released.decode(torch.tensor(codes))


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="halved 2 times"):
        tiny(image_size=10)


SCRIPT = """
import torch
from transformers import AutoModel

mask_vqvae = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
mask = torch.zeros(30, 40, dtype=torch.bool)
mask[5:20, 10:30] = True
text = mask_vqvae.write(mask[None], ["dog"])
print(json.dumps([type(mask_vqvae).__module__, text, mask_vqvae.read(text, 30, 40).masks.sum().item()]))
"""


def test_an_exported_mask_vqvae_works_where_openpali_is_not(released, tmp_path):
    released.save_pretrained(tmp_path / "saved")
    export_main([str(tmp_path / "saved"), str(tmp_path / "exported")])
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ABSENT + SCRIPT, str(tmp_path / "exported")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    module, text, pixels = json.loads(done.stdout.splitlines()[-1])
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[5:20, 10:30] = True
    assert module.startswith("transformers_modules.")
    assert text == released.write(mask[None], ["dog"])
    assert pixels == released.read(text, 30, 40).masks.sum().item()
    assert "auto_map" not in vars(released.config)
    assert openpali.MaskVQVAE is MaskVQVAE
