import math

import pytest

from openpali.eval.scoring.boxes import box_ious, check_box, fold_label


def test_ious_of_every_pair_and_of_empty_boxes():
    found, true = [[0, 0, 2, 2], [1, 1, 1, 1]], [[0, 0, 2, 1], [1, 1, 3, 3], [1, 1, 1, 1]]
    assert box_ious(found, true).tolist() == [[0.5, 1 / 7, 0.0], [0.0, 0.0, 0.0]]
    assert box_ious([], true).shape == (0, 3)
    assert box_ious(found, []).shape == (2, 0)


def test_a_box_turned_inside_out_is_empty():
    assert box_ious([[2, 0, 0, 2]], [[0, 0, 2, 2]]).tolist() == [[0.0]]


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, 1, math.nan]])
def test_a_malformed_box_is_named(box):
    with pytest.raises(ValueError, match="prediction 3: a box is four finite numbers"):
        check_box(box, "prediction 3")


def test_labels_are_folded():
    assert [fold_label(label) for label in (" Dog ", None)] == ["dog", ""]
