"""The page in a browser: the command on a checkpoint, and its drawings with given answers."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from chromium import needs_chromium, opened, violations
from clips import write_clip
from given_answers import BOX, gives, page_of, with_tokens
from PIL import Image
from tiny_adapters import save_checkpoint
from tiny_mask_vqvae import tiny

pytestmark = needs_chromium()


@pytest.fixture(scope="module")
def served(tiny_tokenizer, tmp_path_factory) -> Iterator[str]:
    """The address of the command's page; at its end no upload is left behind."""
    folder, uploads = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("uploads")
    save_checkpoint("pali3", tiny_tokenizer, folder / "model")
    tiny(image_size=16, codebook_size=128).save_pretrained(folder / "codec")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "openpali.eval.web_demo", str(folder / "model"), "--codec", str(folder / "codec")]
    command += ["--port", str(port), "--device", "cpu", "--num_frames", "2"]
    environment = os.environ | {"TMPDIR": str(uploads), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == f"{folder / 'model'} answers on http://127.0.0.1:{port}/ until Ctrl+C\n"
    yield line.split()[3]
    assert list(uploads.glob("openpali-demo-*"))
    process.terminate()
    assert process.wait(60) == 0
    assert list(uploads.glob("openpali-demo-*")) == []


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Two images, one that is none, and a clip, by their names."""
    folder = tmp_path_factory.mktemp("files")
    Image.effect_noise((200, 120), 60).convert("RGB").save(folder / "a.png")
    Image.new("RGB", (90, 160), "lime").save(folder / "b.jpg")
    (folder / "broken.png").write_bytes(b"no image")
    write_clip(folder / "clip.mp4", 8)
    return {path.name: str(path) for path in folder.iterdir()}


def upload(page: Any, *paths: str) -> None:
    """Files, as by a click on the field; until all are shown."""
    with page.expect_response(lambda got: "/upload" in got.url and got.request.method == "POST"):
        page.set_input_files("#images input[type=file]", list(paths))
    shown(page, len(paths))


def shown(page: Any, count: int) -> None:
    """Wait until that many images are shown."""
    code = "count => document.querySelectorAll('#images .grid-container button.thumbnail-item').length === count"
    page.wait_for_function(code, arg=count)


def ask(page: Any, prompt: str | None = None) -> list[str]:
    """Ask, wait for the end, and give the text of each answer."""
    page.evaluate("document.querySelector('#answers article, #answers .message')?.parentElement.replaceChildren()")
    if prompt is not None:
        page.fill("#prompt textarea", prompt)
    page.click("#answer")
    page.wait_for_selector("#answers .seconds, #answers .message")
    return page.locator("#answers article").all_inner_texts()


def test_every_button_writes_a_prompt_that_is_answered(served, files):
    with opened(served) as page:
        upload(page, files["a.png"])
        buttons = page.locator("#tasks button")
        assert buttons.all_inner_texts() == [
            "Caption",
            "Question",
            "Count",
            "Colour",
            "Text",
            "Detect",
            "Segment",
        ]
        prompts: list[str] = []
        for button in buttons.all():
            page.fill("#prompt textarea", "detect cat")
            button.click()
            if button.inner_text() != "Detect":
                page.wait_for_function("document.querySelector('#prompt textarea').value !== 'detect cat'")
            prompts.append(page.input_value("#prompt textarea"))
            (answer,) = ask(page)
            assert answer.splitlines()[0] == prompts[-1]
            assert "a.png" in answer
        assert prompts[-2:] == ["detect cat", "segment cat"]
        assert "answer en how many cats are there?" in prompts
        assert len(set(prompts)) == 7


def test_several_images_questions_and_a_clip(served, files):
    with opened(served) as page:
        upload(page, files["a.png"], files["b.jpg"])
        heads = [answer.splitlines()[0] for answer in ask(page, "what is this\ncaption en\n\nwhat is this")]
        assert heads == ["what is this", "caption en"] * 2
        page.get_by_role("button", name="Options").click()
        page.get_by_label("Ask once about all images together").check()
        (answer,) = ask(page, "what is this")
        assert "a.png, b.jpg" in answer
        page.get_by_role("button", name="Clear").click()
        upload(page, files["clip.mp4"])
        (answer,) = ask(page)
        assert "clip.mp4" in answer


def test_an_example_and_the_keyboard_alone(served):
    with opened(served) as page:
        page.get_by_role("button", name="Example: answer en what is this?").click()
        page.wait_for_function("document.querySelector('#prompt textarea').value === 'answer en what is this?'")
        page.wait_for_selector("#images .thumbnail-item img")
        # from the prompt by keys alone: to the first task, and back to the prompt, where Enter asks
        page.focus("#prompt textarea")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelector('#prompt textarea').value === 'caption en'")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#answers .seconds")
        assert page.locator("#answers h3").all_inner_texts() == ["caption en"]
        assert "OpenMoji" in page.inner_text("#credits")


def test_errors_are_a_line_of_the_page(served, files):
    with opened(served) as page:
        assert ask(page) == []
        assert page.inner_text("#answers") == "there is no image: upload one, or choose an example"
        upload(page, files["a.png"])
        page.set_input_files("#images input[type=file]", [files["broken.png"]])
        page.wait_for_function(
            "document.querySelectorAll('#images .grid-container button.thumbnail-item').length === 2"
        )
        assert len(ask(page)) == 1
        assert page.inner_text("#answers .message").startswith("broken.png is not an image that can be read")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it(scheme, monkeypatch, files, tmp_path):
    """With an answer of boxes and masks, whose drawing is there."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    codec = tiny(image_size=16, codebook_size=128).eval()
    masks = torch.zeros(1, 120, 200, dtype=torch.bool)
    masks[0, 10:60, 20:120] = True
    answerer = gives(monkeypatch, with_tokens(f"{BOX} dog ; {codec.write(masks, ['a <b>cat</b>'])}"), codec)
    with page_of(answerer) as address, opened(address, color_scheme=scheme) as page:
        assert violations(page) == []
        upload(page, files["a.png"], files["b.jpg"])
        page.get_by_role("button", name="Options").click()
        (first, _) = ask(page, "detect dog ; cat")
        assert "0.36" in first
        assert "<b>cat</b>" in first
        assert page.get_attribute("#answers", "aria-live") == "polite"
        assert violations(page) == []
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= 400")
