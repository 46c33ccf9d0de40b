import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageColor
from pycocotools.mask import encode
from tiny_models import examples

from openpali.data.sources.builtin.drawings import CREDITS
from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.report.drawing import PREDICTED_COLOUR, TRUE_COLOUR
from openpali.eval.report.page import gallery_images, gallery_rows, write_report
from openpali.eval.report.values import format_value

EVIL = "<script>alert('x')</script> & \"quotes\""


def row(i, score, text="cat", **extra):
    return {
        "id": f"id-{i}",
        "index": i,
        "pictures": 1,
        "task": "naming",
        "prefix": "what is this?",
        "text": text,
        "references": ["dog"],
        "boxes": [],
        "predicted_boxes": [],
        "score": score,
        **extra,
    }


def result(scores=(1.0, 0.0, 1.0, 0.0), blank=None, **extra):
    rows = [row(i, score, **extra) for i, score in enumerate(scores)]
    metrics = {"exact_match": sum(scores) / len(scores), "examples": float(len(rows))}
    return TaskResult("naming", metrics, rows, "exact_match", {"tokenizer": "plain"}, blank)


def page(tmp_path, results, images=None, logs=None, credits="", **options):
    return write_report(
        tmp_path / "new" / "report.html", "A title", results, images or {}, logs, credits, **options
    ).read_text()


class Outline(HTMLParser):
    """Tags with their attributes, and the text, as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def text_of(html):
    html = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.S)
    # the form is shown by the script
    html = re.sub(r"<form.*?</form>", "", html, flags=re.S)
    return " ".join(" ".join(Outline(html).words).split())


def test_summary_shows_score_blank_images_and_their_difference(tmp_path):
    html = page(tmp_path, [result(blank={"exact_match": 0.125, "examples": 4.0}), result()])
    text = text_of(html)
    assert "naming exact match 50.0 % 12.5 % +37.5 points 4" in text
    assert "naming exact match 50.0 % not measured 4" in text
    assert "tokenizer plain" in text


def test_without_blank_images_there_is_no_such_column(tmp_path):
    assert "Blind baseline" not in page(tmp_path, [result()])


def test_worst_come_first_then_the_best_and_none_twice():
    scores = [0.5, 0.0, 1.0, 0.25, 0.75, 0.0]
    worst, best = gallery_rows(result(scores), worst=3, best=2)
    assert [one["index"] for one in worst] == [1, 5, 3]
    assert [one["index"] for one in best] == [2, 4]
    worst, best = gallery_rows(result(scores), worst=12, best=6)
    assert len(worst) == 6
    assert best == []


def test_cards_carry_marks(tmp_path):
    text = text_of(page(tmp_path, [result()], worst=2, best=2))
    assert re.search(r"Lowest scores .* wrong .* wrong .* Highest scores .* right .* right", text)
    partly = result((0.5, 1.0, 0.0))
    partly.metric_key = "f1"
    partly.metrics["f1"] = 0.5
    assert re.search(r"0.0 % .* 50.0 % .* 100.0 %", text_of(page(tmp_path, [partly])))


def test_text_of_a_model_cannot_write_html(tmp_path):
    evil = row(0, 0.0, EVIL, prefix=EVIL, references=[EVIL])
    evil["id"] = EVIL
    bad = TaskResult("naming", {"exact_match": 0.0}, [evil], "exact_match", {"note": EVIL})
    image = Image.new("RGB", (8, 8))
    logs = [{"stage": EVIL, "step": i, "loss": 1.0} for i in range(3)]
    html = page(tmp_path, [bad], {EVIL: image}, logs, EVIL, settings={EVIL: EVIL})
    tags = [tag for tag, _ in Outline(html).tags]
    assert tags.count("script") == 1  # the filters' own
    assert EVIL in text_of(html)
    assert next(attributes["alt"] for tag, attributes in Outline(html).tags if tag == "img") == EVIL


def test_page_needs_nothing_but_itself(tmp_path):
    images = {f"id-{i}": Image.new("RGB", (64, 64), "red") for i in range(4)}
    logs = [{"step": i, "loss": 1 / (i + 1)} for i in range(200)]
    html = page(tmp_path, [result()], images, logs, CREDITS)
    outline = Outline(html)
    sources = [attributes.get("src", "") for _, attributes in outline.tags if "src" in attributes]
    assert len(sources) == 4
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert [of["href"] for tag, of in outline.tags if tag == "link"] == ["data:,"]
    assert [of for tag, of in outline.tags if tag == "script"] == [{}]
    assert "@import" not in html
    assert "url(" not in re.sub(r"url\(#\w+\)", "", html)
    assert "prefers-color-scheme: dark" in html
    assert '<a href="https://openmoji.org"' in html


def test_curves_for_every_stage_and_validation(tmp_path):
    logs = [{"stage": stage, "step": i, "loss": 1 / (i + 1)} for stage in ("first", "second") for i in range(60)]
    logs += [{"stage": "second", "step": i, "eval_exact_match": i / 60} for i in (20, 40)]
    html = page(tmp_path, [result()], logs=logs)
    assert html.count("<svg") == html.count('<svg role="img" aria-label=') == 3
    text = text_of(html)
    assert all(heading in text for heading in ("first loss", "second loss", "second validation"))
    assert "#010203" not in html
    clips = re.findall(r'<clipPath id="(\w+)"', html)
    assert len(clips) == len(set(clips)) == 3


@pytest.mark.parametrize("logs", [None, [], [{"step": 1, "lr": 0.1}]])
def test_without_losses_there_are_no_curves(tmp_path, logs):
    assert "Training" not in text_of(page(tmp_path, [result()], logs=logs))


def test_images_are_those_of_the_gallery():
    data = examples(6)
    found = gallery_images(result([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]), data, worst=2, best=1)
    assert list(found) == ["id-1", "id-5", "id-4"]
    assert found["id-5"] is data[5].images[0]


def read_image(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def rle_of(mask):
    return encode(np.asfortranarray(mask.astype(np.uint8)))


def test_masks_are_drawn_into_the_page(tmp_path):
    """True on the left of a grey image, predicted on the right, nothing between."""
    masks = [np.zeros((64, 64), bool) for _ in range(2)]
    masks[0][10:50, 4:24] = masks[1][10:50, 40:60] = True
    boxes = [{"box": [x / 64, 10 / 64, (x + 20) / 64, 50 / 64], "label": ""} for x in (4, 40)]
    rles = [{"size": [64, 64], "counts": rle_of(mask)["counts"].decode()} for mask in masks]
    one = row(0, 0.5, boxes=boxes[:1], masks=rles[:1], predicted_boxes=[boxes[1] | {"mask": rles[1]}])
    result = TaskResult("segment", {"mean_iou": 0.5, "invalid": 0.25}, [one], "mean_iou")
    html = page(tmp_path, [result], {"id-0": Image.new("RGB", (64, 64), (128, 128, 128))})
    shown = {of.get("class"): read_image(of["src"]) for tag, of in Outline(html).tags if tag == "img"}
    assert shown[None].size == (64, 64)  # enlarged by the browser
    drawn = shown[None].convert("RGBA").resize((448, 448), Image.Resampling.NEAREST)
    for layer in ("masks", "boxes"):
        drawn.alpha_composite(shown[layer])
    drawn = drawn.convert("RGB")
    pixels = np.asarray(drawn.resize((64, 64), Image.Resampling.BOX), int)
    blue, orange = (np.array(ImageColor.getrgb(colour)) for colour in (TRUE_COLOUR, PREDICTED_COLOUR))
    for middle, colour in ((pixels[15:45, 8:20], blue), (pixels[15:45, 44:56], orange)):
        expected = 0.7 * 128 + 0.3 * colour
        assert np.abs(middle.mean((0, 1)) - expected).max() < 4
    for edge, colour in ((pixels[12:48, 4], blue), (pixels[12:48, 59], orange)):
        assert np.abs(edge.mean(0) - colour).max() < np.abs(edge.mean(0) - 128).max()
    assert np.abs(pixels[15:45, 28:36] - 128).max() < 4
    text = text_of(html)
    assert "ground-truth box and mask predicted box and mask" in text
    assert "mean IoU 50.0 % invalid 25.0 %" in text


def test_large_images_are_reduced(tmp_path):
    html = page(tmp_path, [result((1.0,))], {"id-0": Image.new("RGB", (4000, 3000))})
    source = next(attributes["src"] for tag, attributes in Outline(html).tags if tag == "img")
    assert read_image(source).size == (480, 360)


@pytest.mark.parametrize(
    ("value", "key", "shown"),
    [
        (17.25, "perplexity", "17.2"),
        (0.634, "exact_match", "63.4 %"),
        (500.0, "examples", "500"),
        (112.34, "cider", "112.3"),
        (0.5, "other", "50.0 %"),
        (0.5, "mean_iou", "50.0 %"),
    ],
)
def test_values_as_a_reader_wants_them(value, key, shown):
    assert format_value(value, key) == shown


def test_a_page_stays_small_whatever_the_number_of_examples(tmp_path):
    """Photographs that hardly compress, and long answers in a script of three bytes a letter."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    results, images = [], {}
    for name in ("one", "two"):
        rows = [row(i, i % 7 / 7, "犬" * 5000, references=["猫" * 5000], id=f"{name}-{i}") for i in range(400)]
        for i, one in enumerate(rows):
            one["id"] = f"{name}-{i}"
            images[one["id"]] = Image.fromarray(noise)
        results.append(TaskResult(name, {"exact_match": 0.5, "examples": 400.0}, rows, "exact_match"))
    html = page(tmp_path, results, images, worst=200, best=100)
    assert 2_500_000 < len(html.encode()) < 5_000_000
    shown = html.count("<article")
    counts = [int(number) for number in re.findall(r"(\d+) of 400 examples are on this page", html)]
    assert len(counts) == 2
    assert sum(counts) == shown < 600
    # of both kinds
    assert html.count("Lowest scores") == html.count("Highest scores") == 2


def test_answers_carry_their_language(tmp_path):
    rows = [row(0, 1.0, "ein Hund", prefix="caption de"), row(1, 1.0, "a dog", prefix="caption this")]
    html = page(tmp_path, [TaskResult("caption", {"cider": 120.0}, rows, "cider")])
    assert html.count('lang="de"') == 2
    assert '<span dir="auto" lang="de">ein Hund</span>' in html
    assert '<span dir="auto">a dog</span>' in html


def test_what_an_image_shows_is_told_in_words(tmp_path):
    boxes = [{"box": [0.1, 0.1, 0.5, 0.5], "label": label} for label in ("dog", "")]
    one = row(0, 1.0, prefix="detect dog", boxes=boxes[:1], predicted_boxes=boxes)
    html = page(tmp_path, [TaskResult("detect", {"f1": 1.0}, [one], "f1")], {"id-0": Image.new("RGB", (16, 16))})
    alts = [of["alt"] for tag, of in Outline(html).tags if tag == "img"]
    assert alts == ["detect dog (ground truth: dog; predicted: dog, an object without a name)", ""]
