"""Stages 1 and 2 of both families one after the other, at the smallest sizes there are."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.tokenizer import train_tokenizer
from openpali.eval.answering.load_model import load_model
from openpali.modeling.location_tokens import location_token
from openpali.recipes import pretrain
from openpali.recipes.stages import pretrain_start
from openpali.recipes.stages.pretrain_start import StartArguments, load_start
from openpali.recipes.training.progress import read_log

EMOJI = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 2], length: 60}"
WORDS = "{name: emoji, split: train, size: 48, concepts: 4, objects: [1, 1], words: true, length: 60}"
MIXTURE = "{what: {weight: 2, task: {name: answer, kinds: [what]}}, caption: {weight: 2, task: {name: caption}},"
MIXTURE += " colour: {task: {name: answer, kinds: [colour]}},"
MIXTURE += f" ocr: {{weight: 1, suffix_max_length: 3, task: {{name: ocr, order: raster}}, source: {WORDS}}}}}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "4", "--source", EMOJI]
COMMON += ["--eval_steps", "100", "--eval_limit", "2", "--dataloader_num_workers", "0", "--logging_steps", "2"]
COMMON += ["--save_steps", "2", "--mixture", MIXTURE, "--evaluate", "what", "--best_on", "what", "--test_limit", "2"]
TEXT = {
    "pali3": "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}",
    "paligemma": "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, head_dim: 8}",
}


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "siglip"
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = SiglipConfig(vision_config=tower | {"image_size": 32, "patch_size": 16}, text_config=tower)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer = train_tokenizer(["what is this", "caption en dog cat", "answer en"] * 3, 300)
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    tokenizer.save_pretrained(folder)
    return folder


def stage_1(vision, family, *more):
    folder = vision.with_name(f"{family}-1")
    argv = ["--family", family, "--vision_checkpoint", str(vision), "--output_dir", str(folder), *COMMON]
    argv += ["--max_steps", "6", "--schedule", "rsqrt", "--warmup_steps", "2", "--rsqrt_timescale", "4"]
    pretrain.main([*argv, "--model_config.text_config", TEXT[family], "--learning_rate", "0.01", *more])
    return folder


def stage_2(first, *more):
    argv = ["--model", str(first), "--output_dir", str(first.with_name(first.name[:-1] + "2")), *COMMON]
    argv += ["--max_steps", "4", "--schedule", "rsqrt", "--image_size", "64", "--learning_rate", "0.01"]
    pretrain.main([*argv, *more])
    return first.with_name(first.name[:-1] + "2")


@pytest.fixture(scope="module")
def stages(vision):
    made = {}
    for family, frozen in (("pali3", ["--freeze", "vision_tower"]), ("paligemma", [])):
        first = stage_1(vision, family, *frozen)
        made[family] = (first, stage_2(first))
    return made


def rates(folder):
    return {row["step"]: row["lr"] for row in read_log(folder / "logs.jsonl") if "lr" in row}


@pytest.mark.parametrize("family", list(TEXT))
def test_stage_2_answers_at_twice_the_size(stages, family):
    model, processor = load_model(str(stages[family][1]), "cpu")
    config: Any = model.config
    assert (config.model_type, config.vision_config.image_size) == (family, 64)
    assert processor.image_seq_length == 16
    inputs = processor(images=[Image.new("RGB", (50, 40))], text=["answer en what is this?"], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 16
    assert model(**inputs).logits.isfinite().all()
    generated: Any = model
    assert generated.generate(**inputs, max_new_tokens=3).shape[0] == 1
    if family == "paligemma":
        assert config.text_config.num_image_tokens == processor.image_processor.image_seq_length == 16


@pytest.mark.parametrize("family", list(TEXT))
def test_what_is_frozen_in_stage_1_trains_in_stage_2(stages, vision, family):
    def tower(folder):
        model: Any = load_model(str(folder), "cpu")[0]
        weights = model.base_model.state_dict()
        return {name.split("vision_tower.")[1]: weight for name, weight in weights.items() if "vision_tower" in name}

    before = SiglipModel.from_pretrained(vision).vision_model.state_dict()
    first, second = map(tower, stages[family])
    moved = {name for name, weight in first.items() if not torch.equal(weight, before[name])}
    assert moved == (set() if family == "pali3" else set(first))
    resized = {name for name in first if first[name].shape != second[name].shape}
    assert resized == {"embeddings.position_embedding.weight"}
    assert all(not torch.equal(first[name], second[name]) for name in first.keys() - resized)


@pytest.mark.parametrize("family", list(TEXT))
def test_both_stages_are_on_one_curve(stages, family):
    first, second = stages[family]
    # the multiplier of step n is that of n - 1 steps taken
    rate = [0.005 * n if n < 2 else 0.01 / (1 + (n - 2) / 4) ** 0.5 for n in range(10)]
    assert rates(first) == pytest.approx({step: rate[step - 1] for step in (2, 4, 6)})
    assert rates(second) == pytest.approx({step: rate[6 + step - 1] for step in (2, 4)})
    stage = json.loads((second / "stage.json").read_text())
    assert (stage["examples_before"], stage["steps"], stage["examples_per_step"]) == (24, 4, 4)
    assert (stage["warmup_examples"], stage["timescale_examples"]) == (8, 16)


@pytest.mark.parametrize("family", list(TEXT))
def test_examples_of_every_line_are_counted(stages, family):
    for folder, steps in zip(stages[family], (6, 4)):
        rows = [row for row in read_log(folder / "logs.jsonl") if "seen_what" in row]
        assert [row["step"] for row in rows] == list(range(2, steps + 1, 2))
        for row in rows:
            seen = {key: value for key, value in row.items() if key.startswith("seen_")}
            assert sum(seen.values()) == 4 * row["step"]
            # two lines of one task are told apart
            assert set(seen) == {"seen_what", "seen_caption", "seen_colour", "seen_ocr"}
        # batches are equally large: their mean loss is that of the lines, by their examples
        losses = {row["step"]: row["loss"] for row in read_log(folder / "logs.jsonl") if "loss" in row}
        before = dict.fromkeys(rows[0], 0)
        for row in rows:
            lines = [key.removeprefix("loss_") for key in row if key.startswith("loss_")]
            total = sum(row[f"loss_{line}"] * (row[f"seen_{line}"] - before[f"seen_{line}"]) for line in lines)
            assert total / 8 == pytest.approx(losses[row["step"]], rel=1e-3)
            before = row


def test_a_new_paligemmas_projector_adds_nothing_and_the_tower_is_stage_0s(vision):
    args = StartArguments(family="paligemma", vision_checkpoint=str(vision), model_config={"text_config": TEXT})
    args.model_config = {"text_config": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}}
    model, processor = load_start(args)
    parts: Any = model.model
    assert not parts.multi_modal_projector.linear.weight.any()
    trained = SiglipModel.from_pretrained(vision).vision_model.state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in parts.vision_tower.state_dict().items())
    assert model.config.get_text_config().bos_token_id == processor.tokenizer.bos_token_id is not None
    assert processor.tokenizer.model_input_names == ["input_ids", "attention_mask"]
    assert parts.language_model.embed_tokens.num_embeddings % 64 == 0


def test_ordered_locations_of_a_new_paligemma_are_near_where_coordinates_are(vision):
    args = StartArguments(family="paligemma", vision_checkpoint=str(vision), ordered_locations=True)
    args.model_config = {"text_config": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}}
    model, processor = load_start(args)
    ids = processor.tokenizer.convert_tokens_to_ids([location_token(x) for x in (0.5, 0.501, 0.6, 0.9)])
    rows = cast(Any, model.get_input_embeddings()).weight[ids]
    near, far, farther = (rows[1:] - rows[0]).norm(dim=1).tolist()
    assert near < far < farther
    # Gemma scales embeddings by the root of their width
    assert rows.norm(dim=1).tolist() == pytest.approx([1.0] * 4, rel=1e-5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "m", "--vision_checkpoint", "v"], "model is a whole checkpoint"),
        (["--family", "paligemma"], "vision_checkpoint is missing"),
        (["--family", "paligemma", "--vision_checkpoint", "V", "--preset", "4b"], "no preset '4b' of PaliGemma"),
        (["--family", "paligemma", "--vision_checkpoint", "V", "--text_checkpoint", "V"], "V"),
        (["--vision_checkpoint", "V", "--image_size", "8"], "image_size: .*smaller than a patch"),
        (["--schedule", "cosine", "--schedule_start", "5"], "schedule_start is for schedule rsqrt"),
        (["--vision_checkpoint", "V", "--component_warmup", "{vision_towr: 3}"], "did you mean 'vision_tower'"),
    ],
)
def test_mistakes_end_with_one_sentence(vision, tmp_path, argv, message):
    argv = [part.replace("V", str(vision)) if part == "V" else part for part in argv]
    more = ["--output_dir", str(tmp_path / "run"), *COMMON, "--max_steps", "1"]
    more += ["--model_config.text_config", TEXT["paligemma" if "paligemma" in argv else "pali3"]]
    with pytest.raises(SystemExit, match=f"^error: .*{message.replace('V', 'siglip')}"):
        pretrain.main([*argv, *more])


def test_text_checkpoint_is_handed_to_the_backbones(monkeypatch, vision):
    seen = []

    def assemble(vision, text, processor, **fields):
        seen.append((vision, text, fields))
        return SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=32)))

    monkeypatch.setattr(pretrain_start.Pali3ForConditionalGeneration, "from_backbones", assemble)
    monkeypatch.setattr(pretrain_start.PaliGemmaForConditionalGeneration, "from_backbones", assemble)
    for family in TEXT:
        text = str(vision)
        load_start(StartArguments(family, text, text, model_config={"projector": "mlp"}))  # pyright: ignore
    assert seen == [(str(vision), str(vision), {"projector": "mlp"})] * 2
