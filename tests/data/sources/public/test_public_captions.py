"""Public datasets of captions, expressions and clips, from fixtures of their folders."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_captions
import synthetic_clips
from synthetic_media import save_image, shown_steps, write_json, write_lines

from openpali.data.files.dataset_files import MissingData
from openpali.data.images.video import BadVideo, frame_rate
from openpali.data.mixture import TaskDataset
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.eval.answering.evaluate_task import load_metric

NAMES = {name: name for name in synthetic_captions.MINIATURES | synthetic_clips.MINIATURES}
NAMES |= {"refcoco_seg": "refcoco"}
NAMES |= {"nocaps": "nocaps", "xm3600": "xm3600"}
WRITERS = synthetic_captions.MINIATURES | synthetic_clips.MINIATURES
WRITERS |= {"nocaps": synthetic_captions.nocaps, "xm3600": synthetic_captions.xm3600}
PARTS = ("train", "validation", "test")


def records(folder: Path, name: str, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    source = load_source({"name": name, "path": str(folder), "split": split, **options})
    return [source[index] for index in range(len(source))]


def short(found: list[dict[str, Any]]) -> list[str]:
    return [record["id"].split(":", 1)[1] for record in found]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("nocaps", "xm3600")])
def test_parts_share_no_record_and_read_alike_twice(name, tmp_path):
    WRITERS[name](tmp_path)
    sources = [load_source({"name": NAMES[name], "path": str(tmp_path), "split": part}) for part in PARTS]
    assert [source.bad for source in sources] == [[], [], []]
    ids = [source[index]["id"] for source in sources for index in range(len(source))]
    assert len(ids) == len(set(ids))
    first = sources[0][0]
    again = sources[0][0]
    for image, other in zip(first.get("images", [first.get("image")]), again.get("images", [again.get("image")])):
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(other))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said_with_where_to_get_it(name, tmp_path):
    split = "test" if name in ("nocaps", "xm3600") else "train"
    for options in ({"path": str(tmp_path)}, {"path": str(tmp_path / "nowhere")}, {}):
        with pytest.raises(ValueError) as error:
            load_source({"name": NAMES[name], "split": split, **options})
        assert isinstance(error.value, MissingData)
        text = str(error.value)
        assert "https://" in text or "http://" in text
        assert "the folder holds\n  " in text
        assert ("path is missing" in text) == (not options)


def test_coco_trains_on_the_rest_of_validation_too(tmp_path):
    synthetic_captions.cococap(tmp_path)
    assert [short(records(tmp_path, "cococap", part)) for part in PARTS] == [
        ["1", "2", "3", "4"],
        ["5", "6"],
        ["7", "8"],
    ]
    record = records(tmp_path, "cococap")[0]
    assert record["captions"] == {"en": ["a Red dog", "two green cats", "what is this"]}
    with pytest.raises(ValueError, match="split: COCO captions has no 'dev'; there are test, train, val, validation"):
        load_source({"name": "cococap", "path": str(tmp_path), "split": "dev"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filename": "none.jpg"}, "there is no image val2014/none.jpg"),
        ({"filename": "../../x.jpg"}, "../../x.jpg is outside"),
        ({"filepath": None}, 'its "filepath" is NoneType'),
        ({"sentences": []}, "it has no caption"),
        ({"sentences": [{"raw": " "}]}, "it has no caption"),
        ({"sentences": [{"tokens": []}]}, 'its "raw" is missing'),
        ({"cocoid": 5}, "another entry has the same id"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path, change, message):
    synthetic_captions.cococap(tmp_path)
    path = tmp_path / "dataset_coco.json"
    content = json.loads(path.read_text())
    content["images"][5] |= change
    write_json(path, content)
    source: Any = load_source({"name": "cococap", "path": str(tmp_path), "split": "validation"})
    (bad,) = source.bad
    assert message in str(bad)
    assert len(source) == 1


def test_nocaps_is_for_evaluation(tmp_path):
    synthetic_captions.nocaps(tmp_path)
    found = records(tmp_path, "nocaps", "test")
    assert [record["captions"]["en"] for record in found] == [
        ["a Red dog 0", "a Red dog 3"],
        ["two green cats 1", "two green cats 4"],
        ["what is this 2", "what is this 5"],
    ]
    with pytest.raises(ValueError, match="NoCaps has no 'train'"):
        load_source({"name": "nocaps", "path": str(tmp_path), "split": "train"})


def test_text_captions_are_grouped_by_image_and_written_in_lower_case(tmp_path):
    synthetic_captions.textcaps(tmp_path)
    train, validation, test = (records(tmp_path, "textcaps", part) for part in PARTS)
    assert [len(part) for part in (train, validation, test)] == [4, 1, 2]
    assert train[0]["captions"]["en"][0] == "a Red dog"
    example = load_task({"name": "caption", "lower": True}).example(test[0], random.Random(0))
    assert example is not None
    assert (example.suffix, example.references) == ("a red dog", ("a red dog",))


def test_every_language_has_the_same_weight(tmp_path):
    synthetic_captions.coco35l(tmp_path)
    source = load_source({"name": "coco35l", "path": str(tmp_path), "split": "train"})
    captions = source[0]["captions"]
    assert sorted(captions) == ["de", "en", "fil", "th", "zh"]
    assert captions["en"] == ["a Red dog", "two green cats", "what is this"]
    assert captions["th"] == [f"{text} (th)" for text in captions["en"]]
    data = TaskDataset(source, load_task({"name": "caption", "languages": []}))
    drawn = Counter(data[(epoch, 0)].prefix for epoch in range(500))
    assert set(drawn) == {f"caption {language}" for language in captions}
    assert min(drawn.values()) > 70
    assert max(drawn.values()) < 130


def test_languages_are_scored_by_themselves(tmp_path):
    synthetic_captions.xm3600(tmp_path)
    found = records(tmp_path, "xm3600", "test", languages=["sw", "quz"])
    assert short(found) == ["1-sw", "1-quz", "2-sw", "2-quz", "3-sw", "3-quz"]
    task: Any = load_task({"name": "caption", "languages": [], "metric": "captions", "by_language": True})
    examples = [task.example(record, random.Random(0)) for record in found]
    assert [example.prefix for example in examples[:2]] == ["caption sw", "caption quz"]
    references = [task.reference(example) for example in examples]
    assert references[0] == {"answers": ["a Red dog sw", "two green cats sw", "what is this sw"], "type": "sw"}
    scores = load_metric("captions").compute(
        predictions=[example.suffix for example in examples], references=references, tokenizer="plain"
    )
    assert scores is not None
    assert {"cider_sw", "cider_quz"} <= set(scores)
    with pytest.raises(ValueError, match="languages: there is no 'xx'"):
        records(tmp_path, "xm3600", "test", languages="xx")
    with pytest.raises(ValueError, match="by_language needs metric: captions"):
        load_task({"name": "caption", "by_language": True})


def test_figures_have_the_caption_that_scores_are_made_with(tmp_path):
    synthetic_captions.scicap(tmp_path)
    found = records(tmp_path, "scicap", "validation")
    assert short(found) == ["1001.valv0-Figure0-1.png", "1001.valv1-Figure1-1.png"]
    assert found[0]["captions"] == {"en": ["a red dog of figure"]}
    with pytest.raises(ValueError, match="subset is one of First-Sentence"):
        records(tmp_path, "scicap", subset="All")
    next((tmp_path / "SciCap-Caption-All" / "test").glob("*.json")).unlink()
    source: Any = load_source({"name": "scicap", "path": str(tmp_path), "split": "test"})
    assert "there is no such file" in str(source.bad[0])
    assert len(source) == 1


def test_summaries_of_screens_may_hold_commas(tmp_path):
    synthetic_captions.screen2words(tmp_path)
    found = records(tmp_path, "screen2words", "test")
    assert short(found) == ["30", "31"]
    assert found[0]["captions"]["en"][0] == "a Red dog, and more"


def test_widgets_are_where_the_view_hierarchy_has_them(tmp_path):
    synthetic_captions.widgetcap(tmp_path)
    back, search = records(tmp_path, "widgetcap", "validation")
    assert short([back, search]) == ["20-0.0", "20-0.1.0"]
    (item,) = search["objects"]
    box = item["box"]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((0.1, 0.5, 0.5, 0.6))
    assert back["objects"][0]["sentences"] == {"en": ["go back", "back button", "go back"]}
    example = load_task({"name": "red_box", "size": 40}).example(search, random.Random(0))
    assert example is not None
    red = np.argwhere((np.asarray(example.images[0]) == [255, 0, 0]).all(axis=2))
    # rows and columns of 39 times the box, truncated
    assert (red.min(0).tolist(), red.max(0).tolist()) == ([19, 3], [23, 19])


def test_a_widget_that_the_hierarchy_lacks_is_named(tmp_path):
    synthetic_captions.widgetcap(tmp_path)
    with (tmp_path / "widget_captions.csv").open("a") as file:
        file.write("20,0.7.0,nothing\n")
    source: Any = load_source({"name": "widgetcap", "path": str(tmp_path), "split": "validation"})
    assert "20-0.7.0: the view hierarchy of its screen has no node 0.7.0" in str(source.bad[0])
    assert len(source) == 2


def test_expressions_train_by_image_and_are_scored_by_sentence(tmp_path):
    synthetic_captions.refcoco_seg(tmp_path)
    train = records(tmp_path, "refcoco")
    # RefCOCOg evaluates on image 4, so that nothing of it is trained on
    assert short(train) == [f"COCO_train2014_{number:012d}.jpg" for number in (1, 2, 3)]
    objects = train[0]["objects"]
    assert len(objects) == 6
    assert {text for item in objects for text in item["sentences"]["en"]} == {
        "the left one",
        "the right one",
        *(f"{side} dog in {name}" for side in ("left", "right") for name in ("refcoco", "refcoco+", "refcocog")),
    }
    assert np.asarray(objects[0]["mask"]).sum() == 14 * 20
    assert all(item["concept"] == "dog" for item in objects)
    test = records(tmp_path, "refcoco", "test")
    assert len(test) == 3 * 2 * 2
    assert [len(record["objects"][0]["sentences"]["en"]) for record in test] == [1] * 12
    plus = records(tmp_path, "refcoco", "testA", only="refcoco+")
    assert [record["objects"][0]["sentences"]["en"][0] for record in plus] == [
        "left dog in refcoco+", "the left one", "right dog in refcoco+", "the right one"
    ]  # fmt: skip
    assert len(records(tmp_path, "refcoco", "validation", only="refcocog")) == 8
    with pytest.raises(ValueError, match="only is one of refcoco, refcoco"):
        records(tmp_path, "refcoco", only="refcocos")


def test_frames_are_a_number_of_frames_apart(tmp_path):
    synthetic_clips.vatex_cap(tmp_path)
    assert frame_rate(next((tmp_path / "videos").glob("*.mp4"))) == 8
    (every_third, *_) = records(tmp_path, "vatex_cap", num_frames=4, stride=3)
    assert shown_steps(every_third["images"]) == [0, 3, 6, 9]
    (short_clip, *_) = records(tmp_path, "vatex_cap", num_frames=4, stride=5)
    assert shown_steps(short_clip["images"]) == [0, 5, 10, 10]
    (spread, *_) = records(tmp_path, "vatex_cap", num_frames=2)
    assert shown_steps(spread["images"]) == [3, 9]
    assert spread["captions"] == {"en": ["a Red dog", "two green cats", "what is this"]}


def test_images_of_a_folder_are_frames(tmp_path):
    synthetic_clips.vatex_cap(tmp_path)
    clip = next((tmp_path / "videos").glob("publ*.mp4"))
    clip.unlink()
    for number in range(6):
        save_image(clip.with_suffix("") / f"{number}.png", number, (8, 8))
    source = load_source({"name": "vatex_cap", "path": str(tmp_path), "split": "test", "num_frames": 3, "stride": 2})
    frames = next(record["images"] for record in (source[0], source[1]) if record["images"][0].size == (8, 8))
    assert [frame.getpixel((7, 0)) for frame in frames] == [(255, 0, 0), (0, 0, 255), (255, 255, 0)]


def test_clips_that_are_gone_are_counted(tmp_path):
    synthetic_clips.msrvtt_cap(tmp_path)
    source: Any = load_source({"name": "msrvtt_cap", "path": str(tmp_path), "split": "train", "num_frames": 1})
    assert len(source) == 4
    assert source.bad == []
    assert source.notes == [f"1 left out: their clips are not in {tmp_path}"]


def test_a_clip_that_cannot_be_decoded_is_named(tmp_path):
    synthetic_clips.vatex_cap(tmp_path)
    for path in (tmp_path / "videos").glob("vali*.mp4"):
        path.write_bytes(b"no video")
    source = load_source({"name": "vatex_cap", "path": str(tmp_path), "split": "validation", "stride": 2})
    with pytest.raises(BadRecord, match="vali-V0_000000_000010.*cannot be opened"):
        source[0]
    with pytest.raises(BadVideo, match="does not exist"):
        frame_rate(tmp_path / "none.mp4")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    synthetic_clips.vatex_cap(tmp_path / "data")
    clip = next((tmp_path / "data" / "videos").glob("vali*.mp4"))
    clip.rename(tmp_path / "outside.mp4")
    clip.symlink_to(tmp_path / "outside.mp4")
    source = load_source({"name": "vatex_cap", "path": str(tmp_path / "data"), "split": "validation"})
    with pytest.raises(BadRecord, match="is a link out of"):
        source[0]


def test_a_span_of_a_film_is_what_is_seen(tmp_path):
    synthetic_clips.activitynet_cap(tmp_path)
    first, second = records(tmp_path, "activitynet_cap", "test", num_frames=4, stride=2)
    assert short([first, second]) == ["v_d-0", "v_d-1"]
    # eight frames a second: from second 0 to 1, and from 0.5 to 2.4, the last frames being 6 and 10
    assert shown_steps(first["images"]) == [0, 2, 4, 6]
    assert shown_steps(second["images"]) == [4, 6, 8, 10]
    assert second["captions"] == {"en": ["two green cats"]}
    content = json.loads((tmp_path / "val_2.json").read_text())
    content["v_d"]["timestamps"][0] = [1.0, 1.0]
    write_json(tmp_path / "val_2.json", content)
    source: Any = load_source({"name": "activitynet_cap", "path": str(tmp_path), "split": "test"})
    assert "its span [1.0, 1.0] is not a start and a later end" in str(source.bad[0])


def test_questions_find_their_clips(tmp_path):
    for name in ("msrvtt_qa", "msvd_qa", "activitynet_qa"):
        WRITERS[name](tmp_path / name)
    question = records(tmp_path / "msrvtt_qa", "msrvtt_qa", "test", num_frames=2)[1]
    assert (question["question"], question["answers"], len(question["images"])) == ("who runs?", ["cats"], 2)
    assert len(records(tmp_path / "msvd_qa", "msvd_qa", "test", num_frames=1)) == 2
    question = records(tmp_path / "activitynet_qa", "activitynet_qa", "test", num_frames=1)[1]
    assert (question["question"], question["answers"], question["question_type"]) == ("what is 1", ["yes"], "1")
    write_json(tmp_path / "activitynet_qa" / "test_a.json", [])
    with pytest.raises(BadRecord, match="the file of answers has none of this number"):
        records(tmp_path / "activitynet_qa", "activitynet_qa", "test")


def test_lines_that_are_no_json_are_named(tmp_path):
    synthetic_captions.xm3600(tmp_path)
    with (tmp_path / "captions.jsonl").open("a") as file:
        file.write("{torn\n")
    source: Any = load_source({"name": "xm3600", "path": str(tmp_path), "split": "test", "languages": ["en"]})
    assert ["4-en" in str(bad) for bad in source.bad] == [True]
    write_lines(tmp_path / "captions.jsonl", [{"image/key": "../x", "en": {"caption": ["a"]}}])
    with pytest.raises(BadRecord, match="is outside"):
        load_source({"name": "xm3600", "path": str(tmp_path), "split": "test", "languages": ["en"]})


def test_a_copy_on_the_hub(tmp_path):
    import datasets

    paths = [str(save_image(tmp_path / f"{number}.png", number)) for number in range(2)]
    columns: dict[str, Any] = {"image": paths, "answer": [["a dog", "dogs"], ["a cat"]], "bbox": [[0, 0, 0.5, 1]] * 2}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "answer": datasets.List(datasets.Value("string")),
            "bbox": datasets.List(datasets.Value("float64")),
        }
    )
    (tmp_path / "copy").mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "copy" / "train.parquet")
    spec = {"split": "train", "hub": str(tmp_path / "copy"), "columns": {"captions": "answer"}}
    source = load_source({"name": "cococap", **spec})
    assert [source[index]["captions"] for index in range(2)] == [{"en": ["a dog", "dogs"]}, {"en": ["a cat"]}]
    assert source[0]["image"].getpixel((39, 0)) == (255, 0, 0)
    (item,) = load_source({"name": "widgetcap", **spec})[1]["objects"]
    assert (item["box"].x1, item["sentences"]) == (0.5, {"en": ["a cat"]})
