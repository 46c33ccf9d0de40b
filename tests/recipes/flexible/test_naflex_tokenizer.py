"""Texts of an encoder, NaFlex or square: its own tokenizer is what every command and the code of the card load."""

from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from openpali.eval.image_encoders.models import load_encoder
from openpali.modeling.auto import load_processor
from openpali.modeling.processing_tokenizer import load_tokenizer
from openpali.recipes import contrastive
from openpali.recipes.publishing.facts import read_facts
from openpali.recipes.publishing.usage import PLACEHOLDER, usage

TOWER = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
RUN = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "1", "--eval_steps", "0", "--text_length", "16"]
RUN += ["--source", "{name: emoji, size: 32, concepts: 4, objects: [1, 1], length: 40}", "--tokenizer_records", "5"]
RUN += ["--per_device_train_batch_size", "4", "--text_config", TOWER + "}", "--vocab_size", "300"]
RUN += ["--vision_config", TOWER + ", image_size: 32, patch_size: 8}"]
TEXTS = ["a red dog and a cat", "Two Dogs", "ein Hund, été"]


@pytest.fixture(scope="module", params=[True, False], ids=["naflex", "square"])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "run"
    contrastive.main([*RUN, "--output_dir", str(folder), *(["--naflex", "true"] if request.param else [])])
    return folder


def test_every_command_reads_texts_as_the_training_did(folder):
    trained = PreTrainedTokenizerFast.from_pretrained(folder)
    for tokenizer in (
        load_tokenizer(folder),
        load_processor(folder).tokenizer,
        load_encoder(str(folder), "cpu").tokenizer,
    ):
        assert tokenizer(TEXTS)["input_ids"] == trained(TEXTS)["input_ids"]
        assert len(tokenizer) == len(trained)


def test_a_run_that_goes_on_keeps_it(folder, tmp_path):
    contrastive.main(
        [*RUN[: RUN.index("--text_config")], "--model", str(folder), "--output_dir", str(tmp_path / "on")]
    )
    before, after = (PreTrainedTokenizerFast.from_pretrained(one) for one in (folder, tmp_path / "on"))
    assert before(TEXTS)["input_ids"] == after(TEXTS)["input_ids"]
    assert len(before) == len(after)


def test_the_code_of_the_card_runs_with_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "red").save("photo.jpg")
    code = usage(read_facts(folder), "", 8).code.replace(PLACEHOLDER, str(folder))
    found: dict = {}
    exec(code, found)
    assert found["texts"](TEXTS)["input_ids"] == load_tokenizer(folder)(TEXTS)["input_ids"]
    assert found["inputs"]["input_ids"].shape == (2, 16)


@pytest.mark.parametrize("folder", [True], ids=["naflex"], indirect=True)
def test_a_released_siglip_2_keeps_the_tokenizer_of_transformers(folder, tmp_path):
    declared = (folder / "tokenizer_config.json").read_text().replace("TokenizersBackend", "GemmaTokenizer")
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(declared)
    assert type(load_tokenizer(tmp_path)) is type(AutoTokenizer.from_pretrained(tmp_path))
    assert type(load_tokenizer(tmp_path)).__name__ == "Siglip2Tokenizer"
