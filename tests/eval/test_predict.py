import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from tiny_mask_vqvae import tiny
from tiny_models import tiny_pali3

from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC
from openpali.eval.answering.decoding import Answer
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
            return ((index, Answer(answer)) for index in range(len(examples)))

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
    monkeypatch.setattr("openpali.eval.predicting.objects.DEFAULT_CODEC", "outputs/nowhere")
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
