"""ImageFolder that look wrong as a whole: black ones, and those that EXIF turns from under their annotations."""

from collections.abc import Iterator
from itertools import chain

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import Row, read_box
from openpali.data.files.annotations import BadValue
from openpali.data.images.orientation import UPRIGHT, turned_size
from openpali.recipes.custom_data.record_checks import Finding

BLACK, HALF = 16, 0.5  # grey of 255 that no pixel of a black image reaches, and the share that is no accident
_FRAMES = {"upright": "upright", "stored": "as they are stored"}


def plain_images(found: CustomDataset) -> Iterator[Finding]:
    """ImageFolder that are black or of one colour, among those that were decoded."""
    looked = [(row, *row.levels) for row in chain(*found.good.values()) if row.levels]
    black = [row for row, _, bright in looked if bright < BLACK]
    flat = [row for row, dark, bright in looked if bright >= BLACK and bright - dark <= 1]
    remedy = "Are their values of 12 bits, or shares of 1? Save them with 8 bits."
    for rows, check, what, advice in (
        (black, "black_images", f"are black: no pixel is brighter than {BLACK - 1} of 255", remedy),
        (flat, "flat_images", "are of one colour", "Look at them."),
    ):
        if rows:
            level = "error" if rows is black and len(rows) > HALF * len(looked) else "warning"
            where = f"The first: {rows[0].file}:{rows[0].record}"
            text = f"{len(rows)} of {len(looked)} images that were looked at {what}. {where}. {advice}"
            yield Finding(level, check, text, len(rows))


def frames(found: CustomDataset) -> Iterator[Finding]:
    """Whether annotations are for images as EXIF turns them, or as they are stored."""
    turned = [row for row in chain(*found.rows.values()) if row.turn != UPRIGHT and row.size and row.objects]
    mine = [row for row in turned if _tells(row, found) is True]
    other = [row for row in turned if _tells(row, found) is False]
    taken = found.spec.orientation
    wanted = "stored" if taken == "upright" else "upright"
    if other and not mine:
        where = f"{other[0].file}:{other[0].record}"
        text = f"EXIF turns {len(turned)} images, and annotations are for them {_FRAMES[wanted]}, as {where} shows"
        yield Finding("error", "orientation", f"{text}. Give --orientation {wanted}.", len(turned))
    elif other:
        places = " and ".join(f"{rows[0].file}:{rows[0].record}" for rows in (mine, other))
        text = f"EXIF turns {len(turned)} images, of which {len(mine)} are annotated {_FRAMES[taken]}"
        text += f" and {len(other)} {_FRAMES[wanted]}: {places}"
        yield Finding("error", "orientation", f"{text}. Save all upright, without EXIF, and annotate them so.")
    elif turned and not mine and taken == "upright":
        text = f"EXIF turns {len(turned)} images, the first {turned[0].file}:{turned[0].record}, and nothing says"
        text += " whether they were annotated upright or as they are stored. They are taken to be upright"
        yield Finding("warning", "orientation", f"{text}; --orientation stored says otherwise.", len(turned))


def _tells(row: Row, found: CustomDataset) -> bool | None:
    """True where an image's annotations are for the frame in which they are read, False for the other; else None."""
    assert row.size is not None
    here, there = row.size, turned_size(row.size, row.turn)
    if here == there:
        return None
    if row.declared in (here, there):
        return row.declared == here
    fits = [all(_fits(item.box, found.spec.box_format, size) for item in row.objects) for size in (here, there)]
    return None if fits[0] == fits[1] else fits[0]


def _fits(box: object, form: str, size: tuple[int, int]) -> bool:
    try:
        read_box(box, form, size)
    except BadValue:
        return False
    return True
