"""Shapes in comments, such as `# [B, L, D]`, against the tensors of tiny models; their letters against the legends."""

import copy
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tiny_mask_vqvae import blobs, tiny
from tiny_naflex import EXAMPLES, FAMILIES
from tiny_pali3 import IMAGE_TOKENS, VISION, tiny_batch, tiny_pali3, without
from tiny_paligemma import IMAGES, PREFIXES, tiny_paligemma, tiny_paligemma_processor
from tiny_paligemma import tiny_batch as paligemma_batch
from tiny_siglip import tiny_siglip

from openpali.data.collator import Collator
from openpali.modeling import contrastive_loss
from openpali.modeling.flexible_patches import at_patch_size, axis_matrix, make_flexible
from openpali.modeling.image_patches import antialiased_axis, resize_positions
from openpali.modeling.modeling_pali3_multimodal import Pali3ForMultimodalLM
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.modeling.resolution import set_image_size
from openpali.modeling.token_loss import cross_entropy_of

FOLDER = Path(contrastive_loss.__file__).parent
# the assigned names, and at the end of the line a shape for each of them, or one for all
STATEMENT = re.compile(r"^\s*([\w, ]+?)(?:: \w+)? = .*# (\[[^\]]+\](?:, \[[^\]]+\])*)")


def shape_comments(path: Path) -> dict[int, tuple[list[str], list[list[str]]]]:
    """By number of line: the assigned names and their dimensions."""
    comments = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if match := STATEMENT.match(line):
            shapes = [shape.split(", ") for shape in re.findall(r"\[([^\]]+)\]", match[2])]
            comments[number] = (match[1].split(", "), shapes)
    return comments


COMMENTS = {str(path): shape_comments(path) for path in FOLDER.glob("*.py")}


class ShapeChecker:
    """A trace function that compares tensors with the comment of the line that assigned them."""

    def __init__(self) -> None:
        self.checked: set[tuple[str, int]] = set()
        self.wrong: list[str] = []
        self.lines: dict[FrameType, int] = {}
        self.sizes: dict[FrameType, dict[str, int]] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in COMMENTS:
            return None
        if event in ("line", "return") and frame in self.lines:
            self.check(frame, self.lines[frame])
        self.lines[frame] = frame.f_lineno
        if event == "return":
            self.lines.pop(frame)
            self.sizes.pop(frame, None)
        return self

    def check(self, frame: FrameType, line: int) -> None:
        """Compare tensors with their comment; a letter has one size in a call of a function."""
        file = frame.f_code.co_filename
        names, shapes = COMMENTS[file].get(line, ([], []))
        sizes = self.sizes.setdefault(frame, {})
        for name, dims in zip(names, shapes * len(names) if len(shapes) == 1 else shapes):
            value = frame.f_locals.get(name)
            if not isinstance(value, torch.Tensor):
                continue
            self.checked.add((file, line))
            # products of letters are not compared
            pairs = [(dim, size) for dim, size in zip(dims, value.shape) if dim.isidentifier() or dim.isdigit()]
            same = [size == (int(dim) if dim.isdigit() else sizes.setdefault(dim, size)) for dim, size in pairs]
            if len(dims) != value.ndim or not all(same):
                self.wrong.append(f"{file}:{line} {name} is {list(value.shape)}, not {dims} with {sizes}")


@contextmanager
def tracing(checker: ShapeChecker) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(checker)
    try:
        yield
    finally:
        sys.settrace(before)


def run_paligemma(tokenizer: Any) -> None:
    processor = tiny_paligemma_processor(tokenizer)
    batch = dict(paligemma_batch(processor))
    for fields in ({}, {"projector": "mlp", "image_encoder": "none"}):
        model = tiny_paligemma("gemma", processor, **fields)
        model(**batch, output_logits=True).loss.backward()
    model = tiny_paligemma("gemma", processor)
    features = model.model.vision_tower(batch.pop("pixel_values")).last_hidden_state
    model(**batch, image_features=features)
    model.generate(**processor(IMAGES, PREFIXES, return_tensors="pt"), max_new_tokens=2)


def run_pali3(tokenizer: Any) -> None:
    model, batch = tiny_pali3("t5", image_positions="sine", projector="mlp"), tiny_batch(examples=3)
    model(**batch, output_logits=True).loss.backward()
    model(**batch, token_losses=True)
    prompt = without(batch, "labels")
    model(**prompt)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    model(**without(batch, "input_ids"), inputs_embeds=embeds)
    features = torch.randn(3, IMAGE_TOKENS, VISION["hidden_size"])
    model(**without(batch, "pixel_values"), image_features=features)
    Pali3ForMultimodalLM(model.config).generate(**prompt, max_new_tokens=3)


def run_naflex(tokenizer: Any) -> None:
    for make in FAMILIES.values():
        model, processor = make(copy.deepcopy(tokenizer))
        batch = dict(Collator(processor)(EXAMPLES))
        model(**batch)
        model.get_image_features(**{name: batch[name] for name in processor.image_input_names()})


def run_others(tokenizer: Any) -> None:
    tiny().decode(tiny().encode(blobs(3)))
    tiny().train()(blobs(3))
    embeds = [torch.nn.functional.normalize(torch.randn(n, 8), dim=-1).requires_grad_() for n in (6, 5)]
    keys, scale = (torch.randint(0, 4, (6, 3)), torch.randint(0, 4, (5,))), torch.zeros(1, requires_grad=True)
    contrastive_loss.sigmoid_loss(*embeds, scale, scale, *keys, chunk_size=2).backward()
    cross_entropy_of(torch.randn(4, 7), torch.arange(4), 0.1)
    siglip = SiglipForContrastiveLearning(tiny_siglip()[0].config)
    siglip(torch.randn(2, 3, 16, 16), torch.randint(3, 20, (2, 8)))
    make_flexible(siglip)
    axis_matrix.cache_clear()
    antialiased_axis.cache_clear()
    with at_patch_size(siglip, 4):
        siglip.vision_model(torch.randn(2, 3, 16, 16))
    set_image_size(siglip, 32)
    resize_positions(torch.randn(2, 2, 8), torch.tensor([[3, 1], [2, 4]]), max_length=8)


def test_shapes_in_comments_are_those_of_the_tensors(tiny_tokenizer):
    checker = ShapeChecker()
    runs: list[Callable[[Any], None]] = [run_paligemma, run_pali3, run_naflex, run_others]
    for run in runs:
        with tracing(checker):
            run(tiny_tokenizer)
    assert checker.wrong == []
    written = {(file, line) for file, lines in COMMENTS.items() for line in lines}
    assert written - checker.checked == set()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_letters_of_shapes_are_in_the_legend(path):
    text = path.read_text("utf-8")
    shapes = re.findall(r"(?:\b(?:float|int|bool)|# |, )\[([A-Z](?:[ ,*]+(?:[A-Z]|\d+|D_vision))*)\]", text)
    letters = {letter for shape in shapes for letter in re.findall(r"\b[A-Z]\b", shape)}
    legend = re.search(r"^Shapes: (.*?)\.\n", text.split('"""')[1], re.MULTILINE | re.DOTALL)
    named = set() if legend is None else set(" ".join(re.findall(r"`([A-Z ]+)`", legend[1])).split())
    assert letters - named == set()
    assert len(letters) < 2 or named
