import hashlib
import pickle
import random
import zipfile

import numpy as np
import pytest
from emoji36_set import HELD_OUT, INK, SEEN, png, write_set
from PIL import Image
from torch.utils.data import DataLoader

from openpali.data.sources import load_source
from openpali.data.sources.builtin import emoji36 as module
from openpali.data.sources.builtin.emoji36 import Emoji36, turned
from openpali.data.sources.builtin.emoji36_folder import LANGUAGES, STYLES, concept_order, concept_split
from openpali.data.sources.builtin.placement import grid_position
from openpali.data.tasks import load_task

MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("emoji36") / "set")


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(module, "background", lambda size, rng: Image.new("RGB", (size, size), MAGENTA))


def digest(record) -> str:
    words = repr((record["id"], record["captions"], record["style"], record["objects"][0]["box"], record["absent"]))
    content = record["image"].tobytes() + record["objects"][0]["mask"].tobytes()
    return hashlib.sha256(content + words.encode()).hexdigest()


def test_a_record_tells_everything_of_its_one_drawing(folder):
    source = Emoji36(folder=folder, length=40)
    for index in range(40):
        record = source[index]
        (item,) = record["objects"]
        assert (record["image"].mode, record["image"].size) == ("RGB", (64, 64))
        assert set(record["captions"]) == set(record["keywords"]) == set(LANGUAGES)
        number = record["concept"].split()[-1]
        assert record["captions"]["sw"] == item["names"]["sw"] == f"sw {number}"
        assert record["captions"]["en"] == record["concept"] == item["concept"]
        assert record["keywords"]["quz"] == ["quz word"]
        ys, xs = np.where(item["mask"])
        bounds = (xs.min() / 64, ys.min() / 64, (xs.max() + 1) / 64, (ys.max() + 1) / 64)
        box = item["box"]
        assert (box.x0, box.y0, box.x1, box.y1) == bounds
        assert box.label == record["concept"]
        assert item["position"] == grid_position(box)
        assert item["colour"] == {"openmoji": "red", "twemoji": "green", "fluent": "yellow"}[record["style"]]
        absent = {other["concept"] for other in record["absent"]}
        assert len(absent) == 2
        assert record["concept"] not in absent
        assert record["words"] == []
    assert len({source[index]["id"] for index in range(40)}) == 40


def test_drawings_cover_their_masks_are_never_mirrored_and_have_all_sizes(folder, plain):
    """Ink on the left, black on the right: in every image the ink's middle is left of the black one's."""
    source = Emoji36(folder=folder, length=150)
    sides = []
    for index in range(150):
        record = source[index]
        pixels = np.asarray(record["image"], int)
        mask, box = record["objects"][0]["mask"], record["objects"][0]["box"]
        share = np.abs(pixels - MAGENTA).sum(axis=2) > 0
        assert share[mask].all()
        assert (pixels[~np.pad(mask, 2)[4:, 2:-2] & ~mask & ~np.pad(mask, 2)[:-4, 2:-2]] == MAGENTA).mean() > 0.95
        ink = np.abs(pixels - INK[record["style"]]).sum(axis=2) < 60
        black = pixels.sum(axis=2) < 60
        assert np.where(ink)[1].mean() < np.where(black)[1].mean()
        sides.append(max(box.x1 - box.x0, box.y1 - box.y0))
    assert 0.36 < min(sides) < 0.45
    assert 0.85 < max(sides) <= 0.92


@pytest.mark.parametrize("degrees", [-15.0, 0.0, 7.5, 15.0])
@pytest.mark.parametrize("middle", [(12, 50), (60, 20)])
def test_turning_and_scaling_put_a_spot_where_geometry_says(degrees, middle):
    image = Image.new("RGBA", (82, 62))
    image.paste((200, 40, 90, 255), (middle[0] - 4, middle[1] - 4, middle[0] + 4, middle[1] + 4))
    found = turned(image, 60, degrees)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    scale = 60 / (82 * cos + 62 * abs(sin))
    x, y = middle[0] - 41, middle[1] - 31
    # counter-clockwise, y pointing down
    expected = (found.width / 2 + scale * (x * cos + y * sin), found.height / 2 + scale * (y * cos - x * sin))
    assert found.width == 60
    assert found.height == round(scale * (82 * abs(sin) + 62 * cos))
    alpha = np.asarray(found.getchannel("A"), float)
    ys, xs = np.indices(alpha.shape) + 0.5
    assert (alpha * xs).sum() / alpha.sum() == pytest.approx(expected[0], abs=0.15)
    assert (alpha * ys).sum() / alpha.sum() == pytest.approx(expected[1], abs=0.15)
    assert alpha.sum() / 255 == pytest.approx(64 * scale**2, rel=0.05)
    assert np.abs(np.asarray(found)[alpha > 250][:, :3].astype(int) - (200, 40, 90)).max() <= 2


def test_images_are_a_pure_function_of_seed_split_and_index(folder):
    source = Emoji36(folder=folder, length=20)
    forwards = [digest(source[index]) for index in range(20)]
    again = Emoji36(folder=folder, length=99)
    assert [digest(again[index]) for index in reversed(range(20))][::-1] == forwards
    sent = pickle.dumps(source)
    assert len(sent) < 2_000
    assert [digest(pickle.loads(sent)[index]) for index in range(20)] == forwards
    loader = DataLoader(source, batch_size=5, num_workers=2, collate_fn=list)  # pyright: ignore[reportArgumentType]
    assert [digest(record) for batch in loader for record in batch] == forwards


def test_no_image_of_one_split_is_in_another_whatever_the_seeds(folder):
    found = set()
    for seed in (0, 1, 10):
        for split in ("train", "validation", "test"):
            source = Emoji36(split, folder=folder, length=30, seed=seed)
            found |= {hashlib.sha256(source[index]["image"].tobytes()).hexdigest() for index in range(30)}
    assert len(found) == 9 * 30


def test_strings_that_seed_the_generator_are_never_those_of_the_scenes(folder, monkeypatch):
    used = []
    original = random.Random
    monkeypatch.setattr(module.random, "Random", lambda text: (used.append(text), original(text))[1])
    for seed in (0, 1, 11):
        for split in ("train", "validation", "test"):
            source = Emoji36(split, folder=folder, length=120, seed=seed)
            for index in (0, 1, 10, 11, 111):
                source[index]
    assert len(used) == len(set(used)) == 3 * 3 * 5
    assert all(text.startswith("openpali/emoji36/") for text in used)


def test_held_out_styles_and_concepts_are_never_seen(folder):
    def shown(**options):
        source = Emoji36(folder=folder, length=100, **options)
        records = [source[index] for index in range(100)]
        return {record["style"] for record in records}, {record["concept"] for record in records}

    seen_styles, seen = shown()
    held_out_styles, held_out = shown(style_split="held_out", concept_split="held_out")
    assert seen_styles == {"openmoji", "twemoji", "fluent"}
    assert held_out_styles == {"noto"}
    assert (len(seen), len(held_out)) == (SEEN, HELD_OUT)
    assert not seen & held_out
    assert shown(styles=["fluent"])[0] == {"fluent"}
    assert shown(concepts=3)[1] == {"thing 0", "thing 1", "thing 2"}


def test_the_gallery_shows_each_concept_once_in_the_order_of_its_names(folder):
    source = load_source(
        {"name": "emoji36", "split": "test", "style_split": "held_out", "gallery": True, "folder": folder}
    )
    assert isinstance(source, Emoji36)
    assert len(source) == SEEN
    records = [source[index] for index in range(len(source))]
    assert [record["concept"] for record in records] == [concept["concept"] for concept in source.concepts]
    assert {record["style"] for record in records} == {"noto"}
    assert source.concepts[2]["names"]["th"] == records[2]["captions"]["th"] == "th 2"
    with pytest.raises(IndexError, match="image 7 of 7"):
        source[SEEN]


def test_ids_differ_between_sources_that_look_different(folder):
    options = [{}, {"size": 96}, {"style_split": "held_out"}, {"styles": ["noto", "fluent"]}, {"concepts": 3}]
    options += [{"concept_split": "held_out"}, {"split": "test"}, {"seed": 1}, {"gallery": True}]
    assert len({Emoji36(folder=folder, **option)[0]["id"] for option in options}) == len(options)


def test_languages_are_those_asked_for(folder):
    record = Emoji36(folder=folder, languages=["no", "th", "no"])[0]
    number = record["concept"].split()[-1]
    assert record["captions"] == record["objects"][0]["names"] == {"no": f"no {number}", "th": f"th {number}"}
    assert set(record["absent"][0]["names"]) == set(record["keywords"]) == {"no", "th"}
    assert set(Emoji36(folder=folder, languages="de")[0]["captions"]) == {"de"}


def test_tasks_take_the_records(folder):
    source = Emoji36(folder=folder, length=5)
    rng = random.Random(0)
    for spec in (
        {"name": "caption", "languages": ["sw"]},
        {"name": "detect"},
        {"name": "answer", "kinds": ["what"]},
        {"name": "answer", "kinds": ["colour"]},
        {"name": "answer", "kinds": ["presence"], "languages": ["de"]},
        {"name": "answer", "kinds": ["where", "count"]},
    ):
        example = load_task(spec).example(source[0], rng)
        assert example is not None, spec
        assert example.suffix
    assert load_task({"name": "caption", "languages": ["sw"]}).example(source[0], rng).suffix.startswith("sw ")


def test_credits_are_those_of_the_styles_shown(folder):
    seen, held_out = Emoji36(folder=folder).credits, Emoji36(folder=folder, style_split="held_out").credits
    for word in ("OpenMoji", "CC BY-SA 4.0", "Twemoji", "CC BY 4.0", "Fluent Emoji", "MIT", "CLDR"):
        assert word in seen
    assert "Noto" not in seen
    assert "Noto Emoji" in held_out
    assert "OpenMoji" not in held_out


def test_which_concepts_are_held_out_never_changes():
    chars = [chr(point) for point in range(0x1F300, 0x1F700)]
    held_out = [char for char in chars if concept_split(char) == "held_out"]
    assert 0.07 < len(held_out) / len(chars) < 0.13
    assert "".join(held_out[:6]) == "🌅🌘🌣🌤🌮🌺"
    assert "".join(sorted("🐶🍎🚗🌲🏠", key=concept_order)) == "🏠🍎🚗🌲🐶"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split is one of"),
        ({"size": 16}, "at least 32"),
        ({"size": 150}, "enough for images of up to 142.*--raster 192"),
        ({"length": 0}, "at least 1"),
        ({"length": 5, "gallery": True}, "left out with `gallery`"),
        ({"concepts": 2}, "has 7; give 3 or more"),
        ({"concepts": 8}, "has 7"),
        ({"concept_split": "unseen"}, "'seen' or 'held_out'"),
        ({"style_split": "unseen"}, "'seen' or 'held_out'"),
        ({"styles": ["apple"]}, "some of openmoji, twemoji"),
        ({"styles": []}, "some of openmoji, twemoji"),
        ({"styles": ["noto"], "style_split": "seen"}, "instead of them"),
        ({"languages": ["xx"]}, "no \\['xx'\\]; there are ar, bn"),
        ({"languages": []}, "there are ar, bn"),
        ({"languages": ["de", False]}, "quotes around"),
    ],
)
def test_options_that_make_no_sense(folder, options, message):
    with pytest.raises(ValueError, match=message):
        Emoji36(folder=folder, **options)


def test_a_missing_folder_names_the_command_and_the_source_that_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENPALI_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"in .*/emoji36\. Build it with `make data36`.*the source `emoji`"):
        load_source({"name": "emoji36"})


def test_a_damaged_folder_is_named(tmp_path):
    newer = write_set(tmp_path / "newer")
    (newer / "build.json").write_text('{"format": 99, "raster": 128}')
    with pytest.raises(ValueError, match="newer cannot be used: its format is 99.*--overwrite"):
        Emoji36(folder=newer)
    cut = write_set(tmp_path / "cut")
    content = (cut / "concepts.jsonl").read_bytes()
    (cut / "concepts.jsonl").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut cannot be used"):
        Emoji36(folder=cut)
    without = write_set(tmp_path / "without")
    (without / "drawings" / "twemoji.zip").unlink()
    with pytest.raises(ValueError, match=r"twemoji\.zip cannot be read"):
        Emoji36(folder=without)
    assert len(Emoji36(folder=without, style_split="held_out")) == 20_000


@pytest.mark.parametrize("content", [b"no image", png("noto")[:200], png("noto", (2000, 8))])
def test_a_damaged_drawing_is_named(tmp_path, content):
    folder = write_set(tmp_path / "set")
    with zipfile.ZipFile(folder / "drawings" / "noto.zip", "w") as archive:
        for number in range(SEEN):
            archive.writestr(f"{0x1F400 + number:X}.png", content)
    source = Emoji36(folder=folder, styles=["noto"])
    with pytest.raises(ValueError, match=r"1F40\d\.png in .*noto\.zip cannot be read.*--overwrite"):
        source[0]


def test_styles_are_those_of_the_page():
    assert STYLES == ("openmoji", "twemoji", "fluent", "noto")
    assert len(LANGUAGES) == len(set(LANGUAGES)) == 36
