import math

import pytest
import torch
from torch import nn

from openpali.data.files.config import ConfigError
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.learning_rate import schedule
from openpali.recipes.training.optimizer import components, format_table, freeze, parameter_groups


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_tower = nn.ModuleDict({"patch": nn.Conv2d(3, 4, 2), "norm": nn.LayerNorm(4)})
        self.vision_tower["attention"] = nn.MultiheadAttention(4, 2)
        self.projector = nn.Linear(4, 6)
        self.decoder = nn.ModuleDict({"embed": nn.Embedding(10, 6), "wi": nn.Linear(6, 6, bias=False)})
        self.logit_scale = nn.Parameter(torch.zeros(1))


def arguments(tmp_path, **options):
    return RunArguments(output_dir=str(tmp_path), **options)


def test_cosine_rises_from_zero_and_falls_to_zero():
    curve = schedule("cosine", warmup=4, total=12)
    assert [curve(s) for s in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert curve(8) == pytest.approx(0.5)
    assert curve(12) == pytest.approx(0, abs=1e-12)
    assert curve(20) == pytest.approx(0, abs=1e-12)
    assert schedule("cosine", 0, 10)(0) == 1


def test_rsqrt_is_one_over_root_two_after_a_timescale_and_cools_down():
    curve = schedule("rsqrt", warmup=10, total=1000, cooldown=100, timescale=200)
    assert curve(5) == 0.5
    assert curve(10) == 1
    assert curve(210) == pytest.approx(1 / math.sqrt(2))
    assert curve(950) == pytest.approx(0.5 / math.sqrt(1 + 940 / 200))
    assert curve(1000) == 0
    # without a cool-down it does not depend on the length of the run
    endless = (schedule("rsqrt", 10, total, 0, 200)(500) for total in (600, 6000))
    assert len(set(endless)) == 1


def test_constant_is_constant_behind_its_warm_up():
    curve = schedule("constant", warmup=2, total=10)
    assert [curve(s) for s in (0, 1, 2, 9)] == [0, 0.5, 1, 1]


def test_only_matrices_of_chosen_components_decay_by_the_same_amount(tmp_path):
    args = arguments(tmp_path, weight_decay=0.1, lr_multipliers={"vision_tower": 0.25})
    model = Toy()
    groups = parameter_groups(components(model, args), learning_rate=0.5)
    names = {id(p): n for n, p in model.named_parameters()}
    decay = {names[id(p)]: g["lr"] * g["weight_decay"] for g in groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    decayed = {n for n, d in decay.items() if d}
    assert decayed == {
        "vision_tower.patch.weight",
        "vision_tower.attention.in_proj_weight",
        "vision_tower.attention.out_proj.weight",
        "projector.weight",
    }
    # torch multiplies decay by the group's rate; the multiplier is taken out again
    assert {decay[n] for n in decayed} == {0.5 * 0.1}
    rates = {names[id(p)]: g["lr"] for g in groups for p in g["params"]}
    assert rates["vision_tower.norm.bias"] == 0.125
    assert rates["logit_scale"] == 0.5


def test_frozen_components_have_no_group_and_the_table_counts_them(tmp_path):
    args = arguments(tmp_path, weight_decay=0.1, freeze=["vision_tower"])
    model = Toy()
    table = components(model, args)
    freeze(table)
    assert not any(p.requires_grad for p in model.vision_tower.parameters())
    trained = sum(p.numel() for g in parameter_groups(table, 1.0) for p in g["params"])
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = format_table(table, 1e-3)
    vision = next(line.split() for line in text.splitlines() if line.startswith("vision_tower"))
    assert vision == ["vision_tower", str(sum(p.numel() for p in model.vision_tower.parameters())), "0", "frozen"]
    assert text.splitlines()[-1].split()[-1] == str(trained)
    freeze(components(model, arguments(tmp_path)))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"freeze": ["vision_towr"]},
            "freeze: this model has no component 'vision_towr'; did you mean 'vision_tower'",
        ),
        ({"lr_multipliers": {"projecter": 2}}, "did you mean 'projector'"),
        ({"lr_multipliers": {"projector": 0}}, "must be positive"),
    ],
)
def test_wrong_component_names(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        components(Toy(), arguments(tmp_path, **options))


def test_freezing_everything_is_refused(tmp_path):
    names = ["vision_tower", "projector", "decoder", "logit_scale"]
    with pytest.raises(ConfigError, match="nothing would train"):
        freeze(components(Toy(), arguments(tmp_path, freeze=names)))
