"""Tables, conversations and folders of custom data: encodings, separators, headers, and files of former runs."""

import csv
import json
import re
import shutil
import unicodedata

import datasets
import pytest
from custom_files import NAMES, SIDE, class_folders, coco, found, save_image, table
from custom_records import all_records, load_custom, rows

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.records import BadRecord
from openpali.recipes import transfer


def test_a_mark_for_the_image_is_no_part_of_a_question(tmp_path):
    table(tmp_path, rows(question=lambda n: f"<image>\nwhat is {n}?", answer=lambda n: "x"))
    assert {record["question"][:8] for record in all_records(tmp_path, "vqa")} == {"what is "}


CONVERSATIONS = {
    "llava": lambda n: {
        "image": f"{n}.png",
        "conversations": [
            {"from": "human", "value": f"<image>\nwhat is {n}?"},
            {"from": "gpt", "value": "red"},
            {"from": "human", "value": "is it large?"},
            {"from": "gpt", "value": "no"},
        ],
    },
    "messages": lambda n: {
        "images": [f"{n}.png"],
        "messages": [
            {"role": "system", "content": "answer shortly"},
            {"role": "user", "content": f"<image>what is {n}?"},
            {"role": "assistant", "content": "red"},
        ],
    },
}


@pytest.mark.parametrize("form", CONVERSATIONS)
@pytest.mark.parametrize("file", ["metadata.jsonl", "talk.json"])
def test_conversations_are_read(check, tmp_path, form, file):
    path = table(tmp_path / "data", rows(text=str)).rename(tmp_path / "data" / file)
    talks = [CONVERSATIONS[form](number) for number in range(20)]
    path.write_text(json.dumps(talks) if file.endswith(".json") else "".join(json.dumps(one) + "\n" for one in talks))
    error, shown, _ = check(path, "vqa")
    assert not error
    assert "no problems found" in shown
    pairs = {(record["question"], *record["answers"]) for record in all_records(path, "vqa")}
    expected = {(f"what is {number}?", "red") for number in range(20)}
    assert pairs == expected | ({("is it large?", "no")} if form == "llava" else set())
    assert {record["captions"]["en"][0] for record in all_records(path, "caption")} == {pair[1] for pair in pairs}


def test_conversations_of_a_saved_data_set_are_read(tmp_path):
    table(tmp_path / "files", rows(text=str))
    content = {
        "images": [[str(tmp_path / "files" / f"{number}.png")] for number in range(20)],
        "messages": [CONVERSATIONS["messages"](number)["messages"] for number in range(20)],
    }
    data = datasets.Dataset.from_dict(content).cast_column("images", datasets.List(datasets.Image()))
    data.save_to_disk(str(tmp_path / "saved"))
    records = all_records(tmp_path / "saved", "vqa")
    assert {(record["question"], *record["answers"]) for record in records} == {
        (f"what is {number}?", "red") for number in range(20)
    }
    assert {record["image"].size for record in records} == {(SIDE, SIDE)}


def test_what_a_run_wrote_among_the_classes_is_no_data(check, checkpoint, tmp_path):
    data = class_folders(tmp_path / "data", 8)
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify", "--use_cpu", "true"]
    for place in ("run", "outputs/first", "red/run"):
        transfer.main([*line, "--output_dir", str(data / place), "--check_only", "true"])
        shutil.copytree(checkpoint, data / place / "checkpoint-3")
        save_image(data / place / "examples.png", 9)
    error, shown, report = check(data, "classify")
    assert not error
    assert {name for split in report["splits"].values() for name in split["classes"]} == set(NAMES)
    assert sum(split["records"] for split in report["splits"].values()) == 24
    assert "not read, since runs wrote them: outputs/first, red/run, run" in shown


@pytest.mark.parametrize("place", ["", "red"])
def test_a_run_does_not_write_where_the_data_are(check, tmp_path, place):
    data = class_folders(tmp_path / "data", 8)
    error, *_ = check(data, "classify", "--output_dir", str(data / place))
    assert "holds the data; give the run a folder of its own" in error
    assert not list(data.glob("**/data_check.json"))


def test_files_of_a_run_beside_data_are_not_taken_for_them(check, tmp_path):
    data = coco(tmp_path / "data").parent
    (data / "data_check.json").write_text("{}")
    (data / "metrics.json").write_text("{}")
    error, *_ = check(data, "detect")
    assert "a run wrote into this folder, and it is not clear which of annotations.json, data_check.json" in error


def test_folders_beside_splits_are_unclear(check, tmp_path):
    for split in ("train", "val"):
        class_folders(tmp_path / "data" / split, 4, first=100 * len(split))
    (tmp_path / "data" / ".ipynb_checkpoints").mkdir()
    assert not check(tmp_path / "data", "classify")[0]
    save_image(tmp_path / "data" / "extra" / "1.png", 77)
    error, *_ = check(tmp_path / "data", "classify")
    assert "it is not clear what extra is beside train, val" in error
    # a vehicle
    (class_folders(tmp_path / "vehicles", 6, ["blue", "red"]) / "blue").rename(tmp_path / "vehicles" / "train")
    assert set(check(tmp_path / "vehicles", "classify")[2]["splits"]["train"]["classes"]) == {"train", "red"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv", "list.json"])
def test_files_of_every_system_are_read(tmp_path, encoding, file):
    path = table(tmp_path, rows(text=str))
    lines = [{"file_name": f"{number}.png", "text": "Bär\u2028und „Maus“"} for number in range(20)]
    path.unlink()
    path = tmp_path / file
    if file.endswith(".csv"):
        content = "file_name;text\r\n" + "".join(f"{line['file_name']};{line['text']}\r\n" for line in lines)
    elif file.endswith(".json"):
        content = json.dumps(lines, ensure_ascii=False)
    else:
        content = "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
    path.write_bytes(content.encode(encoding))
    assert {record["captions"]["en"][0] for record in all_records(path, "caption")} == {"Bär\u2028und „Maus“"}


@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv", "list.json", "coco.json"])
def test_latin_1_is_reported_with_its_line(tmp_path, file):
    path = tmp_path / file
    path.write_bytes('{"images": [],\n "x": "Bär"}'.encode("latin-1"))
    with pytest.raises(BadRecord) as error:
        load_custom(path, "caption")
    assert str(error.value) == (
        f"{path}:2: it is not UTF-8 (byte 0xe4; perhaps Latin-1 or Windows-1252). Save the file as UTF-8."
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("declared", [False, True])
def test_csv_files_of_any_separator_are_read(tmp_path, separator, declared):
    table(tmp_path, rows(text=str))
    path = tmp_path / "my.csv"
    with path.open("w", newline="") as file:
        file.write(f"sep={separator}\r\n" * declared)
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([["file_name", "text"], *([f"{number}.png", "a, b; c"] for number in range(20))])
    assert {record["captions"]["en"][0] for record in all_records(path, "caption")} == {"a, b; c"}


def test_a_row_with_more_values_than_columns_is_reported(check, tmp_path):
    table(tmp_path / "data", rows(text=str))
    path = tmp_path / "data" / "my.csv"
    lines = [f"{number}.png,a red" + ", large square" * (number == 3) for number in range(20)]
    path.write_text("\n".join(["file_name,text", *lines]))
    _, shown, report = check(path, "caption")
    assert f"{path}:5: it has 3 values, and the header names 2 columns. Put texts that contain" in shown
    assert found(report, "line") == [("warning", 1)]


def test_names_of_macos_match_those_of_others(tmp_path):
    composed, apart = (unicodedata.normalize(form, "bär") for form in ("NFC", "NFD"))
    table(tmp_path / "a", [{"file_name": f"{composed}{number}.png", "text": "x"} for number in range(20)])
    for file in list((tmp_path / "a").glob("*.png")):
        file.rename(file.with_name(unicodedata.normalize("NFD", file.name)))
    assert len(all_records(tmp_path / "a", "caption")) == 20
    for split, name in (("train", composed), ("val", apart)):
        folder = class_folders(tmp_path / "b" / split, 4, ["blue", "red"], first=len(split) * 100)
        (folder / "blue").rename(folder / name)
    assert load_custom(tmp_path / "b", "classify").classes == [composed, "red"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file_name,text,text\n0.png,a,b\n", ":1: two columns are called 'text'. Rename one of them"),
        (b"PK\3\4\0\0", "it is not a text, but a workbook, an archive or the like. Export it as text"),
        (b"file_name,text\n0.PNG,a\n", "there is no image 0.PNG in .* There is 0.png: mind the case"),
        (b"file_name,text\ndata:image/png;base64,AAAA,a\n", "it has 3 values"),
        (b'file_name,text\n"data:image/png;base64,AAAA",a\n', "is not the name of a file. Save the image as a file"),
    ],
)
def test_odd_tables_are_reported(tmp_path, content, message):
    table(tmp_path, rows(text=str))
    (tmp_path / "my.csv").write_bytes(content)
    read_custom.cache_clear()
    try:
        problem = str(read_custom(custom_spec(str(tmp_path / "my.csv"), "caption")).bad[0])
    except BadRecord as bad:
        problem = str(bad)
    assert re.search(message, problem)


def test_headers_and_names_of_other_habits_are_read(tmp_path):
    table(tmp_path, rows(text=str))
    lines = [f"file://{tmp_path}/{number}.png;x" for number in range(20)]
    (tmp_path / "my.csv").write_text("\n".join(["File_Name; Text", *lines]))
    assert {record["captions"]["en"][0] for record in all_records(tmp_path / "my.csv", "caption")} == {"x"}
