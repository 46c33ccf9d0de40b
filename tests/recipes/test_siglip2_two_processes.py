"""SigLIP 2's stage on two processes is that on one with batches twice as large, the centres too."""

import json

import torch
from one_and_two import train_on_one_and_two
from safetensors.torch import load_file

from openpali.recipes import siglip2

ARGV = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "4", "--eval_steps", "4", "--eval_limit", "4"]
ARGV += ["--logging_steps", "1", "--vocab_size", "300", "--tokenizer_records", "5", "--languages", "en", "de"]
ARGV += ["--texts_per_image", "2", "--learning_rate", "0.01", "--loss_chunk_size", "3", "--late_share", "0.75"]
# its steps are proportional to gradients, so that they keep what is rounding small; Adam's do not
ARGV += [
    "--temperature",
    "1",
    "--logit_bias",
    "-2",
    "--optim",
    "sgd",
    "--prototypes",
    "12",
    "--head_width",
    "16",
    "--local_views",
    "2",
]
ARGV += ["--source", "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 2], length: 40}"]
ARGV += ["--vision_config", "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,"]
ARGV[-1] += " image_size: 32, patch_size: 8}"
ARGV += ["--text_config", "{hidden_size: 12, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"]
ARGV += ["--decoder_layers", "1", "--decoder_config", "{max_position_embeddings: 40}", "--ema_decay", "0.5"]


def test_two_processes_train_as_one(tmp_path):
    train_on_one_and_two(siglip2.main, ARGV, tmp_path)
    rows = []
    for processes in ("1", "2"):
        lines = map(json.loads, (tmp_path / processes / "logs.jsonl").read_text().splitlines())
        rows.append([line for line in lines if any("loss" in key for key in line)])
    assert [row["step"] for row in rows[0] if "loss_local" in row] == [2, 3, 4]
    for one, two in zip(*rows, strict=True):
        for key in [key for key in one if "loss" in key or key in ("grad_norm", "local_entropy", "masked_entropy")]:
            assert abs(one[key] - two[key]) < 2e-6 * max(1, abs(one[key])), (key, one, two)
    one, two = (load_file(tmp_path / processes / "checkpoint-4" / "model.safetensors") for processes in ("1", "2"))
    assert int(one["late_steps"]) == 3
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-6, rtol=0, msg=name)
    assert one["local_center"].abs().max() > 0.01
