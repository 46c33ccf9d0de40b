"""Transformers' own pipelines and Auto classes on what we save, in processes and classes that are not ours too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from absent import ABSENT
from PIL import Image
from tiny_adapters import FAMILIES, save_checkpoint
from transformers import AutoModel, AutoModelForMultimodalLM, GenerationConfig, pipeline
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration as StockPaliGemma
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor as StockProcessor

import openpali
from openpali.modeling.auto import MODELS, load_processor
from openpali.modeling.modeling_pali3 import Pali3Model
from openpali.modeling.modeling_pali3_multimodal import Pali3ForMultimodalLM

PROMPTS = ["a", "what is this", "detect dog and two green cats", "caption en"]
OPTIONS: dict[str, Any] = {"max_new_tokens": 8, "return_full_text": False}


def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (len(PROMPTS), 20, 20, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in noise]


def written(answers: Any) -> list[str]:
    rows = [found if isinstance(found, list) else [found] for found in answers]
    return [answer["generated_text"] for row in rows for answer in row]


def open_pipeline(task: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The any-to-any pipeline insists on torchvision, which it uses for videos alone."""
    monkeypatch.setattr("transformers.pipelines.any_to_any.requires_backends", lambda *_: None)
    return pipeline(task, model=str(folder))


@pytest.fixture(params=FAMILIES)
def folder(request, tiny_tokenizer, tmp_path) -> Path:
    """Its tokenizer pads on the right, as that of `make nano` and of most language models."""
    assert tiny_tokenizer.padding_side == "right"
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path / request.param)


def alone(folder: Path, prompts: list[str]) -> list[str]:
    """Answers of our own class to one prompt at a time."""
    model = MODELS[folder.name].from_pretrained(folder).eval()
    processor = load_processor(folder)
    answers = []
    for prompt, image in zip(prompts, images()):
        batch = processor(image, prompt, return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=8)[0]
        new = ids if model.config.is_encoder_decoder else ids[batch["input_ids"].shape[1] :]
        answers.append(processor.decode(new, skip_special_tokens=True))
    return answers


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_batches_of_prompts_are_answered_as_they_are_alone(folder, task, monkeypatch):
    ask = open_pipeline(task, folder, monkeypatch)
    if folder.name == "paligemma":
        assert (type(ask.model), type(ask.processor)) == (StockPaliGemma, StockProcessor)
    prompts = [f"<image>{prompt}" for prompt in PROMPTS]
    expected = alone(folder, PROMPTS)
    assert len(set(expected)) > 1
    # the any-to-any pipeline takes a record for each prompt, the other two lists
    lists: dict[str, Any] = {"images": images(), "text": prompts}
    records = [{"images": image, "text": text} for image, text in zip(*lists.values())]
    for size in (1, 2):
        given: Any = OPTIONS | {"batch_size": size}
        answers = ask(records, **given) if task == "any-to-any" else ask(**lists, **given)
        assert written(answers) == expected


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_chats_are_answered_in_batches_too(folder, task, monkeypatch):
    ask = open_pipeline(task, folder, monkeypatch)
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
        for image, prompt in zip(images(), PROMPTS)
    ]
    assert written(ask(text=chats, batch_size=2, **OPTIONS)) == alone(folder, PROMPTS)


def test_the_auto_classes_know_pali3(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    batch: Any = tiny_processor(images()[:2], PROMPTS[:2], return_tensors="pt")
    body = AutoModel.from_pretrained(tmp_path).eval()
    assert type(body) is Pali3Model
    with torch.no_grad():
        found, expected = body(**batch), tiny_model.model(**batch)
    # loaded weights may be aligned otherwise in memory, which moves the last bits
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert type(whole) is Pali3ForMultimodalLM
    assert whole.state_dict().keys() == tiny_model.state_dict().keys()


@pytest.mark.parametrize("beams", [1, 3])
def test_behind_the_multimodal_class_answers_follow_their_prompt(tiny_model, tiny_processor, tmp_path, beams):
    """As of every model that `AutoModelForMultimodalLM` loads, so that who cuts the prompt off keeps the answer."""
    tiny_model.save_pretrained(tmp_path)
    model: Any = AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()
    batch: Any = tiny_processor(images()[:2], PROMPTS[:2], return_tensors="pt")
    length = batch["input_ids"].shape[1]
    options: dict[str, Any] = {"max_new_tokens": 6, "num_beams": beams, "num_return_sequences": beams}
    answers = tiny_model.generate(**batch, **options)
    result: Any = model.generate(**batch, generation_config=GenerationConfig(**options), return_dict_in_generate=True)
    ids = batch.pop("input_ids")
    for found in (
        result.sequences,
        model.generate(ids, **batch, **options),
        model.generate(input_ids=ids, **batch, **options),
    ):
        assert found[:, :length].tolist() == ids.repeat_interleave(beams, dim=0).tolist()
        assert found[:, length:].tolist() == answers[:, 1:].tolist()
    embedded = {"inputs_embeds": tiny_model.get_input_embeddings()(ids), "attention_mask": batch["attention_mask"]}
    assert model.generate(**embedded, max_new_tokens=3).shape[1] <= 3


# asks an exported folder through the Auto classes, where openpali is not
SCRIPT = """
import transformers.pipelines.any_to_any as any_to_any
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor, pipeline

any_to_any.requires_backends = lambda *_: None  # torchvision, which it uses for videos alone
folder, image = sys.argv[1:]
trusted = {"trust_remote_code": True}
ask = pipeline("any-to-any", model=folder, **trusted)
chat = [{"role": "user", "content": [{"type": "image", "url": image}, {"type": "text", "text": "what is this"}]}]
options = {"max_new_tokens": 8, "return_full_text": False}
processor = AutoProcessor.from_pretrained(folder, **trusted)
chat.append({"role": "assistant", "content": [{"type": "text", "text": "a dog"}]})
marked = processor.apply_chat_template(
    chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
)
print(json.dumps({
    "answer": ask(images=image, text="what is this", **options)[0]["generated_text"],
    "chat": ask(text=chat[:1], **options)[0]["generated_text"],
    "body": type(AutoModel.from_pretrained(folder, **trusted)).__name__,
    "marked": sum(marked["assistant_masks"][0]),
    "modules": [type(part).__module__ for part in (ask.model, ask.processor)],
}))
"""


def test_an_exported_folder_has_them_where_openpali_is_not(tiny_model, tiny_processor, tmp_path):
    image = tmp_path / "image.png"
    images()[0].save(image)
    folder = openpali.export(tiny_model, tiny_processor, tmp_path / "exported")
    batch: Any = tiny_processor(images()[0], "what is this", return_tensors="pt")
    expected = tiny_processor.batch_decode(tiny_model.generate(**batch, max_new_tokens=8), skip_special_tokens=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ABSENT + SCRIPT, str(folder), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "not supported" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [result["answer"], result["chat"], result["body"]] == [*expected * 2, "Pali3Model"]
    assert result["marked"] == len(tiny_processor.tokenizer("a dog", add_special_tokens=False)["input_ids"])
    assert all(module.startswith("transformers_modules.") for module in result["modules"])
