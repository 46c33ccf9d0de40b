"""Eight steps of big_vision's optimizers (`tests/fixtures/optim_traj.npz`): parameters after steps 1, 2, 3 and 8.

Every run of the fixture has a learning rate of 0.01 (SGD: 0.1), a global-norm clip of 1.0 over what trains, and a
schedule whose multiplier at the first step is 0.
"""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from openpali.data.files.config import ConfigError
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.adafactor import Adafactor, adafactor_options
from openpali.recipes.training.learning_rate import schedule
from openpali.recipes.training.optimizer import components, freeze, parameter_groups

MLP = "img/Transformer/encoderblock/MlpBlock_0/Dense_0"


@cache
def trajectories():
    with np.load(Path(__file__).parents[2] / "fixtures" / "optim_traj.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


class Toy(nn.Module):
    """The parameters of the fixture by the names and in the layouts that torch has for them."""

    def __init__(self):
        super().__init__()
        self.vision_tower = nn.Module()
        self.vision_tower.layers = nn.ModuleList(nn.Linear(4, 6) for _ in range(2))
        self.vision_tower.patch = nn.Conv2d(3, 4, 2, bias=False)
        self.vision_tower.positions = nn.Parameter(torch.empty(1, 4, 4))
        self.language_model = nn.Module()
        self.language_model.embed = nn.Embedding(8, 4)
        self.language_model.norm = nn.Parameter(torch.empty(4))
        self.language_model.query = nn.ModuleList(nn.Linear(4, 6, bias=False) for _ in range(2))
        self.language_model.mlp = nn.ModuleList(nn.Linear(5, 4, bias=False) for _ in range(2))


def in_torch(prefix):
    """Arrays below `prefix` as tensors by the names of `Toy`."""
    arrays = {key.removeprefix(prefix): value for key, value in trajectories().items() if key.startswith(prefix)}
    found = {
        "vision_tower.patch.weight": arrays["img/embedding/kernel"].permute(3, 2, 0, 1),
        "vision_tower.positions": arrays["img/pos_embedding"],
        "language_model.embed.weight": arrays["llm/embedder/input_embedding"],
        "language_model.norm": arrays["llm/final_norm/scale"],
    }
    for i in range(2):
        found[f"vision_tower.layers.{i}.weight"] = arrays[f"{MLP}/kernel"][i].T
        found[f"vision_tower.layers.{i}.bias"] = arrays[f"{MLP}/bias"][i]
        # heads x width x head size
        query = arrays["llm/layers/attn/q_einsum/w"][i].permute(0, 2, 1)
        found[f"language_model.query.{i}.weight"] = query.reshape(6, 4)
        found[f"language_model.mlp.{i}.weight"] = arrays["llm/layers/mlp/linear"][i].T
    return found


def toy():
    model = Toy()
    model.load_state_dict(in_torch("params0/"), strict=True)
    return model


def follow(model, name, optimizer, curve, steps=range(1, 9)):
    """Take the fixture's gradients through our optimizer; the largest difference at each step that it holds."""
    if steps[0] == 1:
        multipliers = trajectories()[f"{name}/sched"][0].tolist()
        assert [curve(step) for step in range(9)] == pytest.approx(multipliers, abs=1e-6)
    base = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    differences = {}
    for step in steps:
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * curve(step - 1)
        gradients = in_torch(f"grads/step{step}/")
        for key, parameter in model.named_parameters():
            parameter.grad = gradients[key].clone() if parameter.requires_grad else None
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if f"{name}/step{step}/{MLP}/kernel" in trajectories():
            wanted = in_torch(f"{name}/step{step}/")
            differences[step] = max(float((p - wanted[key]).abs().max()) for key, p in model.state_dict().items())
    return differences


def groups(model, tmp_path, **options):
    args = RunArguments(output_dir=str(tmp_path), learning_rate=0.01, decay=["vision_tower"], **options)
    table = components(model, args)
    freeze(table)
    return parameter_groups(table, args.learning_rate)


# decay is not multiplied by the learning rate there: 0.01 of the fixture is 1.0 of torch at a rate of 0.01
ADAM = {
    "adam_wd": {"weight_decay": 1.0},
    "adam_freeze_img": {"weight_decay": 1.0, "freeze": ["vision_tower"]},
    "adam_lrmult": {"lr_multipliers": {"vision_tower": 0.1}},
}


@pytest.mark.parametrize("name", list(ADAM))
def test_groups_and_schedule_with_adamw_follow_the_authors_adam(name, tmp_path):
    model = toy()
    optimizer = torch.optim.AdamW(groups(model, tmp_path, **ADAM[name]), betas=(0.9, 0.999), eps=1e-8)
    differences = follow(model, name, optimizer, schedule("cosine", warmup=2, total=8))
    assert list(differences) == [1, 2, 3, 8]
    assert max(differences.values()) < 1e-6
    start = in_torch("params0/")
    still = {key for key, weight in model.state_dict().items() if torch.equal(weight, start[key])}
    assert still == ({key for key in start if "vision" in key} if name == "adam_freeze_img" else set())


def rsqrt():
    return schedule("rsqrt", warmup=2, total=8, cooldown=3, timescale=4)


def test_our_adafactor_follows_the_authors(tmp_path):
    model = toy()
    optimizer = Adafactor(groups(model, tmp_path, weight_decay=0.1))
    differences = follow(model, "adafactor_rsqrt", optimizer, rsqrt())
    assert list(differences) == [1, 2, 3, 8]
    assert max(differences.values()) < 1e-6


@pytest.mark.parametrize(
    "options", [{"momentum": 0.0}, {"decay_exponent": 0.7}, {"clip_threshold": 1.0}, {"min_dim_size_to_factor": 3}]
)
def test_any_other_option_leaves_the_trajectory(tmp_path, options):
    model = toy()
    optimizer = Adafactor(groups(model, tmp_path, weight_decay=0.1), **options)
    assert max(follow(model, "adafactor_rsqrt", optimizer, rsqrt()).values()) > 1e-5


def test_adafactor_goes_on_exactly_from_a_saved_state(tmp_path):
    model = toy()
    optimizer = Adafactor(groups(model, tmp_path, weight_decay=0.1))
    follow(model, "adafactor_rsqrt", optimizer, rsqrt(), range(1, 4))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    again = toy()
    resumed = Adafactor(groups(again, tmp_path, weight_decay=0.1))
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    kinds = {name: value.dtype for name, value in resumed.state[again.get_parameter("language_model.norm")].items()}
    assert kinds == {"step": torch.float32, "moment": torch.float32, "momentum": torch.bfloat16}
    differences = follow(again, "adafactor_rsqrt", resumed, rsqrt(), range(4, 9))
    follow(model, "adafactor_rsqrt", optimizer, rsqrt(), range(4, 9))
    assert differences[8] < 1e-6
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[key]), key


def by_hand(gradients, decay_exponent=0.8):
    """The factored second moment in numpy: means of squares over columns and over rows of a matrix."""
    rows, columns = 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        decay = 1 - step**-decay_exponent
        squared = gradient**2 + 1e-30
        rows = decay * rows + (1 - decay) * squared.mean(1)
        columns = decay * columns + (1 - decay) * squared.mean(0)
    return gradients[-1] / np.sqrt(np.outer(rows, columns) / np.mean(rows))


def one_step_each(parameter, gradients, **options):
    """Where the last of several steps of rate 1 moves the parameter."""
    optimizer = Adafactor([parameter], lr=1.0, momentum=0.0, **options)
    for gradient in gradients:
        before = parameter.detach().clone()
        parameter.grad = torch.as_tensor(gradient, dtype=torch.float32)
        optimizer.step()
    return (before - parameter.detach()).numpy(), optimizer.state[parameter]


def test_large_matrices_keep_means_of_rows_and_columns():
    gradients = np.random.default_rng(0).normal(size=(3, 40, 33))
    moved, state = one_step_each(nn.Parameter(torch.zeros(40, 33)), gradients)
    np.testing.assert_allclose(moved, by_hand(list(gradients)), rtol=1e-4, atol=1e-6)
    assert (state["short_means"].shape, state["long_means"].shape, "moment" in state) == ((1, 33), (40, 1), False)
    small, state = one_step_each(nn.Parameter(torch.zeros(40, 31)), gradients[:, :, :31])
    assert state["moment"].shape == (40, 31)
    # of a convolution's kernel the two longest sides are factored
    _, state = one_step_each(nn.Parameter(torch.zeros(64, 40, 3, 3)), np.ones((1, 64, 40, 3, 3)))
    assert (state["short_means"].shape, state["long_means"].shape) == ((1, 40, 3, 3), (64, 1, 3, 3))


def test_clipping_is_of_the_root_mean_square():
    gradient = np.array([1.0, 1.0, 1.0, 1.0])
    first = [gradient, 100 * gradient]
    free, _ = one_step_each(nn.Parameter(torch.zeros(4)), first)
    held, _ = one_step_each(nn.Parameter(torch.zeros(4)), first, clip_threshold=0.5)
    assert np.sqrt((free**2).mean()) > 1
    assert np.sqrt((held**2).mean()) == pytest.approx(0.5, abs=1e-6)


def test_options_come_from_optim_args():
    assert adafactor_options(None) == {}
    assert adafactor_options("momentum=0.5, clip_threshold=1") == {"momentum": 0.5, "clip_threshold": 1.0}
    with pytest.raises(ConfigError, match="no option 'momentun'; did you mean 'momentum'"):
        adafactor_options("momentun=0.5")
    with pytest.raises(ConfigError, match="momentum must be a number, not 'much'"):
        adafactor_options("momentum=much")
    with pytest.raises(ValueError, match="momentum=1.5"):
        Adafactor([nn.Parameter(torch.zeros(1))], momentum=1.5)
