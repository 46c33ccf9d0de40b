"""Every checkpoint of both families has a chat template that shows its images, and pads prompts on the left."""

import json
import logging
from typing import Any

import pytest
import torch
from PIL import Image
from test_from_backbones import save_vision
from tiny_adapters import FAMILIES, save_adapters, save_checkpoint
from tiny_paligemma import tiny_paligemma_processor
from transformers import AutoProcessor, AutoTokenizer

import openpali
from openpali import Pali3Processor
from openpali.modeling.auto import load_processor
from openpali.modeling.processing_chat import CHAT_TEMPLATE
from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.scripts.merge_adapter import merge_adapter

GREY_IMAGE = Image.new("RGB", (20, 20), (9, 9, 9))
IMAGE = {"type": "image", "image": GREY_IMAGE}
FOREIGN = "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
PROCESSORS: dict[str, Any] = {"pali3": Pali3Processor, "paligemma": PaliGemmaProcessor}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "content": parts[0] if isinstance(parts[0], str) else list(parts)}


@pytest.fixture(params=FAMILIES)
def processor(request, tiny_tokenizer, tiny_processor) -> Any:
    return tiny_processor if request.param == "pali3" else tiny_paligemma_processor(tiny_tokenizer)


CHATS = {
    "a word for a word": ([turn("user", IMAGE, text("a red dog"))], "<image>a red dog"),
    "a string": ([turn("user", "a red dog")], "a red dog"),
    "images come first": ([turn("user", text("a red dog"), IMAGE, IMAGE)], "<image><image>a red dog"),
    "parts are joined": ([turn("user", text("caption"), IMAGE, text("en"))], "<image>caption en"),
    "written placeholders": ([turn("user", IMAGE, text("<image>caption en"))], "<image>caption en"),
    "what the system says": ([turn("system", "caption"), turn("user", IMAGE, text("en"))], "<image>caption en"),
    "images alone": ([turn("user", IMAGE)], "<image>"),
    "messages since the last answer": (
        [
            turn("developer", "answer en"),
            turn("user", IMAGE, text("what is this")),
            turn("assistant", "a dog"),
            turn("user", "two"),
            turn("user", IMAGE, text("cats")),
        ],
        "<image><image>answer en two cats",
    ),
    "an answer at the end": (
        [turn("user", IMAGE, text("what is this")), turn("assistant", text("a dog"))],
        "<image>what is this\na dog",
    ),
    "no content": ([turn("user", IMAGE, text("two")), {"role": "assistant"}, turn("user", "cats")], "<image>cats"),
}


@pytest.mark.parametrize("chat", CHATS)
def test_a_chat_is_one_prompt_behind_its_images(processor, chat):
    messages, expected = CHATS[chat]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected
    images = [GREY_IMAGE] * expected.count("<image>")
    options: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(messages, **options)
    direct = processor([images] if images else None, [expected], return_tensors="pt")
    assert batch.keys() == direct.keys()
    assert all(torch.equal(batch[key], direct[key]) for key in batch)


def test_an_answer_is_gone_on_with(processor):
    chat = [turn("user", IMAGE, text("what is this")), turn("assistant", "a re")]
    assert processor.apply_chat_template(chat, continue_final_message=True) == "<image>what is this\na re"


def saved(folder, family) -> None:
    """What Transformers, without openpali, reads in a folder."""
    stock: Any = AutoProcessor.from_pretrained(folder)
    assert stock.chat_template == CHAT_TEMPLATE
    assert (folder / "chat_template.jinja").read_text("utf-8") == CHAT_TEMPLATE
    sides = {"pali3": "right", "paligemma": "left"}
    assert json.loads((folder / "tokenizer_config.json").read_text())["padding_side"] == sides[family]


@pytest.mark.adapters
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_folder_has_it(family, tiny_tokenizer, tmp_path):
    folder = save_checkpoint(family, tiny_tokenizer, tmp_path / "saved")
    save_adapters(folder, "lora", tmp_path / "adapters")
    merge_adapter(tmp_path / "adapters", tmp_path / "merged")
    model = openpali.modeling.auto.MODELS[family].from_pretrained(folder)
    openpali.export(model, load_processor(folder), tmp_path / "exported")
    for name in ("saved", "adapters", "merged", "exported"):
        saved(tmp_path / name, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_from_before_gets_it_when_it_is_saved_again(family, tiny_tokenizer, tmp_path):
    folder = save_checkpoint(family, tiny_tokenizer, tmp_path / "old")
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "right"}))
    load_processor(folder).save_pretrained(folder)
    saved(folder, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("template", [None, FOREIGN, "<image>{{ messages[0]['content'] }}"])
def test_another_models_template_is_replaced_with_a_word(family, template, tiny_tokenizer, tmp_path, caplog):
    save_vision(tmp_path / "vision", whole=False)
    tiny_tokenizer.save_pretrained(tmp_path / "text")
    if template is not None:
        (tmp_path / "text" / "chat_template.jinja").write_text(template)
    with caplog.at_level(logging.WARNING):
        processor = PROCESSORS[family].from_backbones(str(tmp_path / "vision"), str(tmp_path / "text"))
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("openpali")]
    assert [str(tmp_path / "text") in line and "has no <image>" in line for line in messages] == [True] * len(messages)
    assert len(messages) == (template == FOREIGN)
    own = template if template and template != FOREIGN else CHAT_TEMPLATE
    assert processor.chat_template == own
    processor.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == own
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == own
