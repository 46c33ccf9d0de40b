"""Stage 0 of the text side: its loss against stock Transformers, a tiny run, its resumption, and what others load."""

import copy
import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_pali3 import SIDE, TEXT, VISION
from tolerances import assert_same_gradients
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5ForConditionalGeneration,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali import Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.text.span_corruption import UL2
from openpali.data.tokenizer import train_tokenizer
from openpali.recipes import denoise
from openpali.recipes.stages.denoise_loss import batch_loss, by_kind, denoising_scores, plain_loss, return_loss
from openpali.recipes.training.load_weights import load_weights
from openpali.recipes.training.optimizer import components
from openpali.recipes.training.progress import read_log

TEXTS = "{name: builtin, split: train, concepts: 8, objects: [1, 2], length: 60}"
SMALL = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--dataloader_num_workers", "0", "--logging_steps", "1"]
COMMON += ["--vocab_size", "300", "--max_length", "32", "--text_config", SMALL, "--eval_limit", "14"]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (3, 7), generator=generator)
    labels = torch.randint(3, 50, (3, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    ids[0, 4:] = 0
    labels[0, 2:], labels[1, 5:] = -100, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def model_of(kind) -> Any:
    torch.manual_seed(1)
    if kind == "bart":
        config = BartConfig(vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32)
        config.decoder_ffn_dim, config.encoder_attention_heads, config.decoder_attention_heads = 32, 2, 2
        return BartForConditionalGeneration(config).eval()
    options = copy.deepcopy(TEXT[kind])
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(options.pop("model_type"), **options)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    if kind == "t5":
        denoise.untie(model)
    return model


@pytest.mark.parametrize("kind", ["t5", "t5_tied", "umt5", "t5gemma", "bart"])
def test_loss_and_gradients_are_those_of_stock_transformers(kind):
    model, inputs = model_of(kind), batch()
    stock = model(**inputs)
    stock.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ours = batch_loss(model, inputs, "token")
    torch.testing.assert_close(ours, stock.loss)
    ours.backward()
    assert_same_gradients({name: p.grad for name, p in model.named_parameters() if name in wanted}, wanted)
    by_example = torch.stack(
        [plain_loss(stock.logits[i : i + 1], inputs["labels"][i : i + 1], "token") for i in range(3)]
    ).mean()
    torch.testing.assert_close(batch_loss(model, inputs, "example"), by_example)
    assert abs(by_example.item() - ours.item()) > 1e-3


def test_umt5_with_a_projection_of_its_own_is_not_scaled_as_stage_1_has_it():
    model, inputs = model_of("umt5"), batch()
    model.lm_head.weight = torch.nn.Parameter(torch.randn(64, 16) * 0.3)
    plain = plain_loss(model(**inputs).logits * 4, inputs["labels"], "token")
    torch.testing.assert_close(batch_loss(model, inputs, "token"), plain)


@pytest.mark.parametrize("kind", ["t5", "t5gemma"])
def test_decay_finds_encoder_and_decoder(kind, tmp_path):
    args = denoise.DenoiseRun(output_dir=str(tmp_path), weight_decay=0.1, use_cpu=True)
    table = {row.name: row.weight_decay for row in components(model_of(kind), args)}
    assert (table.pop("encoder"), table.pop("decoder")) == (0.1, 0.1)
    assert set(table.values()) <= {0}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_scores_by_hand(kind):
    model, inputs = model_of(kind), batch()
    stock = model(**inputs)
    items = [
        {"input_ids": ids[: int(mask.sum())].tolist(), "labels": labels[labels >= 0].tolist()}
        for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
    ]

    def collate(rows):
        rows = [items.index(row) for row in rows]
        return {key: value[rows] for key, value in inputs.items()}

    return_loss(model, "token")
    scores = denoising_scores(model, {"R-3-15": items, "S-25": items[:1]}, collate, batch_size=2)
    assert scores["R-3-15"]["loss"] == pytest.approx(stock.loss.item(), abs=1e-5)
    inside = inputs["labels"] >= 0
    right = (stock.logits.argmax(-1) == inputs["labels"])[inside].float().mean()
    assert scores["R-3-15"]["token_accuracy"] == pytest.approx(right.item())
    assert scores["R-3-15"]["tokens"] == 13
    table = by_kind({"R-3-15": {"loss": 1, "token_accuracy": 0}, "R-8-15": {"loss": 3, "token_accuracy": 1}})
    assert table == {"R_loss": 2, "R_token_accuracy": 0.5, "token_accuracy": 0.5, "negative_loss": -2}


def run(folder, *argv):
    denoise.main(["--config", "denoise/nano", "--output_dir", str(folder), *COMMON, "--texts", TEXTS, *argv])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoise") / "run"
    return run(folder, "--max_steps", "30", "--eval_steps", "15", "--save_steps", "15", "--learning_rate", "0.02")


def test_the_loss_falls_under_every_kind_of_denoiser(trained):
    rows = [row for row in read_log(trained / "logs.jsonl") if "eval_negative_loss" in row]
    assert [row["step"] for row in rows] == [0, 15, 30]
    for kind in ("R", "X", "S"):
        assert rows[-1][f"eval_{kind}_loss"] < rows[0][f"eval_{kind}_loss"] - 0.5
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics["denoisers"]) == {denoiser.name for denoiser in UL2}
    assert all(row["examples"] == 2 for row in metrics["denoisers"].values())
    assert metrics["negative_loss"] == pytest.approx(max(row["eval_negative_loss"] for row in rows), abs=1e-4)


def test_stock_transformers_loads_the_folder(trained):
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    assert type(model) is T5ForConditionalGeneration
    assert json.loads((trained / "config.json").read_text())["architectures"] == ["T5ForConditionalGeneration"]
    inputs = tokenizer("[NLU] two <extra_id_0> and cat", return_tensors="pt")
    pieces = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert (pieces[0], pieces[-1]) == ("[NLU]", "</s>")
    assert "<extra_id_0>" in pieces
    assert model.generate(**inputs, max_new_tokens=3).shape[0] == 1
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    logits = model(**batch()).logits
    scored = batch_loss(model, batch(), "token")
    torch.testing.assert_close(scored, plain_loss(logits, batch()["labels"], "token"))


def test_stage_1_puts_it_behind_an_image_encoder(trained, tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    processor = Pali3Processor.from_backbones(str(tmp_path), str(trained))
    model = Pali3ForConditionalGeneration.from_backbones(str(tmp_path), str(trained), processor=processor)
    stock = AutoModelForSeq2SeqLM.from_pretrained(trained)
    inputs = {key: value for key, value in batch().items() if key != "labels"}
    inputs["decoder_input_ids"] = torch.tensor([[0, 5]] * 3)
    with torch.no_grad():
        rows = stock.get_input_embeddings().num_embeddings
        torch.testing.assert_close(model(**inputs).logits[..., :rows], stock(**inputs).logits)


def test_it_goes_on_from_a_checkpoint_to_the_same_weights(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "again")
    shutil.rmtree(folder / "checkpoint-30")
    run(folder, "--max_steps", "30", "--eval_steps", "15", "--save_steps", "15", "--learning_rate", "0.02")
    first, second = (load_file(path / "checkpoint-30" / "model.safetensors") for path in (trained, folder))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_it_goes_on_from_a_trained_model_with_more_sentinels_and_packed_files(trained, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {i} of a text that is not long" for i in range(50)))
    argv = ["--model", str(trained), "--text_config", "{}", "--texts", f"{{name: files, path: {tmp_path}/a.txt}}"]
    argv += ["--sentinels", "300", "--packed", "true", "--loss_mean", "token", "--max_steps", "2", "--eval_steps", "2"]
    folder = run(tmp_path / "more", *argv, "--weights", "{X-3-50: 1, S-25: 2}", "--prefixes", "{X: ''}")
    tokenizer, old = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(trained)
    assert len(tokenizer) == len(old) + 200
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    assert set(json.loads((folder / "metrics.json").read_text())["denoisers"]) == {"X-3-50", "S-25"}


def test_accumulating_four_quarters_of_a_batch_is_the_batch(tmp_path):
    found = []
    for size, parts in ((8, 1), (2, 4)):
        argv = ["--max_steps", "2", "--eval_steps", "2", "--per_device_train_batch_size", str(size)]
        argv += ["--gradient_accumulation_steps", str(parts), "--warmup_steps", "0", "--eval_on_start", "false"]
        folder = run(tmp_path / str(parts), *argv)
        found.append([(row["loss"], row["grad_norm"]) for row in read_log(folder / "logs.jsonl") if "loss" in row])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


@pytest.fixture
def tokenizer():
    return train_tokenizer(["one two three"] * 3, 300)


@pytest.mark.parametrize("kind", ["t5", "umt5", "t5gemma"])
def test_new_models_of_every_family_start_near_the_uniform_loss(kind, tokenizer):
    changes = copy.deepcopy(TEXT[kind])
    if kind == "t5":
        changes |= {"d_model": 64}
    model = denoise.new_model("nano", changes, tokenizer, 1472).eval()
    assert model.config.model_type == kind
    assert model.get_input_embeddings().num_embeddings == 1472
    assert model.config.eos_token_id == 1 if kind != "t5gemma" else model.config.decoder.eos_token_id == 1
    loss = batch_loss(model, batch(), "token").item()
    assert loss == pytest.approx(torch.tensor(1472.0).log().item(), abs=1.5)


def test_an_untied_projection_survives_saving(tokenizer, tmp_path):
    model = denoise.new_model("nano", {"tie_word_embeddings": False, "scale_decoder_outputs": False}, tokenizer, 1472)
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert torch.equal(loaded.shared.weight, model.shared.weight)
    again = denoise.new_model("nano", {"tie_word_embeddings": False, "scale_decoder_outputs": False}, tokenizer, 1472)
    load_weights(again, tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert torch.equal(again.shared.weight, model.shared.weight)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**batch()).logits, model.eval()(**batch()).logits)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sentinels", "5"], "X-3-50 takes 7 spans out of a text of .* 5 sentinels: lower max_length or add"),
        (["--max_length", "3"], "max_length leaves 2 tokens"),
        (["--weights", "{R-3: 1}"], "no denoiser 'R-3'"),
        (["--prefixes", "{Q: a}"], "there is no kind 'Q'"),
        (["--texts", "{name: fils}"], "texts: no kind of texts 'fils'. Did you mean 'files'"),
        (["--texts", "{name: files, path: nowhere.txt}"], "nowhere.txt:file: no such file"),
        (["--model", "outputs/none"], "model: there is no folder outputs/none"),
        (["--tokenizer", "./outputs/none"], "tokenizer: there is none at ./outputs/none"),
        (["--model", "MODEL"], "text_config changes a new model"),
    ],
)
def test_mistakes_end_with_one_sentence(trained, tmp_path, argv, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run(tmp_path / "run", "--max_steps", "1", *(word.replace("MODEL", str(trained)) for word in argv))
