"""CapPa's checkpoints, converted by the command: stacked and separate layers, a processor, another resolution."""

import json

import numpy as np
import pytest
import torch
from big_vision_files import FIXTURES, assert_same_weights, fixture, parameters, pixels, save, save_tokenizer
from transformers import AutoModel, AutoProcessor

from openpali import Captioner
from openpali.eval.image_encoders.models import load_encoder
from openpali.scripts.convert_big_vision import main


def apart(arrays):
    """The stacked layers one by one: the encoder's lie on the first axis, the decoder's on the second."""
    found = {}
    for key, value in arrays.items():
        for stem, joint, axis in (("encoderblock/", "encoderblock_", 0), ("EncDecBlock/", "EncDecBlock", 1)):
            if stem in key:
                before, after = key.split(stem)
                parts = enumerate(np.moveaxis(value, axis, 0))
                found |= {f"{before}{joint}{layer}/{after}": part for layer, part in parts}
                break
        else:
            found[key] = value
    return found


@pytest.mark.parametrize("name", ["cappa_tiny", "cappa_tiny_scan"])
def test_a_converted_captioner_loads_and_scores(name, tmp_path):
    arrays = fixture(name)
    main([str(FIXTURES / f"{name}.npz"), str(tmp_path / "out")])
    model, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(model) is Captioner
    assert not any(report.values())
    with torch.no_grad():
        found = model.score(pixels(arrays), torch.from_numpy(arrays["in/label_tokens"]).long())
    np.testing.assert_allclose(found.numpy(), arrays["out/scores"], atol=1e-4, rtol=0)


def test_layers_apart_stacked_and_column_by_column_are_the_same(tmp_path):
    stacked = parameters("cappa_tiny_scan")
    save(tmp_path / "apart.npz", apart(stacked))
    save(tmp_path / "columns.npz", {key: np.asfortranarray(value) for key, value in stacked.items()})
    main([str(FIXTURES / "cappa_tiny_scan.npz"), str(tmp_path / "stacked")])
    for name in ("apart", "columns"):
        main([str(tmp_path / f"{name}.npz"), str(tmp_path / name)])
        assert_same_weights(tmp_path / name, tmp_path / "stacked")


def test_processor_and_another_resolution(tmp_path):
    arrays = parameters("cappa_tiny")
    key = "params/decoder/EmbedTargets/embedding"
    # as many tokens as a byte tokenizer has
    generator = np.random.default_rng(0)
    arrays[key] = generator.normal(size=(301, arrays[key].shape[1])).astype(np.float32)
    width = arrays["params/decoder/LogitsDense/kernel"].shape[0]
    arrays["params/decoder/LogitsDense/kernel"] = generator.normal(size=(width, 300)).astype(np.float32)
    arrays["params/decoder/LogitsDense/bias"] = np.zeros(300, np.float32)
    save(tmp_path / "in.npz", arrays)
    tokenizer = save_tokenizer(tmp_path / "tokenizer", 300)
    options = ["--tokenizer", str(tokenizer), "--resolution", "48"]
    main([str(tmp_path / "in.npz"), str(tmp_path / "out"), *options])
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_processor.size == {"height": 48, "width": 48}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vision_config"]["image_size"] == 48
    assert config["decoder_config"]["vocab_size"] == 300
    assert load_encoder(str(tmp_path / "out"), "cpu").is_captioner


def test_an_axis_of_layers_that_is_missing(tmp_path):
    arrays = parameters("cappa_tiny_scan")
    arrays["params/decoder/EncDecBlock/LayerNorm1/scale"] = np.zeros(3, np.float32)
    save(tmp_path / "in.npz", arrays)
    with pytest.raises(SystemExit, match="LayerNorm1/scale has the shape \\[3\\], without an axis of layers"):
        main([str(tmp_path / "in.npz"), str(tmp_path / "out")])
