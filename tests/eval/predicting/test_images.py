"""The words of a command line become images, clips and prompts; drawings have names that differ."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from openpali.eval.predicting.images import drawing_names, find_images, images_and_prompts, read_groups


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Images at two depths, one hidden, a clip, and a text; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.png", "photos/a.JPG", "photos/deep/a.png", "photos/.hidden/x.png", "photos/.y.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(name)
    Path("photos/clip.mp4").write_bytes(b"")
    Path("photos/notes.txt").write_text("no image")
    Path("plain").mkdir()
    return "photos"


def found(*words, stdin=""):
    return find_images(words, io.StringIO(stdin))


def test_folders_patterns_and_lists(photos):
    below = ["photos/a.JPG", "photos/b.png", "photos/clip.mp4", "photos/deep/a.png"]
    assert found(photos) == below
    assert found("photos/*.png") == ["photos/b.png"]
    assert found("photos/*") == ["photos/a.JPG", "photos/b.png", "photos/clip.mp4"]
    assert found("photos/**/a.*") == ["photos/a.JPG", "photos/deep/a.png"]
    assert found("-", stdin="photos/b.png\n\n photos/deep \n") == ["photos/b.png", "photos/deep/a.png"]
    assert found("x.png", "-", "./photos/b.png", stdin="photos/b.png") == ["x.png", "photos/b.png"]


def test_a_name_that_looks_like_a_pattern_is_a_name(photos):
    Image.new("RGB", (8, 8)).save("dog[1].png")
    assert found("dog[1].png", "https://a.b/c.png?d=1") == ["dog[1].png", "https://a.b/c.png?d=1"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("plain", "the folder plain holds no image or clip (.jpg, "),
        ("none/*.png", "the pattern none/*.png matches nothing: check it"),
        (
            "what is this?",
            "the pattern what is this? matches nothing: check it, and the folder that it is relative to; of several"
            " prompts each needs --prompt",
        ),
        ("photos/*.txt", "the pattern photos/*.txt matches 1 names, none of them of an image or clip"),
        ("-", "the list of images on the standard input is empty"),
    ],
)
def test_nothing_found_is_an_error(photos, word, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        found(word)


def test_the_last_word_is_the_prompt_unless_prompts_are_given(photos):
    assert images_and_prompts(["a.png"], []) == (["a.png"], [""])
    assert images_and_prompts(["a.png", "b.png", "detect dog"], []) == (["a.png", "b.png"], ["detect dog"])
    assert images_and_prompts(["a.png", ""], []) == (["a.png"], [""])
    assert images_and_prompts(["a.png", "plain"], []) == (["a.png"], ["plain"])
    assert images_and_prompts(["a.png", "what is in a.png"], [])[1] == ["what is in a.png"]
    assert images_and_prompts(["a.png", "x" * 5000], [])[1] == ["x" * 5000]
    assert images_and_prompts(["a.png", "b"], ["one", "two", "one"]) == (["a.png", "b"], ["one", "two"])
    for last in ("photos", "photos/b.png", "photos/notes.txt", "missing.png", "photos/*.png", "-"):
        with pytest.raises(ValueError, match=re.escape(f"{last} is an image, and the last word is the prompt")):
            images_and_prompts(["a.png", last], [])


def test_images_are_read_in_groups_and_bad_ones_are_named(photos):
    Path("broken.png").write_bytes(b"no image")
    paths = ["photos/b.png", "missing.png", "photos/a.JPG", "broken.png", "photos/deep/a.png"]
    skipped = []
    groups = list(read_groups(paths, 2, 4, lambda path, error: skipped.append((path, str(error)))))
    assert [[one.path for one in group] for group in groups] == [paths[:3:2], paths[4:]]
    assert [path for path, _ in skipped] == ["missing.png", "broken.png"]
    assert all(path in reason for path, reason in skipped)


def test_a_clip_is_its_frames(tmp_path):
    pytest.importorskip("av")
    from clips import write_clip

    path = str(write_clip(tmp_path / "clip.MP4", 8))
    ((clip,),) = read_groups([path], 8, 3, pytest.fail)  # type: ignore[arg-type]
    assert clip.path == path
    assert [image.size for image in clip.images] == [(32, 16)] * 3


def test_no_two_drawings_have_one_name(photos):
    paths = ["photos/a.JPG", "photos/deep/a.png", "photos/A.png", "b_answer.png", "b.jpg", "x/a_answer_2.png"]
    of_one = [name for (name,) in drawing_names(paths, ["detect dog"], Path())]
    assert of_one[:2] == ["a_answer", "a_answer_2"]
    # the image b_answer.png lies in this folder and is not overwritten
    assert of_one[4] == "b_answer_2"
    assert len({name.casefold() for name in [*of_one, "b_answer"]}) == len(paths) + 1
    several = drawing_names(paths[:2], ["detect dog", "detect: dog?", "", "狗" * 90], Path("new"))
    assert several[0][:3] == ["a_detect_dog_answer", "a_detect_dog_answer_2", "a_answer"]
    assert several[1][:2] == ["a_detect_dog_answer_3", "a_detect_dog_answer_4"]
    assert all(len(name.encode()) < 250 for row in several for name in row)
