"""The transfer recipe on PaliGemma: packed rows, the papers' ablations, attention back-ends."""

import json

import pytest
import torch
from tiny_adapters import save_checkpoint

from openpali.modeling import modeling_paligemma
from openpali.modeling.auto import load_processor
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.recipes import transfer

EMOJI = "{name: emoji, split: train, size: 32, concepts: 3, objects: [1, 1], length: 40}"
COMMON = ["--config", "transfers/what", "--source", EMOJI, "--use_cpu", "true", "--tensorboard", "false"]
COMMON += ["--per_device_train_batch_size", "8", "--max_steps", "4", "--save_steps", "8", "--eval_steps", "0"]
COMMON += ["--test_limit", "4", "--dataloader_num_workers", "0", "--logging_steps", "1", "--learning_rate", "1e-3"]
COMMON += ["--freeze"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_tokenizer):
    return {
        family: save_checkpoint(family, tiny_tokenizer, tmp_path_factory.mktemp(family))
        for family in ("paligemma", "pali3")
    }


def run(checkpoint, folder, *options):
    transfer.main([*COMMON, "--model", str(checkpoint), "--output_dir", str(folder), *options])
    rows = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def test_packed_rows_train_alike_with_less_padding(checkpoints, tmp_path, capsys):
    plain = run(checkpoints["paligemma"], tmp_path / "plain")
    packed = run(checkpoints["paligemma"], tmp_path / "packed", "--pack_length", "400")
    assert [row["loss"] for row in packed] == pytest.approx([row["loss"] for row in plain], rel=1e-5)
    assert [row["grad_norm"] for row in packed] == pytest.approx([row["grad_norm"] for row in plain], rel=1e-4)
    assert all(a["padding"] <= b["padding"] for a, b in zip(packed, plain))
    assert packed[0]["padding"] == 0.0
    assert "padding" in capsys.readouterr().out


def test_an_ablation_is_kept_with_the_processor(checkpoints, tmp_path):
    causal = run(checkpoints["paligemma"], tmp_path / "causal", "--prefix_attention", "causal")
    whole = run(checkpoints["paligemma"], tmp_path / "whole")
    both = run(checkpoints["paligemma"], tmp_path / "both", "--loss_on_prefix", "true")
    assert len({row[0]["loss"] for row in (causal, whole, both)}) == 3
    assert load_processor(tmp_path / "causal").prefix_attention == "causal"
    assert load_processor(tmp_path / "whole").prefix_attention == "full"


def test_the_attention_that_was_asked_for(checkpoints, tmp_path, monkeypatch):
    seen = []
    mask = modeling_paligemma.prefix_lm_mask

    def spy(config, *args):
        seen.append(config._attn_implementation)
        return mask(config, *args)

    monkeypatch.setattr(modeling_paligemma, "prefix_lm_mask", spy)
    run(checkpoints["paligemma"], tmp_path, "--attention", "eager")
    assert set(seen) == {"eager"}


@pytest.mark.parametrize(
    ("family", "argv", "message"),
    [
        ("paligemma", ["--attention", "flex_attention"], "flex_attention cannot train on CPUs"),
        ("pali3", ["--pack_length", "64"], "are PaliGemma's"),
        ("pali3", ["--prefix_attention", "causal"], "are PaliGemma's"),
    ],
)
def test_mistakes_end_with_one_sentence(checkpoints, tmp_path, family, argv, message):
    with pytest.raises(SystemExit, match=message):
        run(checkpoints[family], tmp_path, *argv)


def test_the_result_is_a_stock_checkpoint(checkpoints, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run(checkpoints["paligemma"], tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded).__module__.startswith("transformers.")
    ours = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(p, loaded.get_parameter(name)) for name, p in ours.named_parameters())
    assert type(AutoProcessor.from_pretrained(tmp_path)).__name__ == "PaliGemmaProcessor"
