"""Runs in bfloat16: near float32's, exactly resumed, saved as they were; and warnings where weights cannot change."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapter_run import PowerCut, adapter_run, curve, examples, without_dropout
from tiny_adapters import FAMILIES, save_checkpoint

from openpali.data.files.config import ConfigError
from openpali.eval.answering.decoding import generate
from openpali.eval.answering.load_model import load_model
from openpali.modeling.auto import checkpoint_config, load_processor, model_class
from openpali.recipes.run import precision
from openpali.recipes.run.arguments import RunArguments

# how a user asks for it: bf16 of the run, dtype of the weights
PRECISIONS: dict[str, dict[str, Any]] = {
    "autocast": {"bf16": True},
    "weights": {"dtype": "bfloat16"},
    "both": {"bf16": True, "dtype": "bfloat16"},
}
# at larger rates four-bit weights with other roundings take other ways
STEPS = {"save_steps": 3, "max_steps": 6, "lora_dropout": 0.0, "learning_rate": 3e-3}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def single(checkpoint, tmp_path_factory):
    """Losses of the same runs in float32, by the kind of adapters."""
    known: dict[str, list[float]] = {}

    def losses(peft: str) -> list[float]:
        if peft not in known:
            folder = tmp_path_factory.mktemp("single")
            adapter_run(checkpoint, folder, peft, prepare=without_dropout, **STEPS)
            known[peft] = [row[1] for row in curve(folder)]
        return known[peft]

    return losses


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("mode", PRECISIONS)
@pytest.mark.parametrize("peft", ["none", "lora", "qlora"])
def test_losses_are_float32s_and_a_cut_run_goes_on_exactly(checkpoint, single, tmp_path, peft, mode):
    options = STEPS | PRECISIONS[mode] | {"prepare": without_dropout}
    trainer = adapter_run(checkpoint, tmp_path / "whole", peft, **options)
    found = [row[1] for row in curve(tmp_path / "whole")]
    assert found == pytest.approx(single(peft), rel=0.02)
    assert found != single(peft)
    assert trainer.args.bf16 == (mode != "weights")

    with pytest.raises(PowerCut):
        adapter_run(checkpoint, tmp_path / "cut", peft, cut_at=4, **options)
    adapter_run(checkpoint, tmp_path / "cut", peft, **options)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name

    # adapters are float32 beside any weights
    dtype = "bfloat16" if peft == "none" and mode != "autocast" else "float32"
    for folder in (tmp_path / "whole", tmp_path / "whole" / "checkpoint-3"):
        assert {str(tensor.dtype) for tensor in weights(folder).values()} == {f"torch.{dtype}"}
        if peft == "none":
            assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_the_best_weights_come_back_and_answer(checkpoint, tmp_path, peft, num_beams):
    processor, scores, answers = load_processor(checkpoint), iter([1.0, 3.0, 2.0]), []
    options = {"processor": processor, "batch_size": 3, "max_new_tokens": 4, "num_beams": num_beams}

    def evaluate(model):
        answers.append(generate(model, examples=examples(6), progress=False, **options))
        return {"score": next(scores)}

    run = {"evaluate": evaluate, "eval_steps": 2, "save_processor": True, "dtype": "bfloat16"}
    model: Any = adapter_run(checkpoint, tmp_path, peft, **run).model
    assert model.dtype == torch.bfloat16
    assert generate(model, examples=examples(6), progress=False, **options) == answers[1]
    # the base of adapters was float32
    assert load_model(str(tmp_path), "cpu")[0].dtype == (torch.bfloat16 if peft == "none" else torch.float32)


def test_float16_without_a_scaler_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="fp16: nothing is computed in float16 on a CPU; use bf16"):
        RunArguments(output_dir=str(tmp_path), use_cpu=True, fp16=True)
    for option in ("bf16_full_eval", "fp16_full_eval"):
        with pytest.raises(ConfigError, match="the weights are evaluated as they train; leave them out"):
            RunArguments(output_dir=str(tmp_path), use_cpu=True, **{option: True})
    model = model_class(checkpoint_config(str(checkpoint)))
    half = model.from_pretrained(checkpoint, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    # a checkpoint in float16 trains in float32
    load_processor(checkpoint).save_pretrained(tmp_path / "half")
    adapter_run(tmp_path / "half", tmp_path / "run", "none", max_steps=1)
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}
    with pytest.raises(ConfigError, match="is in float16, in which small gradients are 0: load the model with"):
        adapter_run(checkpoint, tmp_path / "other", "none", prepare=lambda model: model.half())


def test_weights_too_coarse_for_the_learning_rate_are_told(checkpoint, tmp_path, capsys):
    options = {"max_steps": 2, "dtype": "bfloat16", "learning_rate": 1e-6, "prepare": without_dropout}
    model: Any = adapter_run(checkpoint, tmp_path / "coarse", "none", **options).model
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "in bfloat16 and too large for a step" in line]
    warned = int(line.split("%")[0].split()[-1]) / 100
    before = dict(model_class(model.config).from_pretrained(checkpoint, dtype=torch.bfloat16).named_parameters())
    pairs = [(parameter, before[name]) for name, parameter in model.named_parameters() if parameter.requires_grad]
    still = sum(int((now == then).sum()) for now, then in pairs) / sum(now.numel() for now, _ in pairs)
    # the weights of the warning stay, and so do those without a gradient
    assert warned > 0.5
    assert still >= warned - 0.01
    for quiet in ({"dtype": "auto"}, {"bf16": True, "dtype": "auto"}, {"learning_rate": 0.02}):
        adapter_run(checkpoint, tmp_path / "-".join(map(str, quiet.values())), "none", **(options | quiet))
        assert "too large for a step" not in capsys.readouterr().out


def test_the_share_of_weights_that_a_step_does_not_change():
    # 1 and 1.5 are 2**-7 from the next number above, 0 is near to any
    weights = torch.nn.Parameter(torch.tensor([1.0, 1.5, 0.0, 1e-6], dtype=torch.bfloat16))
    rates = {2.0**-10: 0.5, 2.0**-8: 0.0}
    for rate, share in rates.items():
        assert precision.unchanged_share([{"params": [weights], "lr": rate}]) == share
    assert float(weights[0] + 2.0**-10) == 1.0
    assert precision.unchanged_share([{"params": [weights.float()], "lr": 1e-9}]) == 0
    assert precision.unchanged_share([]) == 0
