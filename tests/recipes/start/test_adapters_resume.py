"""A run with adapters, or without, resumes exactly and ends with its best weights; both families."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapter_run import PowerCut, adapter_run, curve
from tiny_adapters import FAMILIES, KINDS, save_checkpoint

from openpali.eval.answering.load_model import adapter_parameters
from openpali.recipes.run.run_folder import BEST_FOLDER

pytestmark = pytest.mark.adapters


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("peft", ["none", *KINDS])
def test_cut_and_resumed_equals_uninterrupted(checkpoint, tmp_path, peft):
    options = {"save_steps": 3, "max_steps": 6}
    adapter_run(checkpoint, tmp_path / "whole", peft, **options)
    with pytest.raises(PowerCut):
        adapter_run(checkpoint, tmp_path / "cut", peft, cut_at=4, **options)
    assert [p.name for p in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-3"]
    trainer = adapter_run(checkpoint, tmp_path / "cut", peft, **options)
    assert trainer.state.global_step == 6
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert [row[0] for row in curve(tmp_path / "cut")] == list(range(1, 7))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    # the run did something, or the comparison would say nothing
    half = weights(tmp_path / "whole" / "checkpoint-3")
    assert any(not torch.equal(tensor, half[name]) for name, tensor in first.items())


@pytest.mark.parametrize("peft", ["none", *KINDS])
def test_best_weights_are_really_loaded_and_saved(checkpoint, tmp_path, peft):
    # scores that peak at the evaluation of step 4: the weights of that step must come back
    scores, states = iter([1.0, 3.0, 2.0]), []

    def evaluate(model):
        states.append({name: p.detach().clone() for name, p in trained(model).items()})
        return {"score": next(scores)}

    trainer = adapter_run(checkpoint, tmp_path, peft, eval_steps=2, evaluate=evaluate)
    for name, parameter in trained(trainer.model).items():
        assert torch.equal(parameter, states[1][name]), name
    assert any(not torch.equal(states[2][name], tensor) for name, tensor in states[1].items())
    best, final = weights(tmp_path / BEST_FOLDER), weights(tmp_path)
    assert json.loads((tmp_path / BEST_FOLDER / "best.json").read_text())["step"] == 4
    assert best.keys() == final.keys()
    assert all(torch.equal(best[name], final[name]) for name in best)


def trained(model):
    return adapter_parameters(model) or dict(model.named_parameters())
