"""The ONNX graphs of the encoders give PyTorch's numbers, for batches of any size."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_adapters import FAMILIES, save_checkpoint
from tiny_siglip import COLOURS, random_images, tiny_siglip
from tolerances import assert_same_but_rounding
from transformers import AutoProcessor

from openpali.modeling import export_onnx
from openpali.modeling.auto import MODELS, load_processor
from openpali.modeling.export import main

runtime = pytest.importorskip("onnxruntime", reason='pip install "openpali[onnx]"')


def run(graph: Path, **inputs: torch.Tensor) -> torch.Tensor:
    """The only output of a graph."""
    session = runtime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: np.asarray(values) for name, values in inputs.items()})
    return torch.from_numpy(found)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A model of two towers and the folder of its graphs."""
    root = tmp_path_factory.mktemp("siglip")
    model, processor = tiny_siglip()
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    main([str(root / "model"), str(root / "onnx"), "--onnx"])
    return model, root / "onnx"


@pytest.mark.parametrize(("images", "texts"), [(1, 1), (5, 3)])
def test_towers_of_a_siglip(siglip, images, texts):
    model, folder = siglip
    processor = AutoProcessor.from_pretrained(folder)
    given = {"images": random_images(images), "text": list(COLOURS)[:texts], "padding": "max_length"}
    batch = processor(**given, max_length=model.config.text_config.max_position_embeddings, return_tensors="pt")
    image_embeds = run(folder / "image_encoder.onnx", pixel_values=batch["pixel_values"])
    text_embeds = run(folder / "text_encoder.onnx", input_ids=batch["input_ids"])
    logits = run(folder / "similarity.onnx", image_embeds=image_embeds, text_embeds=text_embeds)
    with torch.no_grad():
        # padding is attended to, as in training
        expected = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])
    assert_same_but_rounding(image_embeds, expected.image_embeds)
    assert_same_but_rounding(text_embeds, expected.text_embeds)
    # the scale multiplies the rounding of embeddings of length 1
    assert_same_but_rounding(logits, expected.logits_per_image, scale=float(model.logit_scale.detach().exp()))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_vision_language_model(family, tiny_tokenizer, tmp_path, capsys):
    saved = save_checkpoint(family, tiny_tokenizer, tmp_path / family)
    main([str(saved), str(tmp_path / "onnx"), "--onnx"])
    graph = tmp_path / "onnx" / "image_encoder.onnx"
    assert capsys.readouterr().out.startswith(f"wrote {graph}: at most ")
    model, processor = MODELS[family].from_pretrained(saved).eval(), load_processor(saved)
    for count in (1, 5):
        batch = processor([[image] for image in random_images(count)], ["what is this"] * count, return_tensors="pt")
        with torch.no_grad():
            expected = model.get_image_features(batch["pixel_values"]).pooler_output
        found = run(graph, pixel_values=batch["pixel_values"])
        assert found.shape[0] == count
        assert count == 1 or float(expected.std(0).max()) > 0.01
        assert_same_but_rounding(found, expected)


def test_a_graph_with_other_numbers_is_refused(siglip):
    _, folder = siglip
    other, _ = tiny_siglip(seed=1)
    with pytest.raises(OSError, match=r"similarity.onnx: its logits_per_image are .* apart from PyTorch's"):
        export_onnx.difference(folder, "similarity", *export_onnx.onnx_parts(other)["similarity"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "bfloat16"], "--onnx writes float32, not bfloat16: leave --dtype out"),
        ([], "is a model of the type t5: --onnx writes the encoders of pali3, paligemma and siglip"),
    ],
)
def test_what_cannot_be_written_is_told_on_one_line(arguments, message, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), str(tmp_path / "onnx"), "--onnx", *arguments])
    assert message in f"{end.value.code} {capsys.readouterr().err}"
    assert not (tmp_path / "onnx").exists()


def test_a_missing_library_is_named_with_its_extra(tiny_tokenizer, tmp_path, monkeypatch):
    saved = save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "paligemma")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit, match=r'pip install "openpali\[onnx\]"'):
        main([str(saved), str(tmp_path / "onnx"), "--onnx"])
