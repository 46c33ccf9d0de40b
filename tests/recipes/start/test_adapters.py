"""Which layers get adapters, how they are listed, and what loads them."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from tiny_adapters import (
    CPU,
    FAMILIES,
    KINDS,
    adapted_model,
    answer_logits,
    loss,
    save_adapters,
    save_checkpoint,
    training_batch,
)
from tolerances import assert_same_but_rounding
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.paligemma import modeling_paligemma as stock

from openpali import Pali3ForConditionalGeneration, PaliGemmaForConditionalGeneration
from openpali.data.files.config import ConfigError
from openpali.eval.answering.load_model import adapter_parameters, attach_adapters, load_model
from openpali.modeling import four_bit
from openpali.modeling.auto import checkpoint_config, model_class
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.start.adapters import AdapterArguments, check_start, frozen_dtype, load_for_training
from openpali.recipes.training.optimizer import component_of, components, format_table, freeze, parameter_groups

pytestmark = pytest.mark.adapters

CLASSES = {"pali3": Pali3ForConditionalGeneration, "paligemma": PaliGemmaForConditionalGeneration}
TEXT = {"pali3": ["text_encoder", "decoder"], "paligemma": ["language_model"]}
PROJECTOR = {"pali3": "projector", "paligemma": "multi_modal_projector"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(family, tiny_tokenizer, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module", params=KINDS)
def saved(request, checkpoint, tmp_path_factory):
    """The kind, the adapters' folder, and the model whose they are."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, save_adapters(checkpoint, request.param, folder)


def plain_model(checkpoint):
    return model_class(checkpoint_config(checkpoint)).from_pretrained(checkpoint).eval()


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def test_every_linear_layer_but_the_vocabulary_projection_has_adapters(checkpoint, family):
    model = adapted_model(checkpoint, "lora")
    plain = plain_model(checkpoint)
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.split(".lora_")[0] for name in adapter_parameters(model)} == linear - {"lm_head"}
    found = {component_of(name) for name in adapter_parameters(model)}
    assert found == {"vision_tower", PROJECTOR[family], *TEXT[family]}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_new_adapters_change_no_answer_and_no_class(checkpoint, family, kind):
    model = adapted_model(checkpoint, kind)
    assert type(model) is CLASSES[family]
    assert torch.allclose(
        answer_logits(model, checkpoint), answer_logits(plain_model(checkpoint), checkpoint), atol=1e-5
    )


def test_the_table_tells_adapters_from_what_they_stand_beside(checkpoint, family, tmp_path):
    args = RunArguments(output_dir=str(tmp_path), freeze=["vision_tower"], weight_decay=0.1, use_cpu=True)
    args.lr_multipliers, args.decay = {PROJECTOR[family]: 0.5}, [PROJECTOR[family]]
    model = adapted_model(checkpoint, "dora", freeze=("vision_tower",))
    table = components(model, args)
    freeze(table)
    text = rows(format_table(table, 1e-3))
    plain = plain_model(checkpoint)
    sizes = dict.fromkeys(text, 0)
    for name, parameter in plain.named_parameters():
        sizes[component_of(name)] += parameter.numel()
    adapters = adapter_parameters(model)
    total = sum(p.numel() for p in adapters.values())
    assert text["component"][:3] == ["parameters", "adapters", "trainable"]
    assert text["vision_tower"] == [f"{sizes['vision_tower']:,}", "0", "0", "frozen"]
    own = sum(p.numel() for name, p in adapters.items() if "projector" in name)
    matrices = sum(p.numel() for name, p in adapters.items() if "projector" in name and p.ndim == 2)
    decay = ["0.1", "on", f"{matrices:,}"]
    assert text[PROJECTOR[family]] == [f"{sizes[PROJECTOR[family]]:,}", str(own), str(own), "0.0005", *decay]
    assert text["total"] == [f"{sum(p.numel() for p in plain.parameters()):,}", f"{total:,}", f"{total:,}"]
    groups = parameter_groups(table, 1e-3)
    assert sum(p.numel() for group in groups for p in group["params"]) == total
    decaying = [group for group in groups if group["weight_decay"]]
    assert [(g["lr"], g["lr"] * g["weight_decay"]) for g in decaying] == [(0.0005, pytest.approx(1e-4))]
    assert sum(p.numel() for p in decaying[0]["params"]) == matrices


def test_the_table_counts_what_4_bit_weights_stand_for(checkpoint, tmp_path, capsys):
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True)
    text = rows(format_table(components(adapted_model(checkpoint, "qlora"), args), 1e-3))
    total = sum(p.numel() for p in plain_model(checkpoint).parameters())
    assert text["total"][0] == f"{total:,}"
    shown = capsys.readouterr().out
    assert "computing in float32: " in shown
    assert f" of {total:,} parameters; " in shown
    assert f"instead of {4 * total / 1e6:.2f} MB in float32" in shown


def test_targets_are_ends_of_names(checkpoint):
    model = adapted_model(checkpoint, "lora", lora_targets=["out_proj", "0.mlp.fc1"])
    found = {name.split(".lora_")[0].split(".layers.")[-1] for name in adapter_parameters(model)}
    assert {name for name in found if "fc1" in name} == {"0.mlp.fc1"}
    assert all(name.endswith(("self_attn.out_proj", "0.mlp.fc1")) for name in found)


def test_frozen_components_get_no_adapters(checkpoint, family):
    model = adapted_model(checkpoint, "lora", freeze=("vision_tower", PROJECTOR[family]))
    assert {component_of(name) for name in adapter_parameters(model)} == set(TEXT[family])


@pytest.mark.parametrize(
    ("targets", "frozen", "message"),
    [
        (["lm_head"], (), "'lm_head' is an embedding table or the LM head, whose weight the loss reads"),
        (["embed_tokens"], (), "'embed_tokens' is an embedding table"),
        (["q_prj"], (), "no linear layer is called 'q_prj'; did you mean 'q_proj'"),
        (["layer_norm1"], (), "no linear layer is called 'layer_norm1'"),
        (["fc1"], ("vision_tower",), "freeze lists every component that lora_targets chooses"),
    ],
)
def test_wrong_targets(checkpoint, targets, frozen, message):
    with pytest.raises(ConfigError, match=message):
        adapted_model(checkpoint, "lora", freeze=frozen, lora_targets=targets)


def test_dora_needs_weights_that_have_a_direction(checkpoint, family, tmp_path):
    model = plain_model(checkpoint)
    projector = next(m for name, m in model.named_modules() if "projector" in name and isinstance(m, torch.nn.Linear))
    torch.nn.init.zeros_(projector.weight)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="projector.* has outputs whose weights are all zero"):
        adapted_model(tmp_path, "dora")
    assert adapter_parameters(adapted_model(tmp_path, "lora"))


def test_missing_bitsandbytes_is_one_sentence_with_the_command(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(four_bit, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match="pip install 'bitsandbytes"):
        adapted_model(checkpoint, "qlora")


def test_the_rank_must_be_positive():
    with pytest.raises(ConfigError, match="lora_rank must be at least 1, not 0"):
        AdapterArguments(peft="lora", lora_rank=0)


@pytest.mark.parametrize(("dtype", "kind", "expected"), [("bfloat16", "lora", torch.bfloat16), ("auto", "none", None)])
def test_adapters_are_float32_beside_any_base(checkpoint, dtype, kind, expected):
    run = SimpleNamespace(device=CPU, freeze=[], say=print, incomplete_checkpoint=False)
    model = load_for_training(str(checkpoint), AdapterArguments(peft=kind), dtype, run)  # pyright: ignore
    base = {p.dtype for name, p in model.named_parameters() if ".lora_" not in name}
    assert base == {expected or torch.float32}
    assert {p.dtype for p in adapter_parameters(model).values()} <= {torch.float32}
    batch = training_batch(checkpoint).to(dtype=expected or torch.float32)
    model.train()
    model(**batch).loss.backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters() if p.requires_grad)


def test_frozen_weights_are_bfloat16_where_the_gpu_computes_in_it(monkeypatch):
    assert frozen_dtype(torch.device("cpu")) == torch.float32
    for answer, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, answer=answer: answer)
        assert frozen_dtype(torch.device("cuda")) == dtype


def test_saved_adapters_are_small_and_name_their_base(checkpoint, saved):
    kind, folder, _ = saved
    expected = {"adapter_model.safetensors", "adapter_config.json"} | (
        {"quantization.json"} if kind == "qlora" else set()
    )
    names = {path.name for path in folder.iterdir()}
    assert expected <= names
    assert not {"model.safetensors", "config.json"} & names
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoint.resolve())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_a_folder_is_named_so_that_it_is_found_from_anywhere_and_a_hub_name_as_it_is(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    model = adapted_model(checkpoint.relative_to(os.getcwd()), "lora")
    assert model.peft_config["default"].base_model_name_or_path == str(checkpoint.resolve())
    kind = model_class(checkpoint_config(checkpoint))
    load = kind.from_pretrained

    def from_hub(name, **options):
        model, info = load(checkpoint, **options)
        model.name_or_path = name
        return model, info

    monkeypatch.setattr(kind, "from_pretrained", from_hub)
    monkeypatch.setattr(
        "openpali.recipes.start.adapters.checkpoint_config", lambda name: checkpoint_config(checkpoint)
    )
    monkeypatch.setattr("openpali.modeling.checkpoints.check_kind", lambda *_: None)
    model = adapted_model("google/paligemma-3b-pt-224", "lora")  # pyright: ignore[reportArgumentType]
    assert model.peft_config["default"].base_model_name_or_path == "google/paligemma-3b-pt-224"


def test_stock_transformers_and_peft_load_what_was_saved(checkpoint, family, saved):
    """Of QLoRA both get the weights before they were quantised, and so do they here, to compare."""
    kind, folder, trained = saved
    if kind == "qlora":
        trained = plain_model(checkpoint)
        attach_adapters(trained, folder)
    expected = answer_logits(trained.eval(), checkpoint)
    by_transformers = AutoModelForImageTextToText.from_pretrained(folder)
    by_peft = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(checkpoint), str(folder))
    assert type(by_transformers) is (
        stock.PaliGemmaForConditionalGeneration if family == "paligemma" else CLASSES[family]
    )
    assert torch.allclose(answer_logits(by_transformers, checkpoint), expected, atol=1e-5)
    assert torch.allclose(answer_logits(by_peft, checkpoint), expected, atol=1e-5)
    # the adapters matter, or the comparison would say nothing
    assert not torch.allclose(answer_logits(plain_model(checkpoint), checkpoint), expected, atol=0.1)
    assert AutoProcessor.from_pretrained(folder).image_token == "<image>"


def test_load_model_gives_back_what_was_trained(checkpoint, family, saved):
    kind, folder, trained = saved
    model, processor = load_model(str(folder), "cpu")
    assert type(model) is CLASSES[family]
    assert not model.training
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= adapter_parameters(model).keys()
    batch = training_batch(checkpoint)
    assert_same_but_rounding(loss(model, batch), loss(trained.eval(), batch))
    assert bool(four_bit.four_bit_layers(model)) == (kind == "qlora")
    assert processor.tokenizer.get_vocab() == AutoProcessor.from_pretrained(checkpoint).tokenizer.get_vocab()


def test_a_base_that_is_gone_is_named_with_the_remedy(saved, tmp_path):
    _, folder, _ = saved
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/nowhere/base"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        OSError, match="adapters of /nowhere/base, and there is no such folder here: write .*adapter_config"
    ):
        load_model(str(tmp_path), "cpu")


def test_adapters_are_no_start_of_a_transfer(saved):
    _, folder, _ = saved
    with pytest.raises(ConfigError, match="holds adapters; merge them first: openpali merge"):
        check_start(str(folder))
