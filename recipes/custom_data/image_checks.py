"""Images of custom data that look wrong as a whole: black ones, and those whose EXIF orientation misfits."""

from collections.abc import Iterator
from itertools import chain

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import Row, read_box
from openpali.data.files.annotations import BadValue
from openpali.data.images.orientation import UPRIGHT, turned_size
from openpali.recipes.custom_data.finding import Finding, place

# grey level of 255 below which an image is black, and the share of black images that is an error
BLACK, HALF = 16, 0.5
_FRAMES = {"upright": "upright", "stored": "as they are stored"}


def uniform_images(data: CustomDataset) -> Iterator[Finding]:
    """Black images and images of one colour, among the decoded ones."""
    decoded = [(row, *row.levels) for row in chain(*data.good.values()) if row.levels]
    black = [row for row, _, bright in decoded if bright < BLACK]
    flat = [row for row, dark, bright in decoded if bright >= BLACK and bright - dark <= 1]
    remedy = "If their values have 12 bits or range from 0 to 1, save them with 8 bits."
    for rows, check, what, advice in (
        (black, "black_images", f"are black: no pixel is brighter than {BLACK - 1} of 255", remedy),
        (flat, "flat_images", "are of one colour", "Look at them."),
    ):
        if rows:
            level = "error" if rows is black and len(rows) > HALF * len(decoded) else "warning"
            text = f"{len(rows)} of {len(decoded)} decoded images {what}. The first: {place(rows[0])}. {advice}"
            yield Finding(level, check, text, len(rows))


def orientation(data: CustomDataset) -> Iterator[Finding]:
    """Images that EXIF turns while their annotations are for the other orientation, or may be."""
    turned = [row for row in chain(*data.rows.values()) if row.turn != UPRIGHT and row.size and row.objects]
    matching = [row for row in turned if _frame_matches(row, data) is True]
    opposite = [row for row in turned if _frame_matches(row, data) is False]
    frame = data.spec.orientation
    other = "stored" if frame == "upright" else "upright"
    if opposite and not matching:
        text = f"EXIF turns {len(turned)} images, and annotations are for them {_FRAMES[other]}, as"
        text += f" {place(opposite[0])} shows. Give --orientation {other}."
        yield Finding("error", "orientation", text, len(turned))
    elif opposite:
        places = " and ".join(place(rows[0]) for rows in (matching, opposite))
        text = f"EXIF turns {len(turned)} images, of which {len(matching)} are annotated {_FRAMES[frame]}"
        text += f" and {len(opposite)} {_FRAMES[other]}: {places}"
        yield Finding("error", "orientation", f"{text}. Save all upright, without EXIF, and annotate them so.")
    elif turned and not matching and frame == "upright":
        text = f"EXIF turns {len(turned)} images, the first {place(turned[0])}. Whether they were annotated upright or"
        text += " as they are stored is unknown; upright is assumed. If it is wrong, give --orientation stored."
        yield Finding("warning", "orientation", text, len(turned))


def _frame_matches(row: Row, data: CustomDataset) -> bool | None:
    """Whether an image's annotations are for the orientation in which they are read; None if unknown."""
    assert row.size is not None
    if row.shares:
        return None
    size, turned = row.size, turned_size(row.size, row.turn)
    if size == turned:
        return None
    if row.declared in (size, turned):
        return row.declared == size
    fits = [all(_fits(item.box, data.spec.box_format, one) for item in row.objects) for one in (size, turned)]
    return None if fits[0] == fits[1] else fits[0]


def _fits(box: object, form: str, size: tuple[int, int]) -> bool:
    """Whether a box lies in an image of a size."""
    try:
        read_box(box, form, size)
    except BadValue:
        return False
    return True
