"""The formulas against what a small model does, and the paper-size stages against their papers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_adapters import adapted_model, save_adapters, save_checkpoint
from tiny_pali3 import KINDS, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from openpali import Pali3Config
from openpali.data.files.config import CONFIGS, ConfigError
from openpali.modeling.auto import model_class
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.modeling.four_bit import four_bit_layers, sizes
from openpali.recipes.costs.activation_memory import kept_bytes, shallow, stack_sizes
from openpali.recipes.costs.command import main
from openpali.recipes.costs.forward_passes import STEPS, Lengths
from openpali.recipes.costs.layer_flops import stacks_of
from openpali.recipes.costs.plan import plan_training
from openpali.recipes.costs.plan_memory import build, weight_bytes
from openpali.recipes.costs.stage_costs import StageCosts, stage_costs
from openpali.recipes.start.adapters import AdapterArguments, add_adapters

IMAGE, PROMPT, TARGET, IMAGES = 4095, 30, 26, 64
LENGTHS = Lengths(PROMPT, TARGET)
PAPER_SIZE = [p for p in sorted(CONFIGS.glob("pali*/*stage[12]*.yaml")) if "nano" not in p.stem]


def costs(*argv: str) -> tuple[StageCosts, str]:
    return stage_costs(plan_training(argv))


def nano(family: str) -> Any:
    """The nano model of a family."""
    return Pali3Config.from_preset("nano") if family == "pali3" else paligemma_preset("nano", image_token_id=IMAGE)


def loss(config: Any, attention: str, frozen: str = "nothing") -> torch.Tensor:
    torch.manual_seed(0)
    model = model_class(config)._from_config(config, attn_implementation=attention)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    ids = torch.cat([torch.full((1, IMAGES), IMAGE), torch.randint(3, 4000, (1, PROMPT + TARGET))], dim=1)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64)}
    if config.model_type == "pali3":
        inputs |= {"input_ids": ids[:, : IMAGES + PROMPT], "labels": ids[:, -TARGET:]}
    else:
        labels, types = ids.clone(), torch.ones_like(ids)
        labels[:, : IMAGES + PROMPT], types[:, : IMAGES + PROMPT] = -100, 0
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
    stacks = stacks_of(family, config, LENGTHS)
    learns = {stack.name for stack in stacks} - {part.split(".")[0]}
    ours = sum(stack.flops(stack.name in learns, stack.has_gradients(learns), False) for stack in stacks)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


def kept(model: Any, kind: str, examples: int, autocast: bool) -> int:
    """Bytes that a forward pass with memory keeps, without parameters."""
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        return seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        # the outputs live as long as what is kept for them, so that no address is used twice
        outputs = STEPS[kind](model, examples, LENGTHS)
        parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        found = sum(t.untyped_storage().nbytes() for place, t in seen.items() if place not in parameters)
        del outputs
    return found


def prepared(config: Any, peft: str, frozen: str, dtype: torch.dtype, attention: str) -> Any:
    """A model as a run has it: with adapters beside what is frozen then, or with a frozen part."""
    torch.manual_seed(0)
    model = model_class(config)._from_config(config, attn_implementation=attention).to(dtype)
    if peft != "none":
        add_adapters(model, AdapterArguments(peft=peft), [frozen] if frozen else [])  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        adapter = ".lora_" in name
        parameter.requires_grad_(adapter if peft != "none" else not (frozen and frozen in name))
    return model


@pytest.mark.parametrize(
    ("peft", "frozen", "dtype", "autocast"),
    [
        ("none", "", torch.float32, True),
        ("none", "", torch.float32, False),
        ("none", "vision_tower", torch.float32, True),
        ("lora", "", torch.bfloat16, False),
        ("lora", "", torch.bfloat16, True),
        ("lora", "vision_tower", torch.float32, True),
    ],
)
@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_activations_are_those_that_autograd_keeps(family, peft, frozen, dtype, autocast):
    config = nano(family)
    # attention that writes its scores down is the same with memory and without
    options = (peft, frozen, dtype, "eager")
    model = prepared(config, *options)
    one, two = (kept(model, family, examples, autocast) for examples in (1, 2))
    with torch.device("meta"):
        shown = prepared(shallow(config), *options)

    def step(model: Any, examples: int) -> Any:
        return STEPS[family](model, examples, LENGTHS)

    without, with_it = kept_bytes(shown, stack_sizes(model), step, torch.bfloat16 if autocast else None)
    assert without.example == pytest.approx(two - one, rel=0.01)
    assert with_it.example < 0.6 * without.example
    # what is a copy for two examples is a view for one
    assert without.fixed == pytest.approx(max(0, 2 * one - two), rel=0.02, abs=20_000)


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_fused_attention_keeps_no_scores_and_sdpa_a_mask_for_each_layer(attention):
    """By hand, of a layer of Gemma whose weights are frozen: nothing but attention keeps anything of L x L."""
    config = paligemma_preset("nano")
    found = []
    for prompt in (30, 94):
        with torch.device("meta"):
            model = model_class(config)._from_config(shallow(config), attn_implementation="sdpa")
        lengths = Lengths(prompt, TARGET)

        def step(model: Any, examples: int, lengths: Lengths = lengths) -> Any:
            return STEPS["paligemma"](model, examples, lengths)

        sizes = {"model.language_model.layers": 4, "model.vision_tower.encoder.layers": 4}
        assert sizes == stack_sizes(model) | sizes
        found.append(kept_bytes(model, sizes, step, None, attention == "sdpa")[0].example)
    lengths = [IMAGES + prompt + TARGET for prompt in (30, 94)]
    width, queries, mlp, layers = 128, 128, 512, 4
    # a token: three of float32 for each norm and residual, queries, keys, values and outputs, the MLP's five
    linear = (found[1] - found[0]) / (lengths[1] - lengths[0])
    mask = 4 * layers * (lengths[1] + lengths[0]) if attention == "sdpa" else 0
    least, most = 4 * width + 4 * queries + 4 * mlp, 9 * width + 9 * queries + 6 * mlp
    assert 4 * layers * least < linear - mask < 4 * layers * most


@pytest.mark.adapters
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_model_has_costs(kind, tmp_path):
    config = tiny_config(kind)
    config.save_pretrained(tmp_path)
    for peft in ("none", "lora", "dora"):
        found, table = costs("--model", str(tmp_path), "--peft", peft)
        assert 0 < found.example_bytes(True) <= found.example_bytes(False)
        assert found.flops > 0
        assert "text_encoder" in table


@pytest.mark.adapters
@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_a_checkpoint_alone_and_adapters_are_enough(family, tiny_tokenizer, tmp_path, capsys):
    folder = save_checkpoint(family, tiny_tokenizer, tmp_path / "whole")
    save_adapters(folder, "lora", tmp_path / "adapters")
    main(["--model", str(folder), "--peft", "qlora"])
    main(["--model", str(tmp_path / "adapters"), "--peft", "qlora"])
    out = capsys.readouterr().out
    shown = out[out.index("tokens of an example") :]
    assert out.count(shown[: shown.index("parameters")]) == 2
    assert "(assumed: the configuration does not limit them)" in shown
    assert "adapters" in out


@pytest.mark.adapters
@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_four_bit_weights_are_as_large_as_bitsandbytes_makes_them(family, tiny_tokenizer, tmp_path):
    folder = save_checkpoint(family, tiny_tokenizer, tmp_path / "whole")
    plan = plan_training(["--model", str(folder), "--peft", "qlora", "--dtype", "float32", "--freeze"])
    said = weight_bytes(plan, build(plan, plan.config))
    model = adapted_model(folder, "qlora", lora_rank=16)
    *_, now, _ = sizes(model)
    # and in each layer the tables that the codes stand for, which weigh nothing in a layer of a real size
    assert said < now < said + 1400 * len(four_bit_layers(model))


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
    main(["--config", "pali3/nano-pretrain"])
    assert "64 of the prompt and 64 of the target at most (assumed" in capsys.readouterr().out
    main(["--config", "pali3/stage2-812", "--processes", "64", "--image_size", "448"])
    shown = capsys.readouterr().out
    assert "1,024 of its image" in shown
    assert "a step of 1,024" in shown


# folders of configurations that are not planned
NO_COSTS = ("accelerate", "mask_vqvae", "captioner", "siglip2", "reward", "web")


@pytest.mark.adapters
def test_every_shipped_configuration_says_what_it_needs():
    # those of evaluation/ train nothing
    for path in [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "evaluation"]:
        line = ["--config", str(path), *(["--model", "pali3/5b"] if path.stem == "custom" else [])]
        if path.parent.name in NO_COSTS:
            with pytest.raises(ConfigError, match="is no configuration of transfer"):
                plan_training(line)
        else:
            plan = plan_training(line)
            assert plan.kind in STEPS
            assert plan.run.per_device_train_batch_size > 0
    assert plan_training(["--config", "transfers/docvqa", "--resolution", "896"]).run.per_device_train_batch_size == 2
    assert (
        plan_training(
            ["--config", "transfers/textvqa", "--model", "google/paligemma2-10b-pt-448"]
        ).config.text_config.hidden_size
        == 3584
    )


@pytest.mark.adapters
@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (["--config", "transfers/what", "--peft", "lora"], "pali3"),
        (["--config", "siglip/nano-36"], "contrastive"),
        (["--config", "siglip/nano-naflex"], "contrastive"),
        (["--config", "pali3/nano-contrastive", "--patch_sizes", "4", "8"], "contrastive"),
        (["--config", "siglip/nano-36-classification"], "classification"),
        (["--config", "pali3/nano-dense"], "dense"),
        (["--config", "denoise/nano"], "denoise"),
        (["--model", "google/paligemma-3b-mix-448", "--peft", "qlora"], "paligemma"),
    ],
)
def test_costs_of_every_recipe(line, kind, capsys):
    assert plan_training(line).kind == kind
    main(line)
    out = capsys.readouterr().out
    assert "examples on one GPU" in out
    assert "1 at least" in out


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        (["--config", "siglip/nano-naflex"], 64),
        (["--config", "siglip/nano-naflex", "--sequence_lengths", "50", "90"], 100),
        (["--config", "pali3/nano-contrastive", "--patch_sizes", "4", "16"], 256),
        (["--config", "pali3/nano-contrastive"], 64),
    ],
)
def test_flexible_towers_are_planned_for_the_longest_step(line, tokens):
    vision = plan_training(line).config.vision_config
    assert (vision.image_size // vision.patch_size) ** 2 == tokens


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--model", "nowhere/model"], "model: nowhere/model is not here and its shape is not known"),
        (["--model", "paligemma/4b"], "no preset '4b' of PaliGemma; there are nano, 3b"),
        (["--config", "transfers/docvqa", "--lerning_rate", "1"], "did you mean 'learning_rate'"),
        (["--config", "transfers/nothing"], "no configuration file transfers/nothing"),
        (["--config", "transfers/custom"], "there is no model: give --model"),
    ],
)
def test_mistakes_are_one_line(line, message):
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


@pytest.mark.adapters
def test_what_is_larger_needs_more():
    model = ["--model", "paligemma/3b", "--bf16", "true"]
    full, lora, qlora = (costs(*model, "--peft", peft)[0] for peft in ("none", "lora", "qlora"))
    assert full.fits(48, True) == 0
    assert qlora.standing_bytes(True) < lora.standing_bytes(True) < 0.2 * full.standing_bytes(True)
    # 23.4 GB of moments in float32 are 5.8 GB in 8 bits
    eight = costs("--model", "paligemma/3b", "--optim", "adamw_8bit")[0]
    assert eight.optimizer_bytes == pytest.approx(full.optimizer_bytes / 4)
    frozen = costs(*model, "--freeze", "vision_tower")[0]
    assert frozen.gradient_bytes == pytest.approx(full.gradient_bytes - 4 * 412_442_352)
    assert frozen.example_bytes(False) < full.example_bytes(False)
    assert 1 <= lora.fits(16, False) < lora.fits(16, True) < lora.fits(24, True)
