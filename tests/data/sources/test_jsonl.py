import json
import pickle
import unicodedata

import numpy as np
import pytest
from image_bytes import encoded, png_header
from PIL import Image

from openpali.data.records import BadRecord
from openpali.data.sources.jsonl import JsonlSource

GOOD = {"image": "good.png", "prefix": "what is this?", "suffix": "a dog"}


def test_records_are_read_in_any_order(write_jsonl, tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "sub" / "blue.png")
    records = [
        GOOD,
        {"image": ["good.png", "sub/blue.png"], "prefix": "différence ?", "suffix": "", "references": ["a", "b"]},
        {"image": str(tmp_path / "sub" / "blue.png"), "prefix": "", "suffix": "青"},
    ]
    path = write_jsonl([json.dumps(records[0]), "", *records[1:]])
    source = JsonlSource(path)
    assert len(source) == 3
    assert source.bad == []
    last, middle, first = (source[index] for index in (2, 1, 0))
    # numbered by line, the blank one counted
    assert [record["id"] for record in (first, middle, last)] == ["my.jsonl:1", "my.jsonl:3", "my.jsonl:4"]
    assert first["image"].getpixel((0, 0)) == (200, 30, 40)
    assert [image.size for image in middle["images"]] == [(20, 10), (8, 8)]
    assert middle["references"] == ["a", "b"]
    assert (middle["prefix"], middle["suffix"], last["suffix"]) == ("différence ?", "", "青")
    assert pickle.loads(pickle.dumps(source))[2]["suffix"] == "青"


def test_a_byte_order_mark_and_windows_line_ends(write_jsonl):
    path = write_jsonl([])
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(GOOD) + "\r\n").encode() * 3)
    assert [JsonlSource(path)[index]["suffix"] for index in range(3)] == ["a dog"] * 3


def test_another_image_root(write_jsonl, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8), "green").save(tmp_path / "pictures" / "good.png")
    source = JsonlSource(write_jsonl([GOOD]), image_root=tmp_path / "pictures")
    assert source[0]["image"].size == (8, 8)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{nonsense", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1, 2]", "it is not a JSON object"),
        ({**GOOD, "prefix": None}, '"prefix" is NoneType'),
        ({"image": "good.png", "prefix": ""}, '"suffix" is missing'),
        ({"prefix": "", "suffix": ""}, '"image" is missing'),
        ({**GOOD, "image": []}, '"image" is missing or not a path'),
        ({**GOOD, "image": 3}, '"image" is missing or not a path'),
        ({**GOOD, "references": "dog"}, '"references" is not a list of texts'),
        ({**GOOD, "prefixes": "dog"}, r"unknown keys \['prefixes'\]"),
        ({**GOOD, "image": "none.png"}, "does not exist"),
        ({**GOOD, "image": "https://example.org/a.png"}, "address on the web. Download"),
        ({**GOOD, "image": "../good.png"}, "is outside"),
        ({**GOOD, "image": "/etc/passwd"}, "is outside"),
        ({**GOOD, "image": "a/../../x.png"}, "is outside"),
        ({**GOOD, "image": "link/good.png"}, "is outside"),
        ({**GOOD, "image": "a\0b"}, "is not a path"),
        ({**GOOD, "image": "x" * 5000}, "."),
        ({**GOOD, "image": "dot.png"}, "1x1 pixels, too small"),
        ({**GOOD, "image": "huge.png"}, "too large"),
        ({**GOOD, "image": "half.jpg"}, "is truncated"),
        ({**GOOD, "image": ["good.png", "half.jpg"]}, "is truncated"),
        ({**GOOD, "image": "."}, "is not a file"),
    ],
)
def test_a_bad_record_is_left_out_and_named(record, message, write_jsonl, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (8, 8)).save(elsewhere / "good.png")
    (tmp_path / "link").symlink_to(elsewhere)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "huge.png").write_bytes(png_header(30_000, 30_000))
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (tmp_path / "half.jpg").write_bytes(encoded(Image.fromarray(noise), "JPEG")[:800])
    source = JsonlSource(write_jsonl([GOOD, record, GOOD]))
    assert [source[index]["id"] for index in range(len(source))] == ["my.jsonl:1", "my.jsonl:3"]
    assert len(source.bad) == 1
    assert str(source.bad[0]).startswith(f"{tmp_path / 'my.jsonl'}:2: ")
    with pytest.raises(BadRecord, match=message):
        raise source.bad[0]
    with pytest.raises(BadRecord, match=r"none of its 1 records is good. The first: .*:1: "):
        JsonlSource(write_jsonl([record]))


def test_one_bad_record_in_a_thousand_does_not_matter(write_jsonl):
    source = JsonlSource(write_jsonl([GOOD] * 500 + [{**GOOD, "image": "none.png"}] + [GOOD] * 499))
    assert len(source) == 999
    assert [bad.record for bad in source.bad] == ["501"]
    assert source[500]["id"] == "my.jsonl:502"


def test_more_than_a_tenth_of_a_hundred_ends_the_run(write_jsonl):
    bad = {**GOOD, "image": "none.png"}
    assert len(JsonlSource(write_jsonl([GOOD] * 90 + [bad] * 10)).bad) == 10
    with pytest.raises(BadRecord, match="11 of its 100 records are bad, more than a tenth"):
        JsonlSource(write_jsonl([GOOD] * 89 + [bad] * 11))
    # too few to judge
    assert len(JsonlSource(write_jsonl([GOOD] * 10 + [bad] * 30))) == 10


def test_beyond_the_first_records_only_headers_are_read(write_jsonl, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (tmp_path / "half.jpg").write_bytes(encoded(Image.fromarray(noise), "JPEG")[:800])
    source = JsonlSource(write_jsonl([GOOD, GOOD, {**GOOD, "image": "half.jpg"}]), check_decode=2)
    assert len(source) == 3
    with pytest.raises(BadRecord, match=r"my\.jsonl:3: .*is truncated"):
        source[2]


def test_a_file_that_is_missing_or_empty(write_jsonl, tmp_path):
    with pytest.raises(BadRecord, match=r"none\.jsonl:all: there is no such file"):
        JsonlSource(tmp_path / "none.jsonl")
    with pytest.raises(BadRecord, match="it has no records"):
        JsonlSource(write_jsonl([""]))


LLAVA = {"id": "1", "image": "good.png", "conversations": [
    {"from": "system", "value": "be kind"},
    {"from": "human", "value": "<image>\nwhat is this?"},
    {"from": "gpt", "value": "a dog"},
    {"from": "human", "value": "and its colour?"},
    {"from": "gpt", "value": "red"},
]}  # fmt: skip
CHAT = {"images": ["good.png"], "messages": [
    {"role": "user", "content": "what is this?\n<image>"}, {"role": "assistant", "content": "a dog"},
]}  # fmt: skip
PARTS = {"messages": [
    {"role": "user", "content": [{"type": "image", "image": "good.png"}, {"type": "text", "text": "what is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
]}  # fmt: skip
ADDRESSES = {"messages": [
    {"role": "user", "content": [{"type": "text", "text": "what is this?"},
                                 {"type": "image_url", "image_url": {"url": "good.png"}}]},
    {"role": "assistant", "content": "a dog"},
]}  # fmt: skip


@pytest.mark.parametrize("line", [LLAVA, CHAT, PARTS, ADDRESSES])
def test_conversations_are_a_record_for_each_question(line, write_jsonl):
    source = JsonlSource(write_jsonl([GOOD, line]))
    assert (source.bad, source.notes) == ([], [])
    found = [source[index] for index in range(len(source))]
    told = [(record["id"], record["prefix"], record["suffix"]) for record in found[1:]]
    expected = [("my.jsonl:2", "what is this?", "a dog"), ("my.jsonl:2-1", "and its colour?", "red")]
    assert told == (expected if line is LLAVA else expected[:1])
    assert {record["image"].size for record in found} == {(20, 10)}


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ([{"from": "human", "value": "what?"}], "its conversations have no question with an answer"),
        ([{"from": "gpt", "value": "red"}], "its conversations have no question with an answer"),
        ([{"from": "narrator", "value": "what?"}], "have the role 'narrator'. Name the roles human and gpt, or"),
        (["what?"], "its conversation holds 'what?'"),
    ],
)
def test_conversations_without_a_question_and_an_answer_are_reported(talk, message, write_jsonl):
    source = JsonlSource(write_jsonl([GOOD, {"image": "good.png", "conversations": talk}]))
    assert (len(source), source.bad[0].record) == (1, "2")
    assert message in str(source.bad[0])


def test_a_mark_for_the_image_at_the_ends_of_a_prefix_is_none_of_its_words(write_jsonl):
    marked = ["<image>\nwhat is this?", "<image><image> what is this?", "what is this?\n<image>"]
    source = JsonlSource(write_jsonl([{**GOOD, "prefix": prefix} for prefix in marked]))
    assert [source[index]["prefix"].strip() for index in range(3)] == ["what is this?"] * 3
    assert JsonlSource(write_jsonl([{**GOOD, "prefix": "is <image> a dog?"}]))[0]["prefix"] == "is <image> a dog?"


def test_empty_suffixes_are_counted(write_jsonl):
    source = JsonlSource(write_jsonl([GOOD, {**GOOD, "suffix": ""}, {**GOOD, "suffix": " "}]))
    assert source.notes == [
        "2 of 3 records have an empty suffix, the first in line 2: a model learns to answer nothing. Is that intended?"
    ]


def test_files_that_are_no_lines_of_utf8_are_reported(write_jsonl, tmp_path):
    path = write_jsonl([GOOD])
    path.write_text(json.dumps(GOOD), "utf-16")
    with pytest.raises(BadRecord, match="it is UTF-16. Save the file as UTF-8"):
        JsonlSource(path)
    path.write_bytes(json.dumps({**GOOD, "suffix": "Bär"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(BadRecord, match=r"it is not UTF-8 \(byte 0xe4; perhaps Latin-1.* Save the file as UTF-8"):
        JsonlSource(path)
    (tmp_path / "list.json").write_text(json.dumps([LLAVA]))
    with pytest.raises(BadRecord, match="it is a JSON list, not JSON lines. Write one object a line, or give --kind"):
        JsonlSource(tmp_path / "list.json")


def test_names_that_another_system_has_written(write_jsonl, tmp_path):
    names = ["NFC bär.png", "sub\\good.png", str(tmp_path / "sub" / "good.png"), "good.png"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "good.png").rename(tmp_path / "sub" / "good.png")
    Image.new("RGB", (20, 10)).save(tmp_path / unicodedata.normalize("NFD", "NFC bär.png"))
    path = write_jsonl([{**GOOD, "image": unicodedata.normalize("NFC", name)} for name in names])
    # the last one is beside the file, and not beside the root of the images
    path = path.rename(tmp_path / "sub" / "my.jsonl")
    source = JsonlSource(path, tmp_path)
    assert source.bad == []
    assert [source[index]["image"].size for index in range(4)] == [(20, 10)] * 4
