import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from tiny_adapters import save_checkpoint
from tiny_mask_vqvae import tiny
from tiny_models import tiny_pali3

from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC
from openpali.data.masks.rle import decode_rle
from openpali.eval.answering.decoding import Answer, Token
from openpali.eval.predict import main as predict
from openpali.eval.report.drawing import OBJECT_COLOURS

BOX = "<loc0256><loc0512><loc0768><loc1023>"
WIDTH, HEIGHT = 200, 100


@pytest.fixture
def image(tmp_path, monkeypatch):
    """A red image; the working folder is empty, so that there is no codec at its usual place."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "image.png"
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(path)
    return path


@pytest.fixture
def says(monkeypatch):
    """Whatever model is named, this is its answer."""
    monkeypatch.setattr("openpali.eval.predict.load_model", lambda *_, **__: (None, None))

    def say(answer):
        def answers(model, processor, examples, *_, **__):
            given = answer if isinstance(answer, Answer) else Answer(answer)
            return ((index, given) for index in range(len(examples)))

        monkeypatch.setattr("openpali.eval.predicting.answers.generate_answers", answers)

    return say


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Sixteen codes for masks of 16 px, a random one; its folder."""
    folder = tmp_path_factory.mktemp("codec") / "codec"
    model = tiny(image_size=16, codebook_size=128).eval()
    model.save_pretrained(folder)
    return model, folder


def answer_of(model):
    """Two masks with labels, and two parts that are none."""
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 10:60, 20:120] = masks[1, 50:90, 100:180] = True
    return f"{model.write(masks, ['dog', 'a red cat'])} ; <loc0001><seg001> bus ; nonsense"


def test_boxes_are_printed_and_drawn(image, says, tmp_path, capsys):
    answer = f"{BOX} dog ; nonsense"
    says(answer)
    saved = tmp_path / "new" / "boxes.png"
    predict(["model", str(image), "detect dog", "--save", str(saved)])
    assert capsys.readouterr().out.splitlines() == [
        answer,
        "dog: x 100 to 200, y 25 to 75",
        "not read: 'nonsense', since it does not begin with location tokens",
        f"Image with 1 box: {saved}",
    ]
    drawn = Image.open(saved)
    assert drawn.size == (448, 224)
    assert drawn.getpixel((224, 112)) == ImageColor.getrgb(OBJECT_COLOURS[0])
    assert drawn.getpixel((200, 112)) == (255, 0, 0)


def test_masks_are_read_by_the_codec_drawn_and_saved(image, says, codec, tmp_path, capsys):
    model, folder = codec
    answer = answer_of(model)
    says(answer)
    options = ["--codec", str(folder), "--save", str(tmp_path / "drawn.png"), "--masks", str(tmp_path / "masks")]
    predict(["model", str(image), "segment dog", *options])
    lines = capsys.readouterr().out.splitlines()
    expected = model.read(answer, HEIGHT, WIDTH)
    pixels = expected.masks.sum((1, 2)).tolist()
    assert len(pixels) == 2
    assert min(pixels) > 0
    assert lines[1:5] == [
        f"dog: x 20 to 120, y 10 to 60, mask of {pixels[0]} pixels",
        f"a red cat: x 100 to 180, y 50 to 90, mask of {pixels[1]} pixels",
        "not read: '<loc0001><seg001> bus', since it has 1 location tokens instead of 4",
        "not read: 'nonsense', since it does not begin with location tokens",
    ]
    assert lines[5].startswith("Image with 2 boxes and 2 masks: ")
    for name, mask in zip(("01_dog.png", "02_a_red_cat.png"), expected.masks.numpy()):
        saved = np.asarray(Image.open(tmp_path / "masks" / name))
        assert (saved == 255 * mask).all()
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").resize((WIDTH, HEIGHT), Image.Resampling.NEAREST), int)
    changed = (drawn != (255, 0, 0)).any(-1)
    assert changed[expected.masks[0].numpy() | expected.masks[1].numpy()].all()
    assert not changed[:8].any()


def test_the_drawing_has_a_name_of_its_own(image, says, tmp_path, capsys):
    says(f"{BOX} dog")
    predict(["model", str(image), "detect dog"])
    assert (tmp_path / "here" / "image_answer.png").exists()
    says("a dog")
    predict(["model", str(image.rename(tmp_path / "other.png")), "caption en"])
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["image_answer.png"]
    assert capsys.readouterr().out.splitlines()[-1] == "a dog"


def test_a_codec_at_its_usual_place_is_found(image, says, codec, capsys):
    model, _ = codec
    model.save_pretrained(DEFAULT_CODEC)
    says(answer_of(model))
    predict(["model", str(image), "segment dog"])
    assert "mask of" in capsys.readouterr().out


def test_without_a_codec_boxes_are_drawn_and_the_remedy_is_said(image, says, codec, monkeypatch, capsys):
    monkeypatch.setattr("openpali.data.masks.mask_tokenizer.DEFAULT_CODEC", "outputs/nowhere")
    says(answer_of(codec[0]))
    predict(["model", str(image), "segment dog"])
    out, error = capsys.readouterr()
    assert "dog: x 20 to 120, y 10 to 60\n" in out
    assert "Image with 2 boxes: " in out
    for part in ("outputs/nowhere", "make mask-vqvae", "convert_mask_vqvae vae-oid.npz", "--codec"):
        assert part in error
    with pytest.raises(SystemExit, match="openpali predict: there is no mask codec at outputs/nowhere"):
        predict(["model", str(image), "segment dog", "--masks", "masks"])


def test_a_real_checkpoint_answers(image, tmp_path, capsys):
    model, processor = tiny_pali3()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    predict([str(tmp_path / "model"), str(image), "what is this", "--max_new_tokens", "5", "--device", "cpu"])
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("name", ["missing.png", "broken.png"])
def test_it_says_what_is_wrong_with_a_image(says, tmp_path, name):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=f"openpali predict: .*{name}"):
        predict(["model", str(tmp_path / name)])


def test_a_box_alone_is_the_answer_to_a_referring_expression(image, says, tmp_path, capsys):
    says(BOX)
    predict(["model", str(image), "the dog on the left", "--save", str(tmp_path / "boxes.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [BOX, "no label: x 100 to 200, y 25 to 75", f"Image with 1 box: {tmp_path / 'boxes.png'}"]
    drawn = Image.open(tmp_path / "boxes.png")
    assert ImageColor.getrgb(OBJECT_COLOURS[0]) in {pixel for _, pixel in drawn.getcolors(1 << 20) or ()}


@pytest.mark.parametrize("option", ["--num_beams", "--max_new_tokens"])
@pytest.mark.parametrize("value", ["0", "-3", "some"])
def test_numbers_below_one_are_an_error(image, option, value, capsys):
    with pytest.raises(SystemExit) as stop:
        predict(["model", str(image), "x", option, value])
    assert stop.value.code == 2
    message = f"it is at least 1, not {value}" if value != "some" else "invalid whole number value: 'some'"
    assert f"argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_one_line(image, device):
    with pytest.raises(SystemExit, match=rf"^openpali predict: device {device} cannot be used \(.*\): take \w+, or"):
        predict(["model", str(image), "x", "--device", device])


@pytest.mark.parametrize("target", ["--save", "--masks"])
def test_a_file_where_a_folder_is_wanted_is_one_line(image, codec, says, target):
    model, folder = codec
    says(answer_of(model))
    given = str(image / "out.png") if target == "--save" else str(image)
    with pytest.raises(SystemExit, match=f"^openpali predict: {image} is a file, or lies below one, where a folder"):
        predict(["model", str(image), "segment dog", "--codec", str(folder), target, given])


def with_tokens(text, probability=0.5):
    """An answer of a box and a label, each token of which has this probability."""
    tokens = [f"{part}>" for part in BOX.split(">")[:4]] + text.removeprefix(BOX).split()
    return Answer(text, [Token(token, math.log(probability)) for token in tokens])


@pytest.fixture
def photos(image, tmp_path):
    """A folder with two images of one name, two that cannot be read, and one more."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("1.png", "more/1.jpg", "more/2.png"):
        Image.open(image).save(folder / name)
    (folder / "1_broken.png").write_bytes(b"no image")
    (folder / "2_empty.png").write_bytes(b"")
    return folder


def test_a_box_has_its_confidence(image, says, capsys):
    says(with_tokens(f"{BOX} dog"))
    predict(["model", str(image), "detect dog"])
    assert capsys.readouterr().out.splitlines()[1] == "dog: x 100 to 200, y 25 to 75, confidence 0.25"


def test_a_folder_is_answered_but_for_what_cannot_be_read(photos, says, tmp_path, capsys):
    says(with_tokens(f"{BOX} dog"))
    saved = tmp_path / "drawn"
    with pytest.raises(SystemExit) as stop:
        predict(["model", str(photos), "detect dog", "--save", str(saved), "--batch_size", "2"])
    assert stop.value.code == "openpali predict: 2 of 5 images could not be read; all others are answered"
    out, error = capsys.readouterr()
    names = {"1.png": "1_answer.png", "more/1.jpg": "1_answer_2.png", "more/2.png": "2_answer.png"}
    assert out.splitlines() == [
        line
        for name, drawing in names.items()
        for line in (
            f"{photos / name}: detect dog",
            f"  {BOX} dog",
            "  dog: x 100 to 200, y 25 to 75, confidence 0.25",
            f"  Image with 1 box: {saved / drawing}",
        )
    ]
    assert {path.name for path in saved.iterdir()} == set(names.values())
    assert error.count("\n") == 2
    assert f"openpali predict: skipped, {photos / '1_broken.png'} is not an image" in error
    assert f"openpali predict: skipped, {photos / '2_empty.png'} is not an image" in error


def test_several_answers_are_drawn_only_where_that_is_asked_for(photos, says, capsys):
    says(f"{BOX} dog")
    predict(["model", str(photos / "more"), "detect dog"])
    assert "Image with" not in capsys.readouterr().out
    assert list(Path().iterdir()) == []
    with pytest.raises(SystemExit, match=r"^openpali predict: --save a.png is one file, and there are 2 answers: "):
        predict(["model", str(photos / "more"), "detect dog", "--save", "a.png"])
    path = str(photos / "1.png")
    with pytest.raises(SystemExit, match="would replace the image itself"):
        predict(["model", path, "detect dog", "--save", path])


def test_json_has_boxes_in_pixels_confidences_and_masks(image, says, codec, tmp_path, capsys):
    model, folder = codec
    says(answer_of(model))
    predict(["model", str(image), "segment dog", "--json", "--codec", str(folder)])
    row = json.loads(capsys.readouterr().out)
    masks = model.read(answer_of(model), HEIGHT, WIDTH).masks.numpy()
    assert {key: row[key] for key in ("image", "width", "height", "prompt", "answer", "drawing")} == {
        "image": str(image),
        "width": WIDTH,
        "height": HEIGHT,
        "prompt": "segment dog",
        "answer": answer_of(model),
        "drawing": None,
    }
    assert [one["label"] for one in row["boxes"]] == ["dog", "a red cat"]
    # a location token is a thousandth of a side
    np.testing.assert_allclose(row["boxes"][0]["box"], [20, 10, 120, 60], atol=0.2)
    for one, mask in zip(row["boxes"], masks, strict=True):
        assert (decode_rle(one["mask"]) == mask).all()
    assert [one["text"] for one in row["not_read"]] == ["<loc0001><seg001> bus", "nonsense"]
    says(with_tokens(f"{BOX} dög"))
    predict(["model", str(image), "x", "--json", "--save", "found"])
    row = json.loads(capsys.readouterr().out)
    assert row["boxes"] == [{"box": [100.1, 25.0, 200.0, 75.1], "label": "dög", "confidence": 0.25, "mask": None}]
    assert Image.open(row["drawing"]).size == (448, 224)
    assert list(Path("found").iterdir()) == [Path("found/image_answer.png")]


def test_masks_of_several_answers_have_folders(photos, says, codec):
    model, folder = codec
    says(answer_of(model))
    predict(["model", str(photos / "more"), "segment dog", "--codec", str(folder), "--masks", "masks"])
    written = sorted(str(path) for path in Path("masks").glob("*/*"))
    assert written == [f"masks/{i}_answer/{name}.png" for i in (1, 2) for name in ("01_dog", "02_a_red_cat")]


def test_a_list_of_images_and_several_prompts_on_a_real_checkpoint(
    photos, tiny_tokenizer, tmp_path, monkeypatch, capsys
):
    folder = str(save_checkpoint("pali3", tiny_tokenizer, tmp_path / "model"))
    options = ["--device", "cpu", "--max_new_tokens", "4", "--json"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / '1.png'}\n{photos / 'more'}\n"))
    predict([folder, "-", "--prompt", "detect dog", "--prompt", "caption en", *options])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [str(photos / name) for name in ("1.png", "more/1.jpg", "more/2.png")]
    pairs = [(name, prompt) for name in names for prompt in ("detect dog", "caption en")]
    assert [(row["image"], row["prompt"]) for row in rows] == pairs
    predict([folder, names[1], "caption en", *options])
    assert json.loads(capsys.readouterr().out) == rows[3]


def test_options_may_stand_between_image_and_prompt(image, says, capsys):
    says("a dog")
    predict(["model", str(image), "--num_beams", "2", "caption en"])
    assert capsys.readouterr().out == "a dog\n"


def test_an_interrupt_keeps_what_was_printed(photos, monkeypatch, capsys):
    monkeypatch.setattr("openpali.eval.predict.load_model", lambda *_, **__: (None, None))
    calls = []

    def answers(model, processor, examples, *_, **__):
        calls.append(examples)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [(index, Answer("a dog")) for index in range(len(examples))]

    monkeypatch.setattr("openpali.eval.predicting.answers.generate_answers", answers)
    with pytest.raises(SystemExit) as stop:
        predict(["model", str(photos / "more"), "caption en", "--batch_size", "1"])
    assert stop.value.code == 130
    out, error = capsys.readouterr()
    assert out == f"{photos / 'more' / '1.jpg'}: caption en\n  a dog\n"
    assert error == "openpali predict: interrupted\n"


def test_where_no_image_can_be_read_no_model_is_loaded(photos, capsys):
    (photos / "more").rename(photos.parent / "elsewhere")
    (photos / "1.png").unlink()
    with pytest.raises(SystemExit, match="^openpali predict: none of the 2 images can be read$"):
        predict(["no/such/model", str(photos), "caption en"])
