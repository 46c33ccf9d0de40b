import csv
import io
import json
import re
import shlex
from base64 import b64decode

import pytest
import torch
from PIL import Image
from tiny_siglip import COLOURS, tiny_siglip
from transformers import SiglipForImageClassification

from openpali.eval import encoders
from openpali.eval.encoders import main
from openpali.eval.image_encoders.embedding import embed_images, embed_texts, image_features
from openpali.eval.image_encoders.gallery import QUERIES, evenly_spaced, rank_candidates
from openpali.eval.image_encoders.linear_probe import linear_probe
from openpali.eval.scoring.recall import recall_at_k

EVIL = "<script>alert('x')</script>"
CREDITS = "Drawn by nobody, see https://example.org/licence"


class Colours:
    """Images of one colour each, slightly different, with names in two languages and one text that they share."""

    name, credits = "colours", CREDITS

    def __init__(self, length=30):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        name, german = list(COLOURS.items())[index % len(COLOURS)]
        image = Image.new("RGB", (20, 20), name)
        image.paste((index, index, index), (0, 0, 8, 8))
        captions = {"en": [name, f"{name} {index}"], "de": german, "xx": EVIL}
        return {
            "id": str(index),
            "image": image,
            "captions": captions if index % 10 else {"en": captions["en"]},
            "objects": [{"concept": name, "names": {"en": name, "de": german}}],
        }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    model, processor = tiny_siglip()
    model.save_pretrained(folder / "siglip")
    processor.save_pretrained(folder / "siglip")
    SiglipForImageClassification(model.config).save_pretrained(folder / "classifier")
    processor.image_processor.save_pretrained(folder / "classifier")
    return folder


def arguments(model, output, *more):
    required = ["--model", model, "--source", "colours", "--output", output, "--device", "cpu"]
    return [str(word) for word in (*required, "--shots", 3, "--batch_size", 7, *more)]


@pytest.fixture(scope="module")
def whole(checkpoints, tmp_path_factory):
    """One run of everything: the folder and what it printed."""
    output = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as printed:
        patch.setattr(encoders, "load_source", lambda spec: Colours())
        patch.setattr("sys.stdout", printed)
        main(arguments(checkpoints / "siglip", output, "--compare", checkpoints / "classifier", "--title", EVIL))
        return output, printed.getvalue()


def test_scores_are_those_of_the_parts(whole, checkpoints):
    output, printed = whole
    metrics = json.loads((output / "metrics.json").read_text())
    model, processor = tiny_siglip()
    records = [Colours()[i] for i in range(30)]
    images = embed_images(model, processor.image_processor, [record["image"] for record in records])
    german = [i for i in range(30) if i % 10]
    texts = embed_texts(model, processor.tokenizer, [records[i]["captions"]["de"] for i in german])
    expected = recall_at_k(images[german], texts, torch.arange(len(german)))
    assert metrics["retrieval"]["languages"]["de"]["recalls"] == pytest.approx(expected)
    english = embed_texts(model, processor.tokenizer, [text for r in records for text in r["captions"]["en"]])
    expected = recall_at_k(images, english, torch.arange(60) // 2)
    assert metrics["retrieval"]["languages"]["en"]["recalls"] == pytest.approx(expected)
    assert sorted(metrics["retrieval"]["languages"]) == ["de", "en", "xx"]
    assert metrics["retrieval"]["languages"]["de"]["ceiling"]["text_to_image_recall_at_1"] < 0.25
    assert sorted(metrics["zero_shot"]["languages"]) == ["de", "en"]
    assert metrics["zero_shot"]["chance"]["top_1"] == pytest.approx(1 / 5)
    features = image_features(model, processor.image_processor, [record["image"] for record in records])
    probe = linear_probe(features, [record["objects"][0]["concept"] for record in records], shots=3)
    assert metrics["probe"]["siglip"]["mean"] == pytest.approx(probe.mean)
    assert [one["pooling"] for one in metrics["probe"].values()] == ["head", "mean"]
    assert metrics["images"] == 30
    assert metrics["arguments"]["shots"] == 3
    assert "image-to-text retrieval: R@1" in printed
    assert "probe of classifier: " in printed


def test_tables_hold_every_language_the_mean_and_chance(whole):
    output, _ = whole
    rows = list(csv.DictReader((output / "per_language.csv").open(encoding="utf-8")))
    assert [row["language"] for row in rows] == ["de", "en", "xx", "mean", "chance"]
    metrics = json.loads((output / "metrics.json").read_text())
    key = "text_to_image_recall_at_5"
    values = [metrics["retrieval"]["languages"][name]["recalls"][key] for name in ("de", "en", "xx")]
    assert [float(row[key]) for row in rows[:4]] == pytest.approx([*values, sum(values) / 3])
    assert rows[2]["zero_shot_top_1"] == ""
    lines = (output / "per_language.md").read_text().splitlines()
    assert lines[0].startswith("| language | images | texts | I→T R@1 | I→T R@5 |")
    assert lines[2].startswith("| German (de) | 27 | 27 | ")
    assert len({line.count("|") for line in lines}) == 1


def test_page_is_whole_and_safe(whole):
    output, _ = whole
    html = (output / "report.html").read_text()
    assert "<script" not in html
    assert f"<h1>{EVIL.replace('<', '&lt;').replace('>', '&gt;').replace(chr(39), '&#39;')}</h1>" in html
    assert not re.findall(r"(?:src|href)=\"(?!data:|https://example.org/licence)", html)
    assert '<a href="https://example.org/licence"' in html
    assert html.count("<article>") == 2 * QUERIES
    images = re.findall(r'src="data:image/(?:jpeg|png|webp);base64,([^"]+)"', html)
    sizes = [Image.open(io.BytesIO(b64decode(one))).size for one in images]
    assert sizes.count((20, 20)) >= 6 * QUERIES
    assert Image.open(output / "heat_map.png").size in sizes
    assert "limit " in html
    # a text that several images have is shown once
    first = html[html.index("<ol") : html.index("</ol>")]
    shown = re.findall(r"<li.*?<span[^>]*>(.*?)</span>", first)
    assert len(set(shown)) == len(shown) == 5


def test_order_of_a_gallery():
    order = rank_candidates(torch.tensor([1.0, 0.0]), torch.eye(2)[[1, 0, 1]], torch.tensor([True, False, True]))
    assert (order["rank"], order["first"]) == (2, 0)
    assert [place for place, _ in order["answers"]] == [1, 0, 2]
    assert [more["right"] for _, more in order["answers"]] == [False, True, True]
    assert [evenly_spaced(range(80), number, 0.5) for number in range(QUERIES)] == list(range(5, 80, 10))
    assert [evenly_spaced([7], number, 0.25) for number in range(QUERIES)] == [7] * QUERIES


def test_a_model_without_texts_gets_only_the_probe(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders, "load_source", lambda spec: Colours())
    main(arguments(checkpoints / "classifier", tmp_path / "new"))
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics["retrieval"] is metrics["zero_shot"] is None
    assert list(metrics["probe"]) == ["classifier"]
    assert metrics["notes"][0] == "retrieval: not measured, classifier has no text tower"
    assert "not measured, classifier has no text tower" in (tmp_path / "new" / "report.html").read_text()
    assert "retrieval: not measured" in capsys.readouterr().out
    assert not (tmp_path / "new" / "heat_map.png").exists()


def test_shots_of_another_source(checkpoints, tmp_path, monkeypatch):
    """A gallery shows each class once, which leaves no shots."""
    monkeypatch.setattr(encoders, "load_source", lambda spec: Colours(5) if spec["name"] == "colours" else Colours())
    words = arguments(checkpoints / "siglip", tmp_path, "--tasks", "probe")
    with pytest.raises(SystemExit, match="probe: not measured, 0 of 5 classes have the 4 examples"):
        main(words)
    main([*words, "--shots_source", "training"])
    result = json.loads((tmp_path / "metrics.json").read_text())["probe"]["siglip"]
    assert (result["tests"], result["classes"], result["left_out"]) == (5, 5, [])


def test_languages_and_limit(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "load_source", lambda spec: Colours())
    more = ["--tasks", "retrieval", "--languages", "de", "en", "--limit", "12", "--text_length", "4"]
    main(arguments(checkpoints / "siglip", tmp_path, *more))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert sorted(metrics["retrieval"]["languages"]) == ["de", "en"]
    assert metrics["images"] == 12
    model, processor = tiny_siglip()
    records = [Colours()[i] for i in range(12)]
    images = embed_images(model, processor.image_processor, [record["image"] for record in records])
    texts = [text for record in records for text in record["captions"]["en"]]
    short = embed_texts(model, processor.tokenizer, texts, 4)
    expected = recall_at_k(images, short, torch.arange(24) // 2)
    assert metrics["retrieval"]["languages"]["en"]["recalls"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "retrievel"], r"tasks are some of retrieval, zero_shot, probe, patches, not retrievel"),
        (["--limit", "0"], "at least 1"),
        (["--languages", "en", "tlh"], "no record has texts in tlh"),
        (["--text_length", "99", "--tasks", "retrieval"], "text_length=99: the model's text tower has 1 to 8"),
        (["--pooling", "max"], "pooling is one of auto, head, mean, not 'max'"),
        (["--compare", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(checkpoints, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr(encoders, "load_source", lambda spec: Colours())
    with pytest.raises(SystemExit, match=message):
        main(arguments(checkpoints / "siglip", tmp_path, *more))


def test_the_command_of_the_docstring_parses(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(encoders, "run", lambda args: seen.append(args) or encoders.EncoderScores("", {}))
    command = re.search(r"openpali encoders (--.*?)\n\n", encoders.__doc__, re.DOTALL)[1]
    main(shlex.split(command.replace("\\\n", " ")))
    assert seen[0].limit == 500
    assert encoders.read_source(seen[0].source)["name"] == "emoji"
