"""Stage 0 on two processes is stage 0 on one with batches twice as large: losses, gradient norms and weights."""

import json

import torch
from one_and_two import train_on_one_and_two
from safetensors.torch import load_file

from openpali.recipes import contrastive

ARGV = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "4", "--eval_steps", "4", "--eval_limit", "4"]
ARGV += ["--logging_steps", "1", "--vocab_size", "300", "--tokenizer_records", "5", "--languages", "en", "de"]
ARGV += ["--texts_per_image", "2", "--learning_rate", "1e-3", "--loss_chunk_size", "3"]
ARGV += ["--source", "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 1], length: 40}"]
ARGV += ["--vision_config", "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,"]
ARGV[-1] += " image_size: 32, patch_size: 16}"
ARGV += ["--text_config", "{hidden_size: 12, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"]


def test_two_processes_train_as_one(tmp_path):
    train_on_one_and_two(contrastive.main, ARGV, tmp_path)
    rows = []
    for processes in ("1", "2"):
        lines = map(json.loads, (tmp_path / processes / "logs.jsonl").read_text().splitlines())
        rows.append([line for line in lines if "loss" in line or "eval_loss" in line])
    evaluated = [row.pop(-1)["eval_loss"] for row in rows]
    assert abs(evaluated[0] - evaluated[1]) < 1e-4 * evaluated[0]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4]
    for one, two in zip(*rows, strict=True):
        for key in ("loss", "grad_norm"):
            assert abs(one[key] - two[key]) < 1e-4 * abs(one[key]), (one, two)
    one, two = (load_file(tmp_path / processes / "model.safetensors") for processes in ("1", "2"))
    # attention does not depend on a bias of all keys: its gradient is rounding, which Adam makes steps of
    for name, weights in ((name, weights) for name, weights in one.items() if "k_proj.bias" not in name):
        torch.testing.assert_close(two[name], weights, atol=1e-4, rtol=0, msg=name)
