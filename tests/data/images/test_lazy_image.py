import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from openpali.data.images.lazy_image import KnownPicture, PictureFiles, picture_key
from openpali.data.images.open_image import BadImage, load_image, remembered
from openpali.data.images.preprocess import pixels


@pytest.fixture
def photo(tmp_path):
    """A JPEG that lies on its side, as EXIF says."""
    path = tmp_path / "photo.jpg"
    values = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    image = Image.fromarray(values).resize((400, 300))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


@pytest.fixture
def known(photo, tmp_path):
    """The picture as one who saw it before gets it."""
    files = PictureFiles(tmp_path / "cache" / "pictures.jsonl")
    with remembered(files):
        load_image(photo)
    with remembered(PictureFiles(files.path)):
        picture = load_image(photo)
    assert isinstance(picture, KnownPicture)
    return picture


LOOKS = {
    "array": np.asarray,
    "resize": lambda picture: np.asarray(picture.resize((20, 30))),
    "crop": lambda picture: np.asarray(picture.crop((5, 6, 50, 60))),
    "convert": lambda picture: np.asarray(picture.convert("L")),
    "copy": lambda picture: np.asarray(picture.copy()),
    "arrow": lambda picture: pixels(picture)[:3].numpy(),
    "transpose": lambda picture: np.asarray(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "paste": lambda picture: np.asarray(pasted(picture)),
    "pixel": lambda picture: np.asarray(picture.getpixel((7, 8))),
    "bytes": lambda picture: np.frombuffer(picture.tobytes(), np.uint8),
}


def pasted(picture):
    page = Image.new("RGB", (500, 500))
    page.paste(picture, (3, 4))
    return page


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_at_its_pixels_sees_those_of_the_file(known, photo, look):
    expected = load_image(photo)
    assert (known.size, known.mode, known.width) == (expected.size, "RGB", 300)
    assert not known.decoded
    assert np.array_equal(LOOKS[look](known), LOOKS[look](expected))
    assert known.decoded


def test_its_key_is_that_of_the_pixels_also_after_drawing(known, photo):
    assert picture_key(known) == picture_key(load_image(photo))
    assert not known.decoded
    ImageDraw.Draw(known).rectangle((10, 10, 40, 40), outline="red")
    drawn = load_image(photo)
    ImageDraw.Draw(drawn).rectangle((10, 10, 40, 40), outline="red")
    assert picture_key(known) == picture_key(drawn) != picture_key(load_image(photo))


def test_it_can_be_looked_at_while_files_are_remembered(known, photo, tmp_path):
    with remembered(PictureFiles(tmp_path / "cache" / "pictures.jsonl")):
        assert np.array_equal(np.asarray(load_image(photo)), np.asarray(known))


def test_pictures_of_other_size_mode_or_pixels_have_other_keys():
    one = Image.fromarray(torch.arange(96, dtype=torch.uint8).reshape(4, 8, 3).numpy())
    others = [Image.frombytes("RGB", (4, 8), one.tobytes()), Image.frombytes("L", (12, 8), one.tobytes()), one.copy()]
    others[2].putpixel((7, 3), (0, 0, 0))
    assert len({picture_key(picture) for picture in (one, *others)}) == 4
    assert picture_key(one.copy()) == picture_key(one)


def test_a_changed_file_another_decode_size_and_a_torn_line_are_not_known(photo, tmp_path):
    path = tmp_path / "pictures.jsonl"
    with remembered(PictureFiles(path)):
        load_image(photo)
        load_image(photo, 50)
    path.write_text(path.read_text()[:-5])
    again = PictureFiles(path)
    with remembered(again):
        assert isinstance(load_image(photo), KnownPicture)
        assert not isinstance(load_image(photo, 50), KnownPicture)
    with remembered(PictureFiles(path)):
        assert isinstance(load_image(photo, 50), KnownPicture)
        stat = photo.stat()
        os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert not isinstance(load_image(photo), KnownPicture)
        assert not isinstance(load_image(photo.read_bytes()), KnownPicture)
    assert not isinstance(load_image(photo), KnownPicture)


def test_what_is_wrong_with_a_file_is_said_as_ever(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with remembered(PictureFiles(tmp_path / "pictures.jsonl")):
        with pytest.raises(BadImage, match="does not exist"):
            load_image(tmp_path / "none.png")
        for _ in range(2):
            with pytest.raises(BadImage, match="not a picture that can be read"):
                load_image(tmp_path / "text.png")
