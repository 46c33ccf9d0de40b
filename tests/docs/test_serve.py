"""Transformers' own server, started as the guide says, answers clients of OpenAI's interface for both families."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from openai import OpenAI
from page_blocks import ROOT, blocks
from PIL import Image
from tiny_adapters import FAMILIES, save_checkpoint
from transformers import GenerationConfig

from openpali.modeling import export
from openpali.modeling.auto import MODELS, load_processor
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS

PAGE = ROOT / "docs" / "guide" / "serve.md"
PROMPTS = ["what is this", "detect dog and two green cats", "caption en"]
TOKENS = 8


def random_image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8))


def as_data(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "png")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": address}}


def generated(folder: Path, prompt: str, *images: Image.Image, limit: int = TOKENS) -> str:
    """What `generate` of our own class answers."""
    model, processor = MODELS[folder.name].from_pretrained(folder).eval(), load_processor(folder)
    batch = processor(list(images) or None, prompt, return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=limit)[0]
    new = ids if model.config.is_encoder_decoder else ids[batch["input_ids"].shape[1] :]
    return processor.decode(new, skip_special_tokens=True)


def answer_in_locations(folder: Path) -> None:
    """Random models answer in halves of characters, and a stream leaves out the half at its end."""
    tokenizer = load_processor(folder).tokenizer
    answers = {*LOCATION_TOKENS, tokenizer.eos_token}
    others = [number for token, number in tokenizer.get_vocab().items() if token not in answers]
    GenerationConfig.from_pretrained(folder, suppress_tokens=others).save_pretrained(folder)


def command(folder: Path, port: int) -> list[str]:
    """The guide's, with another folder and port; PaliGemma needs no code of ours."""
    (shown,) = [line for block in blocks(PAGE) for line in block.commands() if line.startswith("transformers serve")]
    words = shown.replace("my-pali", str(folder)).replace("8000", str(port)).split()
    if folder.name == "paligemma":
        words.remove("--trust-remote-code")
    return [sys.executable, "-m", "transformers.cli.transformers", *words[1:]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(server: subprocess.Popen, port: int, log: Path) -> OpenAI:
    """A client, as soon as the server answers."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urlopen(f"http://localhost:{port}/health", timeout=5).close()
        except (URLError, TimeoutError):
            time.sleep(0.2)
        else:
            return OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=0)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def served(tiny_tokenizer, tmp_path_factory) -> Iterator[dict[str, tuple[Path, OpenAI]]]:
    """Each family's folder and a client of its server; the two start side by side."""
    root = tmp_path_factory.mktemp("serve")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    started: dict[str, tuple[Path, int, Any]] = {}
    try:
        for family in FAMILIES:
            saved = save_checkpoint(family, tiny_tokenizer, root / "saved" / family)
            answer_in_locations(saved)
            folder, port = root / family, free_port()
            export.main([str(saved), str(folder)])
            with (root / f"{family}.log").open("w") as log:
                process = subprocess.Popen(command(folder, port), env=environment, cwd=root, stdout=log, stderr=log)
            started[family] = folder, port, process
        yield {
            family: (folder, wait_for(server, port, root / f"{family}.log"))
            for family, (folder, port, server) in started.items()
        }
    finally:
        for _, _, server in started.values():
            server.terminate()
            server.wait(30)


def ask(client: OpenAI, folder: Path, messages: Any, stream: bool) -> str:
    answer: Any = client.chat.completions.create(
        model=str(folder), messages=messages, max_completion_tokens=TOKENS, stream=stream
    )
    if stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    (choice,) = answer.choices
    assert 0 < answer.usage.completion_tokens <= TOKENS
    assert choice.finish_reason == ("length" if answer.usage.completion_tokens == TOKENS else "stop")
    return choice.message.content


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_generate(served, family):
    folder, client = served[family]
    expected = [generated(folder, prompt, random_image(i)) for i, prompt in enumerate(PROMPTS)]
    assert len(set(expected)) > 1
    assert all(answer.startswith("<loc") for answer in expected)
    for i, prompt in enumerate(PROMPTS):
        messages = [{"role": "user", "content": [as_data(random_image(i)), {"type": "text", "text": prompt}]}]
        assert [ask(client, folder, messages, stream) for stream in (False, True)] == [expected[i]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_asked_for_its_last_question(served, family):
    folder, client = served[family]
    messages = [
        {"role": "system", "content": "detect"},
        {"role": "user", "content": [as_data(random_image(5)), {"type": "text", "text": "what is this"}]},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "two green cats"},
    ]
    assert ask(client, folder, messages, False) == generated(folder, "detect two green cats", random_image(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guides_client_is_answered(served, family, tmp_path, monkeypatch, capsys):
    folder, client = served[family]
    (block,) = [block for block in blocks(PAGE) if "OpenAI(" in block.text]
    (tmp_path / "shapes" / "images").mkdir(parents=True)
    random_image(7).save(tmp_path / "shapes" / "images" / "0.png")
    monkeypatch.chdir(tmp_path)
    address = str(client.base_url).removesuffix("/")
    code = block.text.replace("http://localhost:8000/v1", address).replace("my-pali", str(folder))
    exec(compile(code, "docs/guide/serve.md", "exec"), {})
    assert capsys.readouterr().out.strip() == generated(folder, "detect circle ; square", random_image(7), limit=64)
