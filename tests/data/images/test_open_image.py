import numpy as np
import pytest
from image_bytes import encoded, png_header
from PIL import Image, TiffImagePlugin

from openpali.data.images.open_image import MAX_PIXELS, BadImage, image_size, load_image


@pytest.fixture
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def test_every_kind_of_source_gives_the_same_pixels(noise, tmp_path):
    noise.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), encoded(noise), noise, np.asarray(noise)]
    for source in sources:
        image = load_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(noise))
        assert image_size(source) == (60, 40)


def test_exif_orientation_is_applied():
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, 8:] = 255
    sideways = Image.fromarray(np.rot90(upright))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(encoded(sideways, exif=exif))
    np.testing.assert_array_equal(np.asarray(image), upright)


def test_transparency_becomes_white_and_16_bit_grey_keeps_its_range():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert load_image(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = 0
    assert load_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    grey = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    assert load_image(encoded(grey)).getpixel((3, 3)) == (100, 100, 100)


def test_modes_that_are_not_rgb(noise):
    for mode in ("L", "CMYK", "1", "LA", "YCbCr"):
        assert load_image(noise.convert(mode)).mode == "RGB"
    assert load_image(np.full((8, 8, 1), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


def test_a_truncated_jpeg(noise, tmp_path):
    data = encoded(noise, "JPEG")
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "half.jpg") == (60, 40)
    with pytest.raises(BadImage, match=r"half\.jpg is truncated.*Copy it again"):
        load_image(tmp_path / "half.jpg")


@pytest.mark.parametrize("check", [load_image, image_size])
def test_sizes_are_refused_from_the_header(check, monkeypatch, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "huge.png").write_bytes(png_header(30_000, 30_000))
    # just above our limit Pillow itself only warns
    (tmp_path / "large.png").write_bytes(png_header(10_000, 9_000))
    assert MAX_PIXELS < 10_000 * 9_000
    # decoding would fail the test, not the machine
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before its size was checked"))
    with pytest.raises(BadImage, match=r"dot\.png is 1x1 pixels, too small.*at least 4"):
        check(tmp_path / "dot.png")
    with pytest.raises(BadImage, match=r"huge\.png is too large.*smaller copy"):
        check(tmp_path / "huge.png")
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImage, match=r"too large \(10000x9000 pixels"):
        check(tmp_path / "large.png")


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, reason in [
        ("text.png", "not an image that can be read: unknown format"),
        ("empty.png", "not an image that can be read"),
        ("none.png", "does not exist"),
        (".", "is not a file"),
    ]:
        with pytest.raises(BadImage, match=reason):
            load_image(tmp_path / name)
    with pytest.raises(BadImage, match="address on the web; download"):
        load_image("https://example.org/a.png")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(BadImage, match="an array of"):
        load_image(array)


def shares(low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """float32[8, 32] that rises by equal steps."""
    return np.linspace(low, high, 256, dtype=np.float32).reshape(8, 32)


STEPS = np.arange(256, dtype=np.uint8).reshape(8, 32)


@pytest.mark.parametrize(
    ("values", "kind", "tags"),
    [
        (shares(), "TIFF", {}),
        (shares(0, 255), "TIFF", {}),
        (shares(-10, 500), "TIFF", {340: -10.0, 341: 500.0}),
        (STEPS.astype(np.int32), "TIFF", {}),
        (257 * STEPS.astype(np.int32), "TIFF", {}),
        (100_000 * STEPS.astype(np.int32), "TIFF", {341: 25_500_000, 340: 0}),
        (257 * STEPS.astype(np.uint16), "TIFF", {}),
        (16 * STEPS.astype(np.uint16), "TIFF", {280: 0, 281: 255 * 16}),
        (257 * STEPS.astype(np.uint16), "PNG", {}),
        (257 * STEPS.astype(np.uint16), "PPM", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_grey_of_more_than_8_bits_keeps_its_range(values, kind, tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info.tagtype[tag] = {float: 11, int: 4 if tag in (340, 341) else 3}[type(value)]
        info[tag] = value
    image = load_image(encoded(Image.fromarray(values), kind, **({"tiffinfo": info} if tags else {})))
    np.testing.assert_array_equal(np.asarray(image)[:, :, 0], STEPS)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (shares(0, 70_000), "floating-point numbers from 0 to 70000"),
        (shares(-1, 1), "floating-point numbers from -1 to 1"),
        (np.full((8, 8), np.nan, np.float32), "some of which are not finite"),
        (np.full((8, 8), 70_000, np.int32), "whole numbers of 32 bits from 70000 to 70000"),
        (np.full((8, 8), -1, np.int32), "from -1 to -1"),
    ],
)
def test_values_of_which_nobody_knows_the_range_are_refused(values, reason, tmp_path):
    (tmp_path / "a.tif").write_bytes(encoded(Image.fromarray(values), "TIFF"))
    with pytest.raises(BadImage, match=r"a\.tif cannot be used.*save it with 8 or 16 bits") as error:
        load_image(tmp_path / "a.tif")
    assert reason in str(error.value)


def test_wide_grey_is_turned_as_well():
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x112], info[341], info[340] = 6, 510, 0
    info.tagtype[341] = info.tagtype[340] = 4
    content = encoded(Image.fromarray(2 * STEPS.astype(np.int32)), "TIFF", tiffinfo=info)
    np.testing.assert_array_equal(np.asarray(load_image(content))[:, :, 0], np.rot90(STEPS, -1))


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (encoded(Image.new("RGB", (9, 9)))[:10], "begins as PNG and is damaged. Copy it again"),
        (b"\xff\xd8\xff\xe0 no more", "Copy it again from its origin"),
        (b"", "it is empty. Copy it again"),
        (b"<!DOCTYPE html><p>404", "perhaps an error page of a server. Download the image again"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"hello", "unknown format. Convert it to PNG or JPEG"),
    ],
)
def test_the_remedy_fits_what_the_file_holds(content, remedy, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", content):
        with pytest.raises(BadImage) as error:
            load_image(source)
        assert remedy in str(error.value)
