"""Weights are in the checkpoint's own type or in the requested one, everywhere that a checkpoint is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_adapters import FAMILIES, adapted_model, save_adapters, save_checkpoint
from tiny_mask_vqvae import tiny
from tiny_siglip import random_images, tiny_siglip

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.eval.answering.load_model import adapter_parameters, load_model
from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.eval.image_encoders.models import load_encoder
from openpali.modeling.auto import MODELS, checkpoint_config, load_processor, model_class
from openpali.modeling.dtypes import DTYPES
from openpali.scripts.merge_adapter import merge_adapter

# share of the largest logit: bfloat16 keeps 8 bits of a number and float16 11, over some tens of roundings
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
SLOW = "is in bfloat16: most CPUs are faster with --dtype float32, in twice the memory"


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoints(request, tmp_path_factory, tiny_tokenizer):
    """Folder of one model in each type, by the type's name."""
    folder = tmp_path_factory.mktemp(request.param)
    save_checkpoint(request.param, tiny_tokenizer, folder / "float32")
    for name in ("bfloat16", "float16"):
        model = model_class(checkpoint_config(folder / "float32")).from_pretrained(folder / "float32")
        model.to(DTYPES[name]).save_pretrained(folder / name)
        load_processor(folder / "float32").save_pretrained(folder / name)
    return folder


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (20, 24), "red").save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def loads(monkeypatch):
    """The type that every `from_pretrained` gets, and the types of its weights."""
    seen: list[tuple[Any, set[torch.dtype]]] = []

    def watch(kind: Any) -> None:
        whole = kind.from_pretrained.__func__

        def spy(cls: Any, *args: Any, **options: Any) -> Any:
            loaded = whole(cls, *args, **options)
            # with the names that were missing, where they are requested
            model = loaded[0] if options.get("output_loading_info") else loaded
            seen.append((options.get("dtype"), types(model)))
            return loaded

        monkeypatch.setattr(kind, "from_pretrained", classmethod(spy))

    for kind in MODELS.values():
        watch(kind)
    return seen


def types(model: Any) -> set[torch.dtype]:
    """Of the weights; beside float16 Transformers keeps T5's `wo` in float32."""
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    return {p.dtype for name, p in model.named_parameters() if not (half and name.endswith("wo.weight"))}


def stored(folder: Path) -> set[torch.dtype]:
    """Types of a checkpoint's tensors."""
    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


def said(folder: Path) -> set[str]:
    """Types that its configuration names, those of its parts included."""
    config = json.loads((folder / "config.json").read_text())
    return {part["dtype"] for part in (config, config["vision_config"], config["text_config"])}


def logits_of(model: Any, processor: Any) -> torch.Tensor:
    """float32 logits of a prompt, with the inputs in the model's type as `predict` has them."""
    inputs = processor(images=[[Image.new("RGB", (20, 24), "red")]], text=["what is this"], return_tensors="pt")
    with torch.no_grad():
        return model(**inputs.to(model.device, dtype=model.dtype)).logits.float()


@pytest.mark.parametrize("own", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("requested", ["auto", "float32", "bfloat16", "float16"])
def test_weights_are_read_in_the_type_and_in_no_other_on_the_way(checkpoints, loads, own, requested):
    model, _ = load_model(str(checkpoints / own), "cpu", requested)
    expected = DTYPES[own if requested == "auto" else requested]
    assert loads == [("auto" if requested == "auto" else expected, {expected})]
    assert types(model) == {model.dtype} == {expected}


@pytest.mark.parametrize("requested", ["auto", "float32", "bfloat16", "float16"])
def test_answers_are_the_same_within_the_types_rounding(checkpoints, requested):
    folder = str(checkpoints / "bfloat16")
    expected = logits_of(*load_model(folder, "cpu", "float32"))
    difference = (logits_of(*load_model(folder, "cpu", requested)) - expected).abs().max()
    assert difference < TOLERANCES["bfloat16" if requested == "auto" else requested] * expected.abs().max()


@pytest.mark.parametrize(("own", "requested"), [("bfloat16", None), ("float32", "bfloat16"), ("bfloat16", "float32")])
def test_predict_answers_in_it(checkpoints, image, loads, capsys, caplog, own, requested):
    folder = str(checkpoints / own)
    more = ["--dtype", requested] if requested else []
    openpali_cli.main(["predict", folder, image, "what is this", "--device", "cpu", "--max_new_tokens", "3", *more])
    assert capsys.readouterr().out.count("\n") >= 1
    assert [found for _, found in loads] == [{DTYPES[requested or own]}]
    # the warning of a slow type comes only without --dtype
    assert [record.getMessage() for record in caplog.records] == ([] if requested else [f"{folder} {SLOW}"])


@pytest.mark.adapters
def test_adapters_answer_beside_weights_in_their_own_type(checkpoints, loads, tmp_path):
    base, adapters = checkpoints / "bfloat16", tmp_path / "adapters"
    save_adapters(base, "lora", adapters)
    loads.clear()
    narrow, wide = (load_model(str(adapters), "cpu", requested) for requested in ("auto", "float32"))
    assert loads == [("auto", {torch.bfloat16}), (torch.float32, {torch.float32})]
    assert {p.dtype for p in adapter_parameters(narrow[0]).values()} == {torch.float32}
    expected = logits_of(*wide)
    assert (logits_of(*narrow) - expected).abs().max() < TOLERANCES["bfloat16"] * expected.abs().max()


@pytest.mark.adapters
def test_four_bits_have_the_type_of_their_training(checkpoints, image, tmp_path):
    save_adapters(checkpoints / "float32", "qlora", tmp_path / "adapters")
    name = str(tmp_path / "adapters")
    openpali_cli.main(["predict", name, image, "what is this", "--max_new_tokens", "2", "--dtype", "float32"])
    with pytest.raises(SystemExit) as stop:
        openpali_cli.main(["predict", name, image, "what is this", "--dtype", "bfloat16"])
    assert "compute in float32: leave --dtype out, or merge it first" in str(stop.value.code)


@pytest.mark.parametrize("requested", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("own", ["bfloat16", "float16"])
def test_export_writes_it(checkpoints, loads, tmp_path, own, requested):
    openpali_cli.main(["export", str(checkpoints / own), str(tmp_path / "out"), "--dtype", requested])
    name = own if requested == "auto" else requested
    assert [found for _, found in loads] == [{DTYPES[name]}]
    assert stored(tmp_path / "out") == {DTYPES[name]}
    assert said(tmp_path / "out") == {name}


def test_export_of_a_codec_writes_it(tmp_path):
    tiny().save_pretrained(tmp_path / "codec")
    openpali_cli.main(["export", str(tmp_path / "codec"), str(tmp_path / "out"), "--dtype", "bfloat16"])
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    # the codes stay exact
    assert {t.dtype for name, t in tensors.items() if "_vq_vae" not in name} == {torch.bfloat16}


@pytest.mark.adapters
def test_export_says_what_it_cannot_read(checkpoints, tmp_path):
    adapted_model(checkpoints / "float32", "lora").save_pretrained(tmp_path / "adapters")
    for name, words in (("adapters", "holds adapters; merge them first: openpali merge"), ("nowhere", "nowhere")):
        with pytest.raises(SystemExit) as stop:
            openpali_cli.main(["export", str(tmp_path / name), str(tmp_path / "out")])
        assert str(stop.value.code).startswith("openpali export: ")
        assert words in str(stop.value.code)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("requested", ["auto", "float32", "float16"])
def test_merge_reads_the_bases_type_and_rounds_once(checkpoints, loads, tmp_path, kind, requested):
    save_adapters(checkpoints / "bfloat16", kind, tmp_path / "adapters")
    loads.clear()
    openpali_cli.main(["merge", *map(str, (tmp_path / "adapters", tmp_path / "out", "--dtype", requested))])
    name = "bfloat16" if requested == "auto" else requested
    assert loads == [("auto", {torch.bfloat16})]
    assert stored(tmp_path / "out") == {DTYPES[name]}
    assert said(tmp_path / "out") == {name}
    # the same sums of weights that were wide from the beginning
    wide = model_class(checkpoint_config(checkpoints / "bfloat16")).from_pretrained(
        checkpoints / "bfloat16", dtype=torch.float32
    )
    wide.save_pretrained(tmp_path / "wide")
    load_processor(checkpoints / "bfloat16").save_pretrained(tmp_path / "wide")
    merge_adapter(tmp_path / "adapters", tmp_path / "sums", base=str(tmp_path / "wide"), device="cpu")
    sums, found = (load_file(tmp_path / f / "model.safetensors") for f in ("sums", "out"))
    # the last bit of a sum may differ with the alignment of memory, and so a rounding; rounded twice, a tenth would
    other = sum((found[key] != sums[key].to(found[key].dtype)).sum().item() for key in sums)
    assert other < 0.01 * sum(tensor.numel() for tensor in sums.values())
    assert all(torch.allclose(found[key].float(), sums[key], rtol=2**-8, atol=2e-4) for key in sums)


@pytest.mark.parametrize("requested", ["auto", "float32", "bfloat16", "float16"])
def test_encoders_embed_in_it(tmp_path, requested):
    model, processor = tiny_siglip()
    model.bfloat16().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wide, found = (
        load_encoder(str(tmp_path), "cpu", dtype="float32"),
        load_encoder(str(tmp_path), "cpu", dtype=requested),
    )
    assert types(found.model) == {torch.bfloat16 if requested == "auto" else DTYPES[requested]}
    limit = 2 * TOLERANCES["bfloat16" if requested == "auto" else requested]
    for embed in (
        lambda one: embed_images(one.model, one.image_processor, random_images()),
        lambda one: embed_texts(one.model, one.tokenizer, ["red", "blau"]),
    ):
        assert embed(found).dtype == torch.float32
        assert (embed(found) - embed(wide)).abs().max() < limit
