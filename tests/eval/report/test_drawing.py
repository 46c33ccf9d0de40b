from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw
from pycocotools import mask as coco

from openpali.eval.report.box_labels import Labels, ink_on, shared
from openpali.eval.report.drawing import (
    OBJECT_COLOURS,
    PREDICTED_COLOUR,
    TINT,
    TRUE_COLOUR,
    contour,
    draw_comparison,
    draw_predictions,
)

# what is left of linear red, green and blue without one kind of cone (Machado, Oliveira and Fernandes 2009)
WITHOUT = {
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def colour_of(name):
    return np.array(ImageColor.getrgb(name))


def painted(canvas, colour):
    """Rows and columns of the pixels of exactly that colour."""
    return np.nonzero((np.asarray(canvas) == colour_of(colour)).all(-1))


def thing(mask, label=""):
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    box = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    return {"box": box, "label": label, "mask": {"size": [height, width], "counts": counts}}


def disc(side=64, radius=20, x=32, y=32):
    rows, columns = np.mgrid[:side, :side]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


@pytest.mark.parametrize(("true", "colour"), [(True, TRUE_COLOUR), (False, PREDICTED_COLOUR)])
def test_boxes_are_drawn_where_they_are(true, colour):
    image = Image.new("RGB", (100, 50), "black")
    boxes = [{"box": [0.25, 0.2, 0.75, 0.8], "label": ""}]
    canvas = draw_comparison(image, boxes if true else [], [] if true else boxes, width=100)
    rows, columns = painted(canvas, colour)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (25, 74, 10, 39)
    drawn = np.asarray(canvas)
    assert not drawn[12:38, 27:73].any()
    assert not drawn[:8].any()
    assert not np.asarray(image).any()


def test_true_boxes_are_dashed():
    """So that they differ where colours do not."""
    boxes = [{"box": [0.1, 0.1, 0.9, 0.9], "label": ""}]
    image = Image.new("RGB", (200, 200), "black")
    solid = len(painted(draw_comparison(image, [], boxes, width=200), PREDICTED_COLOUR)[0])
    dashed = len(painted(draw_comparison(image, boxes, [], width=200), TRUE_COLOUR)[0])
    assert solid == 4 * 2 * 160 - 16
    assert 0.4 < dashed / solid < 0.6


def test_masks_are_translucent_with_a_contour():
    mask = disc(200, 60, 100, 100)
    image = Image.new("RGB", (200, 200), (40, 80, 120))
    drawn = np.asarray(draw_comparison(image, [], [thing(mask)], width=200)).astype(int)
    edge = contour(mask, 2)
    assert (drawn[edge] == colour_of(PREDICTED_COLOUR)).all()
    inside = mask & ~contour(mask, 4)
    expected = (1 - TINT) * np.array([40, 80, 120]) + TINT * colour_of(PREDICTED_COLOUR)
    assert np.abs(drawn[inside] - expected).max() <= 1
    # beyond the frame and the halo around it nothing changes
    outside = np.ones((200, 200), bool)
    outside[38:162, 38:162] = False
    assert (drawn[outside] == (40, 80, 120)).all()


def test_a_contour_is_what_erosion_takes_away():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    expected = mask.copy()
    expected[3:6, 3:6] = False
    assert (contour(mask, 2) == expected).all()
    everything = np.ones((5, 5), bool)
    assert contour(everything, 1).sum() == 16


def test_a_mask_without_pixels_is_no_mask():
    box, nothing = {"box": [0.2, 0.2, 0.8, 0.8], "label": "dog"}, np.zeros((64, 64), bool)
    mask = {"size": [64, 64], "counts": coco.encode(np.asfortranarray(nothing.astype(np.uint8)))["counts"].decode()}
    image = Image.new("RGB", (64, 64))
    drawn = draw_comparison(image, [], [box | {"mask": mask}])
    rows, columns = painted(drawn, PREDICTED_COLOUR)
    assert (columns.min(), rows.min()) == (90, 90)
    assert not np.asarray(drawn)[100:340, 100:340].any()


def test_small_masks_are_enlarged_pixel_by_pixel():
    mask = disc()
    drawn = np.asarray(draw_comparison(Image.new("RGB", (64, 64)), [], [thing(mask)]))
    assert drawn.shape == (448, 448, 3)
    inside = mask & ~contour(mask, 1)
    for row, column in ((32, 32), tuple(np.argwhere(inside)[0]), tuple(np.argwhere(inside)[-1])):
        block = drawn[7 * row + 3, 7 * column + 3]
        assert np.abs(block - TINT * colour_of(PREDICTED_COLOUR)).max() <= 1


def test_boxes_beyond_the_edge_stay_inside():
    predicted = [{"box": [-1.0, -1.0, 2.0, 2.0], "label": "a rather long label for a small image" * 3}]
    drawn = draw_comparison(Image.new("RGB", (32, 16)), [], predicted, width=320)
    assert drawn.size == (320, 160)
    assert [drawn.getpixel(xy) for xy in ((0, 0), (319, 0), (319, 100))] == [tuple(colour_of(PREDICTED_COLOUR))] * 3


@pytest.mark.parametrize("side", [64, 224, 896])
def test_sizes(side):
    """Larger images keep their size unless they are to be reduced, and lines grow with them."""
    image, boxes = Image.new("RGB", (side, side)), [{"box": [0.25, 0.25, 0.75, 0.75], "label": ""}]
    drawn = draw_comparison(image, [], boxes)
    assert drawn.size == (max(side, 448),) * 2
    middle = np.asarray(drawn)[drawn.height // 2]
    line = (middle == colour_of(PREDICTED_COLOUR)).all(-1).sum() / 2
    assert 0.005 < line / drawn.width < 0.01
    assert draw_comparison(image, [], boxes, longest=100).size == (100, 100)


def test_found_objects_have_colours_of_their_own():
    found = [thing(disc(64, 8, 12 + 20 * (i % 3), 12 + 19 * (i // 3)), "") for i in range(7)]
    drawn = draw_predictions(Image.new("RGB", (64, 64), "grey"), found[:6])
    for colour, one in zip(OBJECT_COLOURS, found):
        rows, columns = painted(drawn, colour)
        box = [columns.min() / 448, rows.min() / 448, (columns.max() + 1) / 448, (rows.max() + 1) / 448]
        assert box == pytest.approx(one["box"])
    assert np.asarray(draw_predictions(Image.new("RGB", (64, 64)), found)).any()


@pytest.mark.parametrize("missing", WITHOUT)
def test_colours_differ_to_the_colour_blind(missing):
    def seen(name):
        linear = (colour_of(name) / 255) ** 2.2
        return (np.array(WITHOUT[missing]) @ linear).clip(0, 1) ** (1 / 2.2)

    assert np.abs(seen(TRUE_COLOUR) - seen(PREDICTED_COLOUR)).sum() > 0.8
    for one, other in combinations(OBJECT_COLOURS, 2):
        assert np.abs(seen(one) - seen(other)).sum() > 0.5, (one, other)


@pytest.mark.parametrize("colour", [TRUE_COLOUR, *OBJECT_COLOURS])
def test_labels_can_be_read(colour):
    """The contrast of WCAG's level AA."""

    def luminance(name):
        values = colour_of(name) / 255
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [
            0.2126,
            0.7152,
            0.0722,
        ]

    dark, light = sorted([luminance(colour), luminance(ink_on(colour))])
    assert (light + 0.05) / (dark + 0.05) > 4.5


def test_labels_are_inside_and_not_over_each_other():
    """Boxes at random, and many in one corner."""
    rng = np.random.default_rng(0)
    scattered = [(int(x), int(y), int(x) + 60, int(y) + 40) for x, y in rng.uniform(0, 380, (12, 2))]
    for boxes in (scattered, [(0, 0, 50, 50)] * 8, [(400, 400, 447, 447)] * 8):
        labels = Labels((448, 448), 18)
        draw = ImageDraw.Draw(Image.new("RGB", (448, 448)))
        for i, box in enumerate(boxes):
            labels.draw(draw, "alarm clock", box, "#ff0000", above=i % 2 == 0)
        assert len(labels.taken) == len(boxes)
        assert all(min(x0, y0) >= 0 and max(x1, y1) <= 448 for x0, y0, x1, y1 in labels.taken)
        assert not any(shared(one, other) for one, other in combinations(labels.taken, 2))


def test_labels_of_true_boxes_are_above_and_of_predicted_ones_below():
    labels, draw = Labels((448, 448), 18), ImageDraw.Draw(Image.new("RGB", (448, 448)))
    for above in (True, False):
        labels.draw(draw, "dog", (100, 200, 300, 299), "#ff0000", above)
    (left, _, _, bottom), (other, top, _, _) = labels.taken
    assert (left, bottom, other, top) == (100, 200, 100, 300)


def test_a_label_in_another_script_is_left_out_rather_than_garbled():
    boxes = [{"box": [0.2, 0.5, 0.8, 0.9], "label": label} for label in ("", "猫", "cat")]
    none, other, latin = (draw_predictions(Image.new("RGB", (320, 320)), [one]).tobytes() for one in boxes)
    assert none == other
    assert none != latin
