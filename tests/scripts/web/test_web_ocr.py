"""The step `ocr`: RapidOCR on drawn words, and other engines."""

import pickle
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from openpali.data.example import Box
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.modeling.user_errors import UserError, explain
from openpali.scripts.web.labelling import rapid_ocr
from openpali.scripts.web.labelling.rapid_ocr import read_words, words_of_line
from openpali.scripts.web.running.registry import step_class
from openpali.scripts.web.running.samples import WebSample, merged
from openpali.scripts.web.steps.ocr import Ocr

pytest.importorskip("rapidocr")


def sample(image: Image.Image, **record) -> WebSample:
    return WebSample("shard", 0, "0001", image, record)


def page() -> Image.Image:
    """Two lines of 36 and 16 px."""
    image = Image.new("RGB", (480, 200), "white")
    for text, size, top in (("The quick brown fox", 36, 30), ("reads fine print", 16, 130)):
        ImageDraw.Draw(image).text((20, top), text, fill="black", font=ImageFont.load_default(size))
    return image


def quad(*box: float) -> list[list[float]]:
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def engine(image: Image.Image) -> list[tuple[str, list, float]]:
    """Three words in an engine's two forms of boxes, and one that it is not sure of."""
    boxes = [quad(50, 10, 90, 20), [10, 12, 40, 22], quad(10, 60, 40, 80)]
    return [
        *zip(("right", "left", " below "), boxes, (0.95, 0.96, 0.97)),
        ("low", [0, 90, 9, 93], 0.99),
        ("?", [0] * 4, 0.1),
    ]


def wrong_engine(image: Image.Image) -> list[str]:
    return ["words", "alone"]


def test_the_words_of_a_page_become_an_example_of_ocr():
    (verdict,) = step_class("ocr")()([sample(page())])
    record = merged({}, verdict)
    assert [word["text"] for word in record["words"]] == ["The", "quick", "brown", "fox", "reads", "fine", "print"]
    assert record["label_models"] == {"words": rapid_ocr.model_name()}
    assert record["label_models"]["words"].startswith("RapidOCR 3.")
    assert verdict.values == {"words": 7}
    first, second = (word["box"] for word in record["words"][:2])
    assert first[2] <= second[0]
    assert 0 < first[1] < 30 / 200 + 0.05
    words = [word | {"box": Box(*word["box"])} for word in record["words"]]
    made = load_task({"name": "ocr", "order": "raster"}).example(
        {"id": "1", "image": page(), "words": words}, random.Random(0)
    )
    assert made is not None
    assert made.suffix == "The quick brown fox reads fine print"


def test_words_on_small_images_are_read():
    """96 px, words of 10 to 21 px; nine in ten are read over many, so that four in five of these leave room."""
    source = load_source({"name": "emoji", "words": [1, 1], "size": 96})
    records = [source[number] for number in range(24)]
    verdicts = Ocr()([sample(record["image"]) for record in records])
    found = [{word["text"] for word in verdict.labels["words"]} for verdict in verdicts]
    right = sum(record["words"][0]["text"] in texts for record, texts in zip(records, found))
    assert right >= 0.8 * len(records)
    assert [verdict.labels for verdict in Ocr()([sample(records[0]["image"])])] == [verdicts[0].labels]


def test_nothing_is_downloaded(monkeypatch):
    import requests

    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr(requests.Session, "request", refuse)
    rapid_ocr._engine.cache_clear()
    assert len(read_words(page())) == 7
    monkeypatch.setattr(rapid_ocr, "RECOGNISER", "other.onnx")
    rapid_ocr._engine.cache_clear()
    with pytest.raises(UserError, match=r"comes without other\.onnx: pip install"):
        read_words(page())
    rapid_ocr._engine.cache_clear()


@pytest.mark.parametrize("size", [(1, 1), (3, 3000), (3000, 40), (2500, 1200), (60, 40)])
def test_images_of_any_size(size):
    (verdict,) = Ocr()([sample(Image.new("RGB", size, "white"))])
    assert verdict.labels == {"words": []}


def test_letters_of_a_line_are_joined_to_words():
    box = np.array(quad(0, 0, 100, 10), float)

    def texts(line: str, *parts: str) -> list[str]:
        pieces = [(part, 0.9, quad(n * 10, 0, n * 10 + 8, 10)) for n, part in enumerate(parts)]
        return [text for text, _ in words_of_line(line, box, pieces)]

    assert texts("two words", "two", "words") == ["two", "words"]
    # a gap without a space, and letters with gaps
    assert texts("twowords", "two", "words") == ["two", "words"]
    assert texts("SALE", "S", "A", "L", "E") == ["SALE"]
    # single letters of scripts without spaces, also among others
    assert texts("你好 世界", *"你好世界") == ["你好", "世界"]
    assert texts("你好ok go", "你", "好", "o", "k", "g", "o") == ["你好ok", "go"]
    # the parts of another text are no help
    assert texts("two words", "three") == ["two words"]
    assert texts("two words") == ["two words"]
    (_, first), (_, second) = words_of_line("a b", box, [("a", 1, quad(0, 0, 8, 10)), ("b", 1, quad(20, 0, 28, 10))])
    assert (first[:, 0].max(), second[:, 0].min()) == (8, 20)


def test_another_engine_is_imported_by_its_name():
    step = Ocr(engine=f"{__name__}:engine", least_height=5)
    (verdict,) = step([sample(Image.new("RGB", (100, 100)))])
    assert [word["text"] for word in verdict.labels["words"]] == ["left", "right", "below"]
    assert verdict.labels["words"][1]["box"] == [0.5, 0.1, 0.9, 0.2]
    assert verdict.models == {"words": f"{__name__}:engine"}
    (verdict,) = Ocr(engine=f"{__name__}:engine", most_words=1)([sample(Image.new("RGB", (100, 100)))])
    assert [word["text"] for word in verdict.labels["words"]] == ["below"]
    assert pickle.loads(pickle.dumps(step)) == step


def test_words_that_a_record_has_are_kept():
    (verdict,) = Ocr()([sample(page(), words=[{"text": "given"}])])
    assert (verdict.labels, verdict.models, verdict.values) == ({}, {}, {"words": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tesseract"}, "engine is rapidocr or package.module:function, not 'tesseract'"),
        ({"engine": "no_such_package:read"}, "engine: no_such_package:read cannot be imported .No module named"),
        ({"engine": f"{__name__}:nothing"}, "cannot be imported .* no attribute 'nothing'"),
        ({"least_score": -1}, "least_score and least_height at least 0"),
        ({"threads": 0}, "threads are at least 1"),
    ],
)
def test_wrong_options_are_told_before_a_shard_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        Ocr(**options)


def test_an_engine_that_gives_something_else_is_told():
    with pytest.raises(UserError, match=r"shard\.tar:0001: .*wrong_engine gives no list of \(text, box, score\)"):
        Ocr(engine=f"{__name__}:wrong_engine")([sample(page())])


def test_a_missing_package_is_told_with_its_installation(monkeypatch):
    monkeypatch.setattr("openpali.scripts.web.steps.ocr.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as error:
        Ocr()
    assert explain(error.value) == 'there is no package rapidocr: pip install "openpali[web]"'
