"""The page in Gradio: image and prompt on the left, answers on the right; nothing is loaded from another host."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from openpali.eval.web.answerer import Answerer
from openpali.eval.web.examples import ExampleImage
from openpali.eval.web.prompts import Button

HERE = Path(__file__).parent
MOST_BEAMS, MOST_TOKENS, LONGEST_PROMPT = 8, 512, 4000
WAITING = "<p class='of'>The answer appears here.</p>"


@dataclass(frozen=True)
class Look:
    """What the page shows beside answers.

    Attributes:
        model: name of the checkpoint.
        facts: of it, in a line.
        buttons: tasks that it can answer.
        examples: images with prompts.
        credits: due with the examples.
        several: it takes several images with one prompt.
        num_beams: at first.
        max_new_tokens: at first.
    """

    model: str
    facts: str
    buttons: Sequence[Button]
    examples: Sequence[ExampleImage]
    credits: str
    several: bool
    num_beams: int
    max_new_tokens: int


def build_page(answerer: Answerer, look: Look) -> gr.Blocks:
    """Lay the page out, and connect its controls."""
    with gr.Blocks(title=f"openpali demo: {look.model}", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# openpali demo\n{escaped(look.model)}: {escaped(look.facts)}")
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(elem_id="ask"):
                inputs = ask(look)
                with gr.Row():
                    answer = gr.Button("Answer", variant="primary", scale=3, elem_id="answer")
                    stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
            with gr.Column(elem_id="told"):
                gr.Markdown("## Answers")
                answers = gr.HTML(WAITING, elem_id="answers")
            if look.examples:
                with gr.Column(elem_id="try"):
                    show_examples(look, *inputs[:2])

        def respond(files: Any, *options: Any) -> Iterator[str]:
            yield from answerer.answer([path for path, _ in files or []], *bounded(*options))

        asked = gr.on(
            [answer.click, inputs[1].submit], respond, inputs, answers, concurrency_limit=1, api_visibility="private"
        )
        stop.click(None, cancels=[asked], api_visibility="private")
    return page


def ask(look: Look) -> list[Any]:
    """The controls of a request, in the order of `Answerer.answer`."""
    images: Any = gr.Gallery(
        label="Images and clips",
        type="filepath",
        file_types=["image", "video"],
        sources=["upload", "webcam", "clipboard"],
        interactive=True,
        columns=3,
        height=300,
        object_fit="contain",
        buttons=["fullscreen"],
        elem_id="images",
    )
    prompt: Any = gr.Textbox(
        look.buttons[0].prompt,
        label="Prompts, one a line",
        info="Enter asks, Shift+Enter begins another line. “en” is the language of the answer.",
        lines=1,
        max_lines=12,
        max_length=LONGEST_PROMPT,
        elem_id="prompt",
    )
    with gr.Row(elem_id="tasks"):
        for one in look.buttons:
            button: Any = gr.Button(one.label, size="sm", min_width=80)
            # quick, so that it never waits behind answers
            button.click(
                one.prompt_after, prompt, prompt, queue=False, show_progress="hidden", api_visibility="private"
            )
    with gr.Accordion("Options", open=False):
        together = gr.Checkbox(
            label="Ask once about all images together",
            info="Otherwise about each of them. A clip is always one question.",
            visible=look.several,
        )
        beams = gr.Slider(1, MOST_BEAMS, look.num_beams, step=1, label="Beams", info="1 is greedy")
        length = gr.Slider(1, MOST_TOKENS, look.max_new_tokens, step=1, label="Longest answer in tokens")
    return [images, prompt, together, beams, length]


def bounded(prompt: str, together: bool, num_beams: float, max_new_tokens: float) -> tuple[str, bool, int, int]:
    """Values of the controls within their bounds, which a request need not keep."""
    beams = min(max(int(num_beams), 1), MOST_BEAMS)
    return (prompt or "")[:LONGEST_PROMPT], bool(together), beams, min(max(int(max_new_tokens), 1), MOST_TOKENS)


def show_examples(look: Look, images: Any, prompt: Any) -> None:
    """Images with a prompt below each; one that is chosen takes the place of image and prompt."""
    gr.Markdown("## Examples")
    gallery: Any = gr.Gallery(
        [(one.path, one.prompt) for one in look.examples],
        label="Examples",
        show_label=False,
        interactive=False,
        allow_preview=False,
        columns=3,
        height="auto",
        object_fit="contain",
        buttons=[],
        elem_id="examples",
    )

    def choose(event: gr.SelectData) -> tuple[list[str], str]:
        chosen = look.examples[int(event.index)]  # type: ignore[arg-type]
        return [chosen.path], chosen.prompt

    gallery.select(choose, None, [images, prompt], queue=False, show_progress="hidden", api_visibility="private")
    gr.Markdown(look.credits, elem_id="credits")


def escaped(text: str) -> str:
    """A text whose letters mean nothing in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|<>$~" else letter for letter in text)


def theme() -> gr.themes.Base:
    """Fonts of the system, which no other host sends, and colours with enough contrast to be read."""
    found = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    blue = {f"button_primary_background_fill{part}": "*primary_600" for part in ("", "_dark")}
    blue |= {f"button_primary_background_fill_hover{part}": "*primary_700" for part in ("", "_dark")}
    quiet = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    quiet |= {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}
    return found.set(**blue, **quiet)


def launch(page: gr.Blocks, host: str, port: int | None, queue_size: int) -> str:
    """Serve the page in threads of this process; its address.

    Raises:
        OSError: the port or the host cannot be used.
    """
    page.queue(max_size=queue_size, api_open=False)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        enable_monitoring=False,
        max_file_size="256mb",
        theme=theme(),
        css=(HERE / "page.css").read_text("utf-8"),
        head=f"<script>{(HERE / 'page.js').read_text('utf-8')}</script>",
    )
    return address
