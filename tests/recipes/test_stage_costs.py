"""The formulas against what a small model does, and the paper-size stages against their papers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openpali import Pali3Config
from openpali.modeling.auto import model_class
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.recipes.arguments import parse
from openpali.recipes.config_file import CONFIGS, ConfigError
from openpali.recipes.pretrain import PretrainArguments
from openpali.recipes.pretrain_start import StartArguments
from openpali.recipes.stack_costs import stacks_of
from openpali.recipes.stage_costs import StageCosts, main, stage_costs
from openpali.recipes.stage_curve import StageArguments

IMAGE, PROMPT, TARGET, PICTURES = 4095, 30, 26, 64
PAPER_SIZE = [p for p in sorted(CONFIGS.glob("pali*/*stage[12]*.yaml")) if "nano" not in p.stem]


def costs(*argv: str) -> tuple[StageCosts, str]:
    built = parse([PretrainArguments, StartArguments, StageArguments], [*argv, "--use_cpu", "true"])
    return stage_costs(*built)


def nano(family: str, **changes: int) -> Any:
    """The nano model of a family with other numbers of layers."""
    config = Pali3Config.from_preset("nano") if family == "pali3" else paligemma_preset("nano", image_token_id=IMAGE)
    for key, value in changes.items():
        setattr(config.vision_config if key == "num_vision_layers" else config.text_config, KEYS.get(key, key), value)
    return config


KEYS = {"num_vision_layers": "num_hidden_layers"}


def loss(config: Any, attention: str, frozen: str = "nothing") -> torch.Tensor:
    torch.manual_seed(0)
    model = model_class(config)._from_config(config, attn_implementation=attention)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    ids = torch.cat([torch.full((1, PICTURES), IMAGE), torch.randint(3, 4000, (1, PROMPT + TARGET))], dim=1)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64)}
    if config.model_type == "pali3":
        inputs |= {"input_ids": ids[:, : PICTURES + PROMPT], "labels": ids[:, -TARGET:]}
    else:
        labels, types = ids.clone(), torch.ones_like(ids)
        labels[:, : PICTURES + PROMPT], types[:, : PICTURES + PROMPT] = -100, 0
        inputs |= {"input_ids": ids, "labels": labels, "token_type_ids": types}
    return model(**inputs).loss


@pytest.mark.parametrize("frozen", ["nothing", "vision_tower", "text"])
@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_flops_are_those_that_torch_counts(family, frozen):
    config = nano(family)
    # the layers alone: the table of a nano PaLI-3 is that of the logits as well
    text = "text_encoder.block" if family == "pali3" else "language_model"
    part = text if frozen == "text" else frozen
    with FlopCounterMode(display=False) as counter:
        loss(config, "eager", part).backward()
    stacks = stacks_of(config, PROMPT, TARGET)
    learns = {stack.name for stack in stacks} - {part.split(".")[0]}
    ours = sum(stack.flops(stack.name in learns, stack.on_the_way(learns), False) for stack in stacks)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


def kept(config: Any) -> int:
    """Bytes that a forward pass under autocast keeps, without weights and their copies."""
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        return seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        assert loss(config, "sdpa").isfinite()
    # copies of weights are known by their shapes, which no activation has
    weights = {(128, 128), (128, 512), (512, 128), (32, 128), (128, 32)}
    activations = [t for t in seen.values() if not isinstance(t, torch.nn.Parameter) and tuple(t.shape) not in weights]
    return sum(tensor.untyped_storage().nbytes() for tensor in activations)


@pytest.mark.parametrize(("key", "stack"), [("num_vision_layers", 0), ("num_hidden_layers", 2)])
def test_activations_are_those_that_autograd_keeps(key, stack):
    two, three = (nano("paligemma", **{key: layers}) for layers in (2, 3))
    measured = kept(three) - kept(two)
    formula = [stacks_of(config, PROMPT, TARGET)[stack].activation_bytes(True, False) for config in (two, three)]
    assert formula[1] - formula[0] == pytest.approx(measured, rel=0.03)


def test_checkpointing_and_freezing_leave_less():
    tower, projector, encoder, decoder = stacks_of(nano("pali3"), PROMPT, TARGET)
    assert not tower.on_the_way({"projector"})
    assert encoder.on_the_way({"projector"})
    for stack in (tower, encoder, decoder):
        whole, less = stack.activation_bytes(True, False), stack.activation_bytes(True, True)
        assert 0 == stack.activation_bytes(False, False) < less < whole
        assert stack.flops(True, True, False) < stack.flops(True, True, True)
    assert tower.flops(False, False, False) == pytest.approx(tower.flops(True, True, False) / 3)


@pytest.mark.parametrize("path", PAPER_SIZE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_paper_size_stage_is_built_and_fits(path):
    found, table = costs("--config", str(path))
    side = {"1-224": 224, "2-448": 448, "-812": 812, "-896": 896, "1064": 1064}
    pixels = next(size for name, size in side.items() if path.stem.endswith(name))
    assert found.image_tokens == (pixels // 14) ** 2
    assert 1 <= found.gpus() <= 8
    assert found.checkpointing
    published = {"pali3": 4.7e9, "paligemma": 2.92e9, "paligemma2": 3.03e9}
    family = "paligemma2" if path.stem.startswith("gemma2") else path.parent.name
    assert found.parameters == pytest.approx(published[family], rel=0.005)
    frozen = next(row.split() for row in table.splitlines() if row.startswith("vision_tower"))[3] == "frozen"
    assert frozen == (path.stem == "stage1-224" and family == "pali3") == (found.trained < found.parameters)
    seen = found.steps * found.examples_per_step * 64
    papers = {"paligemma-stage1-224": 1e9, "paligemma-stage2-448": 5e7, "paligemma-stage2-896": 1e7}
    assert seen == pytest.approx(papers.get(f"{path.parent.name}-{path.stem.removeprefix('gemma2-')}", seen), rel=1e-3)


def test_the_parameters_are_exactly_the_published_ones():
    # google/paligemma-3b-pt-224 and google/paligemma2-3b-pt-224
    for name, number in (("3b", 2_923_466_480), ("2-3b", 3_032_242_416)):
        config = paligemma_preset(name)
        with torch.device("meta"):
            model = model_class(config)(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == number


def test_more_gpus_hold_less_and_what_does_not_fit_is_said(capsys):
    found, _ = costs("--config", "paligemma/stage2-448")
    assert found.gpu_bytes(8) < found.gpu_bytes(4) < found.gpu_bytes(2)
    assert replace(found, micro_batch=64, checkpointing=True).gpus() > found.gpus()
    with pytest.raises(ConfigError, match="lower per_device_train_batch_size"):
        replace(found, micro_batch=64, checkpointing=False).gpus()
    with pytest.raises(SystemExit, match="costs need max_length"):
        main(["--config", "pali3/nano-pretrain"])
    main(["--config", "pali3/stage2-812", "--processes", "64", "--image_size", "448"])
    shown = capsys.readouterr().out
    assert "1,024 of its picture" in shown
    assert "a step of 1,024" in shown
