"""A merged checkpoint answers as the adapters' model did, without peft and, for PaliGemma, without openpali."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import FAMILIES, KINDS, answer_logits, loss, save_adapters, save_checkpoint, training_batch
from tolerances import assert_same_but_rounding
from transformers import AutoModelForImageTextToText

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.eval.answering.load_model import load_model
from openpali.modeling.auto import checkpoint_config, model_class
from openpali.scripts.merge_adapter import merge_adapter

pytestmark = pytest.mark.adapters

# float32 sums in another order
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=KINDS)
def merged(request, checkpoint, tmp_path_factory):
    """Folder of the adapters, folder of the merged checkpoint, and the model whose adapters they are."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save_adapters(checkpoint, request.param, folder / "adapters").eval()
    merge_adapter(folder / "adapters", folder / "whole", device="cpu")
    return folder / "adapters", folder / "whole", model


def test_it_answers_as_what_was_trained(checkpoint, merged):
    """Of QLoRA as the 4-bit model, from which the unrounded weights with the same adapters are far away."""
    adapters, whole, trained = merged
    expected = answer_logits(trained, checkpoint)
    by_auto_class = AutoModelForImageTextToText.from_pretrained(whole)
    assert (answer_logits(by_auto_class, whole) - expected).abs().max() < TOLERANCE
    ours, processor = load_model(str(whole), "cpu")
    batch = training_batch(checkpoint)
    assert loss(ours, batch).item() == pytest.approx(loss(trained, batch).item(), abs=TOLERANCE)
    assert processor.tokenizer.get_vocab() == load_model(str(adapters), "cpu")[1].tokenizer.get_vocab()
    unmerged = AutoModelForImageTextToText.from_pretrained(checkpoint)
    assert (answer_logits(unmerged, checkpoint) - expected).abs().max() > 100 * TOLERANCE
    if (adapters / "quantization.json").exists():
        rounded_away = AutoModelForImageTextToText.from_pretrained(adapters)
        assert (answer_logits(rounded_away, checkpoint) - expected).abs().max() > 20 * TOLERANCE


def test_it_is_a_whole_and_plain_checkpoint(checkpoint, merged, tmp_path):
    _, whole, _ = merged
    assert not {"adapter_config.json", "adapter_model.safetensors", "quantization.json"} & {
        p.name for p in whole.iterdir()
    }
    model_class(checkpoint_config(checkpoint)).from_pretrained(checkpoint).save_pretrained(tmp_path)
    config, again = (json.loads((folder / "config.json").read_text()) for folder in (whole, tmp_path))
    assert config == again
    tensors, originals = load_file(whole / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in originals.items()}


def test_merged_paligemma_needs_neither_peft_nor_openpali(tiny_tokenizer, tmp_path):
    checkpoint, whole = save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "base"), tmp_path / "whole"
    trained = save_adapters(checkpoint, "qlora", tmp_path / "adapters").eval()
    merge_adapter(tmp_path / "adapters", whole, device="cpu")
    code = f"""
import sys
sys.modules["peft"] = sys.modules["openpali"] = sys.modules["bitsandbytes"] = None
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = {str(whole)!r}
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
inputs = processor(images=Image.new("RGB", (20, 24), "red"), text="<image>what is this", return_tensors="pt")
inputs.pop("labels", None)
with torch.no_grad():
    torch.save(model(**inputs).logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path, timeout=120)
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert (logits - answer_logits(trained, checkpoint)).abs().max() < TOLERANCE


def test_the_type_is_the_bases_or_the_one_asked_for(checkpoint, merged, tmp_path):
    adapters, _, trained = merged
    merge_adapter(adapters, tmp_path / "half", dtype=torch.bfloat16, device="cpu")
    config = (tmp_path / "half" / "config.json").read_text()
    assert config.count('"dtype": "bfloat16"') == config.count('"dtype"') > 2
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    model = model_class(checkpoint_config(checkpoint)).from_pretrained(tmp_path / "half", dtype=torch.float32)
    expected = answer_logits(trained, checkpoint)
    # eight bits of every weight are left
    assert (answer_logits(model, checkpoint) - expected).abs().max() < 0.02 * expected.abs().max() + 0.05
    model_class(checkpoint_config(checkpoint)).from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(
        tmp_path / "base"
    )
    merge_adapter(adapters, tmp_path / "as_base", base=str(tmp_path / "base"), device="cpu")
    assert {t.dtype for t in load_file(tmp_path / "as_base" / "model.safetensors").values()} == {torch.bfloat16}


def test_the_command_merges_and_refuses(merged, tmp_path, capsys):
    adapters, whole, _ = merged
    openpali_cli.main(["merge", str(adapters), str(tmp_path / "new"), "--device", "cpu"])
    assert f"wrote {tmp_path / 'new'}" in capsys.readouterr().out
    for arguments, message in (
        ([adapters, whole], f"{whole} is not empty: give a new folder"),
        ([whole, tmp_path / "other"], f"{whole} holds no adapters"),
        ([tmp_path / "nowhere", tmp_path / "other"], "nowhere holds no adapters"),
    ):
        with pytest.raises(SystemExit) as stop:
            openpali_cli.main(["merge", *map(str, arguments)])
        assert message in str(stop.value.code)
    assert not (tmp_path / "other").exists()


def test_a_moved_base_is_named_on_the_command_line(checkpoint, merged, tmp_path):
    adapters, whole, _ = merged
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in adapters.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(OSError, match="no such folder here.*adapter_config.json"):
        merge_adapter(moved, tmp_path / "out", device="cpu")
    merge_adapter(moved, tmp_path / "out", base=str(checkpoint), device="cpu")
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert_same_but_rounding(tensor, expected[name])
