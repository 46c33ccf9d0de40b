import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from openpali.data.images.lazy_image import ImageFiles, LazyImage, image_key
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
    """The image as one who saw it before gets it."""
    files = ImageFiles(tmp_path / "cache" / "pictures.jsonl")
    with remembered(files):
        load_image(photo)
    with remembered(ImageFiles(files.path)):
        image = load_image(photo)
    assert isinstance(image, LazyImage)
    return image


LOOKS = {
    "array": np.asarray,
    "resize": lambda image: np.asarray(image.resize((20, 30))),
    "crop": lambda image: np.asarray(image.crop((5, 6, 50, 60))),
    "convert": lambda image: np.asarray(image.convert("L")),
    "copy": lambda image: np.asarray(image.copy()),
    "arrow": lambda image: pixels(image)[:3].numpy(),
    "transpose": lambda image: np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "paste": lambda image: np.asarray(pasted(image)),
    "pixel": lambda image: np.asarray(image.getpixel((7, 8))),
    "bytes": lambda image: np.frombuffer(image.tobytes(), np.uint8),
}


def pasted(image):
    page = Image.new("RGB", (500, 500))
    page.paste(image, (3, 4))
    return page


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_at_its_pixels_sees_those_of_the_file(known, photo, look):
    expected = load_image(photo)
    assert (known.size, known.mode, known.width) == (expected.size, "RGB", 300)
    assert not known.decoded
    assert np.array_equal(LOOKS[look](known), LOOKS[look](expected))
    assert known.decoded


def test_its_key_is_that_of_the_pixels_also_after_drawing(known, photo):
    assert image_key(known) == image_key(load_image(photo))
    assert not known.decoded
    ImageDraw.Draw(known).rectangle((10, 10, 40, 40), outline="red")
    drawn = load_image(photo)
    ImageDraw.Draw(drawn).rectangle((10, 10, 40, 40), outline="red")
    assert image_key(known) == image_key(drawn) != image_key(load_image(photo))


def test_it_can_be_looked_at_while_files_are_remembered(known, photo, tmp_path):
    with remembered(ImageFiles(tmp_path / "cache" / "pictures.jsonl")):
        assert np.array_equal(np.asarray(load_image(photo)), np.asarray(known))


def test_images_of_other_size_mode_or_pixels_have_other_keys():
    one = Image.fromarray(torch.arange(96, dtype=torch.uint8).reshape(4, 8, 3).numpy())
    others = [Image.frombytes("RGB", (4, 8), one.tobytes()), Image.frombytes("L", (12, 8), one.tobytes()), one.copy()]
    others[2].putpixel((7, 3), (0, 0, 0))
    assert len({image_key(image) for image in (one, *others)}) == 4
    assert image_key(one.copy()) == image_key(one)


def test_a_changed_file_another_decode_size_and_a_torn_line_are_not_known(photo, tmp_path):
    path = tmp_path / "pictures.jsonl"
    with remembered(ImageFiles(path)):
        load_image(photo)
        load_image(photo, 50)
    path.write_text(path.read_text()[:-5])
    again = ImageFiles(path)
    with remembered(again):
        assert isinstance(load_image(photo), LazyImage)
        assert not isinstance(load_image(photo, 50), LazyImage)
    with remembered(ImageFiles(path)):
        assert isinstance(load_image(photo, 50), LazyImage)
        stat = photo.stat()
        os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert not isinstance(load_image(photo), LazyImage)
        assert not isinstance(load_image(photo.read_bytes()), LazyImage)
    assert not isinstance(load_image(photo), LazyImage)


def test_what_is_wrong_with_a_file_is_said_as_ever(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with remembered(ImageFiles(tmp_path / "pictures.jsonl")):
        with pytest.raises(BadImage, match="does not exist"):
            load_image(tmp_path / "none.png")
        for _ in range(2):
            with pytest.raises(BadImage, match="not an image that can be read"):
                load_image(tmp_path / "text.png")
