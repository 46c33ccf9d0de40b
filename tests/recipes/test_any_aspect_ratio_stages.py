"""Stages 1 and 3 with images of any aspect ratio, from a SigLIP 2 to a run, and the commands that read its result."""

import copy
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from tiny_adapter_run import PowerCut, curve
from tiny_naflex import EXAMPLES, FAMILIES, IMAGES, PREFIXES, SUFFIXES, naflex_siglip
from tolerances import assert_same_but_rounding
from transformers import Siglip2Model

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.data.collator import Collator
from openpali.eval.answering.decoding import encode, generate
from openpali.eval.answering.image_features import image_features
from openpali.eval.answering.load_model import load_model
from openpali.recipes import pretrain, transfer
from openpali.recipes.training.micro_batch import split_batch
from openpali.recipes.training.trainer import PaliTrainer

SHAPES = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 2], length: 40}"
TEXT = {
    "pali3": "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}",
    "paligemma": "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, head_dim: 8}",
}
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--eval_steps", "100", "--eval_limit", "2"]
COMMON += ["--test_limit", "2", "--logging_steps", "1", "--learning_rate", "0.01", "--dataloader_num_workers", "0"]
LONGER = ("--image_tokens", "20")


@pytest.fixture(scope="module")
def vision(tmp_path_factory, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return naflex_siglip(tmp_path_factory.mktemp("stages") / "siglip2", tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for i in range(12):
        name, place = f"{i % 5}.png", i % 5
        IMAGES[place].save(folder / name)
        images = [name, "0.png"] if i % 4 == 3 else [name]
        lines.append(json.dumps({"image": images, "prefix": PREFIXES[place], "suffix": SUFFIXES[i // 3]}))
    (folder / "records.jsonl").write_text("\n".join(lines))
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def stages(vision):
    """Folders of stage 1 by family."""
    for family, text in TEXT.items():
        argv = ["--family", family, "--vision_checkpoint", str(vision), "--model_config.text_config", text]
        argv += ["--mixture", "{what: {task: {name: answer, kinds: [what]}}}", "--source", SHAPES, *COMMON]
        argv += ["--output_dir", str(vision.with_name(family)), "--max_steps", "2", "--image_tokens", "12"]
        pretrain.main([*argv, "--per_device_train_batch_size", "4"])
    return {family: vision.with_name(family) for family in TEXT}


@pytest.fixture(scope="module")
def whole(stages, data, tmp_path_factory):
    """Folders of uninterrupted runs of one process by family."""
    folder = tmp_path_factory.mktemp("whole")
    for family, model in stages.items():
        fine_tuned(model, data, folder / family, *LONGER)
    return {family: folder / family for family in stages}


@pytest.fixture
def losses_alone(monkeypatch):
    """Runs end with their training."""
    for name in ("save_examples", "final_report", "write_card"):
        monkeypatch.setattr(transfer, name, lambda *args: {})


def fine_tuned(model, data, folder, *more):
    argv = ["--config", "transfers/jsonl", "--model", str(model), "--data", str(data), "--output_dir", str(folder)]
    argv += [*COMMON, "--per_device_train_batch_size", "4", "--max_steps", "4", "--save_steps", "2", *more]
    transfer.main(argv)
    return curve(folder)


@pytest.mark.parametrize("family", list(TEXT))
def test_stage_1_starts_from_the_tower_and_saves_the_tokens(stages, vision, family):
    model, processor = load_model(str(stages[family]), "cpu")
    assert model.config.model_type == {"paligemma": "paligemma_naflex"}.get(family, family)
    assert processor.image_seq_length == processor.image_processor.max_num_patches == 12
    state: Any = {key.split("vision_tower.")[1]: v for key, v in model.state_dict().items() if "vision_tower." in key}
    before = Siglip2Model.from_pretrained(vision).vision_model.state_dict()
    assert set(state) == {name for name in before if not name.startswith("head.")}
    assert all(state[name].shape == before[name].shape for name in state)
    batch = Collator(processor)(EXAMPLES)
    assert (batch["input_ids"] == processor.image_token_id).sum() == batch["spatial_shapes"].prod(1).sum()
    assert batch["spatial_shapes"].prod(1).max() <= 12


@pytest.mark.parametrize("family", list(TEXT))
def test_a_run_goes_on_where_it_was_cut(stages, whole, data, tmp_path, monkeypatch, losses_alone, family):
    step = PaliTrainer.training_step

    def cut(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise PowerCut
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PaliTrainer, "training_step", cut)
    with pytest.raises(PowerCut):
        fine_tuned(stages[family], data, tmp_path / "cut", *LONGER)
    monkeypatch.setattr(PaliTrainer, "training_step", step)
    assert fine_tuned(stages[family], data, tmp_path / "cut", *LONGER) == curve(whole[family])
    assert len(curve(whole[family])) == 4
    one, two = (load_file(folder / "model.safetensors") for folder in (whole[family], tmp_path / "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (whole[family] / "examples.png").exists()
    assert load_model(str(tmp_path / "cut"), "cpu")[1].image_seq_length == 20


@pytest.mark.parametrize("family", list(TEXT))
@pytest.mark.usefixtures("losses_alone")
def test_cached_features_and_packed_rows_change_no_loss(stages, data, tmp_path, family):
    frozen = ("--freeze", "vision_tower", "--feature_cache")
    expected = [row[1] for row in fine_tuned(stages[family], data, tmp_path / "off", *frozen, "off")]
    cached = fine_tuned(stages[family], data, tmp_path / "on", *frozen, "on")
    assert [row[1] for row in cached] == pytest.approx(expected, abs=1e-5)
    if family == "paligemma":
        packed = fine_tuned(stages[family], data, tmp_path / "packed", *frozen, "on", "--pack_length", "60")
        assert [row[1] for row in packed] == pytest.approx(expected, abs=1e-5)


@pytest.mark.adapters
@pytest.mark.usefixtures("losses_alone")
@pytest.mark.parametrize("family", list(TEXT))
def test_adapters_train_and_merge(stages, data, tmp_path, family):
    lora = ("--peft", "lora", "--lora_rank", "2", "--image_tokens", "20")
    losses = [row[1] for row in fine_tuned(stages[family], data, tmp_path / "lora", *lora)]
    assert losses[-1] < losses[0]
    openpali_cli.main(["merge", str(tmp_path / "lora"), str(tmp_path / "merged"), "--device", "cpu"])
    adapted, merged = (load_model(str(tmp_path / name), "cpu") for name in ("lora", "merged"))
    assert adapted[1].image_seq_length == merged[1].image_seq_length == 20
    with torch.no_grad():
        batch = Collator(merged[1])(EXAMPLES)
        found = [float(one[0](**batch).loss) for one in (merged, adapted)]
    # weights and their changes are added before the product, not after it
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def train(rank: int, port: int, model: Path, data: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    fine_tuned(model, data, folder, *LONGER, "--per_device_train_batch_size", "2", "--ddp_backend", "gloo")


@pytest.mark.parametrize("family", list(TEXT))
@pytest.mark.usefixtures("one_thread", "losses_alone")
def test_two_processes_train_as_one(stages, whole, data, tmp_path, family):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # forked: each would otherwise import the libraries again
    arguments = (port, stages[family], data, tmp_path)
    mp.start_processes(train, arguments, 2, start_method="fork")  # pyright: ignore
    one, two = ([row[1] for row in curve(folder)] for folder in (whole[family], tmp_path))
    # float32's rounding, through four steps of Adam
    assert two == pytest.approx(one, abs=1e-5)
    assert len(one) == 4


@pytest.mark.parametrize("family", list(TEXT))
def test_an_image_is_encoded_once_and_answers_stay(stages, family):
    model, processor = load_model(str(stages[family]), "cpu")
    questions = [*EXAMPLES, *EXAMPLES[:3]]
    store = image_features(model, processor, 2)
    assert store is not None
    found = encode(model, processor, questions, False, features=store)
    plain = encode(model, processor, questions, False)
    assert len(store.kept) == 5
    assert torch.equal(found["spatial_shapes"], plain["spatial_shapes"])
    with torch.no_grad():
        options = {"decoder_input_ids": torch.zeros(len(questions), 1, dtype=torch.long)} if family == "pali3" else {}
        # padding has no logits that mean anything
        logits = [model(**inputs, **options).logits[:, -1] for inputs in (found, plain)]
    assert_same_but_rounding(*logits)
    assert len(generate(model, processor, questions, 3, 4, num_beams=2, progress=False)) == len(questions)


@pytest.mark.parametrize("family", list(TEXT))
def test_parts_of_a_batch_have_the_images_of_their_rows(tiny_tokenizer, family):
    model, processor = FAMILIES[family](copy.deepcopy(tiny_tokenizer))
    batch = dict(Collator(processor)(EXAMPLES))
    parts = split_batch(batch, 3, processor.image_token_id)
    with torch.no_grad():
        losses = torch.cat([model(**part).example_losses for part, _ in parts])
        assert_same_but_rounding(losses, model(**batch).example_losses)
    assert [len(part["spatial_shapes"]) for part, _ in parts] == [2, 2, 4]


def test_commands_on_the_result(stages, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in stages.values():
        tokens, images = ["--image_tokens", "64"], [str(data.parent / f"{i}.png") for i in (1, 4)]
        openpali_cli.main(["predict", str(folder), *images, "what is this", "--max_new_tokens", "2", *tokens])
        line = ["--model", str(folder), "--task", "plain", "--source", str(data), "--limit", "2", *tokens]
        openpali_cli.main(["eval", *line, "--output", folder.name])
        settings = json.loads(Path(folder.name, "metrics.json").read_text())["settings"]
        assert settings["image_tokens"] == 64
        capsys.readouterr()
        openpali_cli.main(["info", str(folder)])
        assert "any aspect ratio, at most 12 tokens an image" in capsys.readouterr().out
        openpali_cli.main(["costs", "--model", str(folder), "--image_tokens", "300"])
        assert "300 of its image" in capsys.readouterr().out
        openpali_cli.main(["push", str(folder), "you/my-pali", "--dry_run", "--licence", "gemma"])
        staged = folder.with_name(f"{folder.name}-push")
        assert (staged / "image_patches.py").exists()
        assert "trust_remote_code=True" in (staged / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("transfer", ["--image_tokens", "300"], "image_tokens: the model makes every image a square of 16x16 pixels"),
        ("costs", ["--image_tokens", "300"], "image_tokens: the model makes every image a square"),
        ("predict", ["--image_tokens", "300"], "image_tokens: the model makes every image a square of 16x16 pixels"),
        ("eval", ["--image_tokens", "300"], "image_tokens: the model makes every image a square of 16x16 pixels"),
        ("eval", ["--image_tokens", "0"], "--image_tokens is at least 1, not 0"),
        ("transfer", ["--naflex", "--resolution", "32"], "resolution: images of any aspect ratio have no side"),
        ("pretrain", ["--naflex", "--image_size", "32"], "image_size: images of any aspect ratio have no side"),
        (
            "export",
            ["--naflex", "--onnx"],
            "takes images of any aspect ratio: --onnx writes encoders of square ones only",
        ),
        ("costs", ["--naflex", "--resolution", "32"], "resolution: images of any aspect ratio have no side"),
    ],
)
def test_mistakes_end_with_one_line(
    stages, data, tiny_paligemma, tmp_path, capsys, monkeypatch, verb, options, message
):
    monkeypatch.chdir(tmp_path)
    for part in tiny_paligemma:
        part.save_pretrained(tmp_path / "square")
    naflex = "--naflex" in options
    model = str(stages["paligemma"] if naflex else tmp_path / "square")
    options = [option for option in options if option != "--naflex"]
    lines = {
        "transfer": ["--config", "transfers/jsonl", "--model", model, "--data", str(data), *COMMON],
        "pretrain": ["--model", model, "--mixture", "{what: {task: {name: caption}}}", "--source", SHAPES, *COMMON],
        "costs": ["--model", model],
        "export": [model, "onnx"],
        "predict": [model, str(data.parent / "1.png"), "what is this"],
        "eval": ["--model", model, "--task", "plain", "--source", str(data), "--limit", "2"],
    }
    more = ["--output_dir", str(tmp_path / "run"), "--max_steps", "1"] if verb in ("transfer", "pretrain") else []
    with pytest.raises(SystemExit) as stopped:
        openpali_cli.main([verb, *lines[verb], *more, *options])
    told = f"{stopped.value.code}{capsys.readouterr().err}"
    assert message in told
    assert "Traceback" not in told
