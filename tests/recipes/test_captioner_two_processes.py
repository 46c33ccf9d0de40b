"""A captioner on two processes is one on one process with batches twice as large: losses, gradient norms, weights."""

import json

import torch
from one_and_two import train_on_one_and_two
from safetensors.torch import load_file

from openpali.recipes import captioner

ARGV = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "4", "--eval_steps", "4", "--eval_limit", "4"]
ARGV += ["--logging_steps", "1", "--vocab_size", "300", "--tokenizer_records", "5", "--learning_rate", "1e-3"]
ARGV += ["--source", "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 1], length: 40}"]
ARGV += ["--vision_config", "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,"]
ARGV[-1] += " image_size: 32, patch_size: 16}"
ARGV += ["--decoder_layers", "1", "--text_length", "32", "--masked_pred_prob", "0.5", "--masking_ratio", "0.5"]
ARGV += ["--location_tasks", "{caption: 1, refer: 1}", "--scored_images", "1", "--save_strategy", "no"]


def test_two_processes_caption_as_one(tmp_path):
    train_on_one_and_two(captioner.main, ARGV, tmp_path)
    rows = []
    for processes in ("1", "2"):
        lines = list(map(json.loads, (tmp_path / processes / "logs.jsonl").read_text().splitlines()))
        rows.append([line for line in lines if "loss" in line])
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4]
    for one, two in zip(*rows, strict=True):
        for key in ("loss", "grad_norm"):
            # the order of sums; other modes or masks would change the first digits
            assert abs(one[key] - two[key]) < 1e-6 * abs(one[key]), (one, two)
    one, two = (load_file(tmp_path / processes / "model.safetensors") for processes in ("1", "2"))
    # attention does not depend on a bias of all keys: its gradient is rounding, which Adam makes steps of
    for name, weights in ((name, weights) for name, weights in one.items() if "k_proj.bias" not in name):
        torch.testing.assert_close(two[name], weights, atol=1e-4, rtol=0, msg=name)
