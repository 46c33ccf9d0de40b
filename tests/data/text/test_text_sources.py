import json

import datasets
import pytest

from openpali.data.records import BadRecord
from openpali.data.text.sources import load_texts


def texts_of(source):
    return [source[i]["text"] for i in range(len(source))]


def test_lines_and_paragraphs_of_plain_files(tmp_path):
    (tmp_path / "a.txt").write_text("﻿one\ntwo \n\n  three\n", "utf-8")
    (tmp_path / "b.txt").write_text("four", "utf-8")
    lines = load_texts({"name": "files", "path": str(tmp_path / "*.txt")})
    assert texts_of(lines) == ["one", "two", "three", "four"]
    assert [lines[i]["id"] for i in range(4)] == ["a.txt:1", "a.txt:2", "a.txt:4", "b.txt:1"]
    paragraphs = load_texts({"name": "files", "path": [str(tmp_path / "a.txt")], "by": "paragraph"})
    assert texts_of(paragraphs) == ["one\ntwo", "three"]
    assert [paragraphs[i]["id"] for i in range(2)] == ["a.txt:1", "a.txt:4"]


def test_faults_of_plain_files_are_named(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"abc\xff\xfe")
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, message in (("bad", "bad.txt:byte 3: it is not UTF-8"), ("empty", "no text"), ("none", "no such file")):
        with pytest.raises(BadRecord, match=message):
            load_texts({"name": "files", "path": str(tmp_path / f"{name}.txt")})
    with pytest.raises(ValueError, match="by is line or paragraph, not 'word'"):
        load_texts({"name": "files", "path": "x", "by": "word"})
    with pytest.raises(ValueError, match="no kind of texts 'file'. Did you mean 'files'"):
        load_texts({"name": "file", "path": "x"})


def test_bad_json_lines_are_left_out_and_listed(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = ['{"text": "one"}', "", "{broken", '{"body": "two"}', "[1]", '{"text": " "}', '{"text": "zwei ü"}']
    path.write_text("\n".join(rows), "utf-8")
    source = load_texts({"name": "jsonl", "path": str(path)})
    assert texts_of(source) == ["one", "zwei ü"]
    assert source[1]["id"] == "t.jsonl:7"
    assert [bad.record for bad in source.bad] == ["3", "4", "5", "6"]  # pyright: ignore
    assert "no text under 'text'. Give key" in str(source.bad[1])  # pyright: ignore
    assert texts_of(load_texts({"name": "jsonl", "path": str(path), "key": "body"})) == ["two"]
    with pytest.raises(BadRecord, match="6 of 6 lines cannot be used; the first one: .*t.jsonl:1"):
        load_texts({"name": "jsonl", "path": str(path), "key": "nothing"})
    path.write_text("\n".join([json.dumps({"text": "a"})] * 89 + ["x"] * 11))
    with pytest.raises(BadRecord, match="11 of 100"):
        load_texts({"name": "jsonl", "path": str(path)})


def test_data_sets_on_disk(tmp_path):
    rows = datasets.Dataset.from_dict({"body": ["one", "two", None], "number": [1, 2, 3]})
    datasets.DatasetDict({"train": rows, "validation": rows.select([1])}).save_to_disk(tmp_path / "saved")
    spec = {"name": "datasets", "dataset": str(tmp_path / "saved"), "column": "body"}
    train = load_texts(spec)
    assert (len(train), train[1]["text"], len(load_texts(spec | {"split": "validation"}))) == (3, "two", 1)
    with pytest.raises(BadRecord, match="its 'body' is NoneType"):
        train[2]
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        load_texts(spec | {"split": "test"})
    with pytest.raises(ValueError, match="no column 'text'; it has body, number"):
        load_texts(spec | {"column": "text"})
    rows.save_to_disk(tmp_path / "single")
    assert len(load_texts(spec | {"dataset": str(tmp_path / "single")})) == 3
    with pytest.raises(ValueError, match="nowhere"):
        load_texts(spec | {"dataset": str(tmp_path / "nowhere")})


def test_built_in_texts_are_pure_functions_and_their_answers_follow_from_them():
    spec = {"name": "builtin", "languages": ["en"], "concepts": 20, "length": 300}
    train, again = load_texts(spec), load_texts(spec)
    validation = texts_of(load_texts(spec | {"split": "validation"}))
    assert texts_of(train) == texts_of(again)
    assert len(set(validation) & set(texts_of(train))) < 30
    counted = 0
    for text in texts_of(train):
        caption, *questions = text.split("\n")
        for line in questions:
            asked, answer = line.split("? ")
            if asked.startswith("how many"):
                counted += 1
                thing = asked.removeprefix("how many ").removesuffix(" are there")
                assert f"{answer} {thing}" in caption if answer != "one" else thing[:3] in caption
    assert counted > 50
    german = load_texts(spec | {"languages": "de"})
    assert any("wie oft" in text for text in texts_of(german))
    for options, message in (({"languages": ["xx"]}, "no language 'xx'"), ({"objects": [1, 20]}, "fewest and most")):
        with pytest.raises(ValueError, match=message):
            load_texts(spec | options)
