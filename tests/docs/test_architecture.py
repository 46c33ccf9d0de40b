"""The page of the architecture: its drawing is that of the imports, its files are there, its ways are what runs."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import draw_architecture as drawing
import page_folders as given
from page_blocks import QUICK, ROOT, as_words

from openpali.recipes import transfer

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
# file and function of the rows of both ways
WAYS = [
    re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| `([\w.]+)` \|", part, re.MULTILINE)
    for part in PAGE.split("## Where is")[0].split("The way back")
]


def test_the_drawing_is_that_of_the_imports():
    remedy = "the imports have changed: run python tests/docs/draw_architecture.py"
    assert drawing.drawn() == drawing.graph(), remedy


def test_the_drawing_shows_what_it_describes():
    texts = set(re.findall(r"<text [^>]*>([^<]+)</text>", drawing.DRAWING.read_text("utf-8")))
    labels = {
        line
        for rooms in drawing.graph()["rooms"].values()
        for room in rooms
        for line in drawing.label(room).split("\n")
    }
    assert labels <= texts


def test_arrows_that_follow_from_others_are_left_out():
    chain = {("a", "b"), ("b", "c"), ("c", "d")}
    assert drawing.thinned(chain | {("a", "c"), ("a", "d")}) == chain


def test_every_file_of_the_page_exists():
    paths = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", PAGE))
    assert len(paths) > 70
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def defined(path: str) -> set[str]:
    """Functions and methods of a file."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return functions | {
        f"{c.name}.{node.name}" for c in classes for node in c.body if isinstance(node, ast.FunctionDef)
    }


def test_every_function_of_the_page_exists():
    assert [len(way) > 10 for way in WAYS] == [True, True]
    assert [(path, name) for way in WAYS for path, name in way if name not in defined(path)] == []


class Calls:
    """The calls of some functions while it is entered, in their order, and what the first call of each returned."""

    def __init__(self, wanted: set[tuple[str, str]]):
        self.wanted, self.made, self.returned = wanted, [], {}

    def __enter__(self) -> "Calls":
        sys.setprofile(self.note)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    def note(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event in ("call", "return") and code.co_filename.startswith(str(ROOT)):
            call = Path(code.co_filename).relative_to(ROOT).as_posix(), code.co_qualname
            if call in self.wanted and event == "call":
                self.made.append(call)
            elif call in self.wanted:
                self.returned.setdefault(code.co_qualname, argument)


def test_an_example_goes_the_way_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given.paligemma("base")
    given.jsonl("my.jsonl")
    options = QUICK["recipes.transfer"] | {"attention": "sdpa"}
    way = [call for part in WAYS for call in part]
    with Calls(set(way)) as calls:
        transfer.main(["--model", "base", "--data", "my.jsonl", "--output_dir", "run", *as_words(options)])
    rest = iter(calls.made)
    missing = [call for call in way if call not in rest]
    assert missing == [], f"not called, or not in the order of the page: {missing[0]}"
    assert json.loads(Path("run", "metrics.json").read_text())
    shapes_are_those_of_the_page(calls.returned)


def shapes_are_those_of_the_page(returned: dict[str, Any]) -> None:
    """B examples of L tokens, N of them supervised; images of 16 pixels, and a text model of width D."""
    embeds, _ = returned["PaliGemmaForConditionalGeneration.embed"]
    mask, losses = returned["prefix_lm_mask"], returned["ChunkedCrossEntropy.forward"]
    batch, length, width = embeds.shape
    assert batch == QUICK["recipes.transfer"]["per_device_train_batch_size"]
    assert returned["FastImageProcessor.pixel_values"].shape == (batch, 3, 16, 16)
    assert (mask.shape, str(mask.dtype)) == ((batch, 1, length, length), "torch.bool")
    assert returned["example_losses"].shape == (batch,)
    assert losses.ndim == 1
    assert batch <= len(losses) < batch * length
    for_hidden, for_head, *_ = returned["ChunkedCrossEntropy.backward"]
    assert for_hidden.shape == (len(losses), width)
    assert for_head.shape[1] == width
