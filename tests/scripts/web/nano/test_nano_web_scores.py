"""Scores against the truth: by hand on a few samples, and on a made set."""

import json

import pytest
from made_web import make_web

from openpali.scripts.web.nano.scores import copies, finding, main, read_truth, scores, table
from openpali.scripts.web.pages.made_set import MadeSet


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return make_web(tmp_path_factory.mktemp("scores"))


def test_recall_precision_and_what_was_lost():
    dropped = {("0", 0): "a reason", ("0", 1): "", ("0", 2): "a reason", ("0", 3): "", ("0", 4): "a reason"}
    found = finding(dropped, lambda place: place[1] < 2, lambda place: place[1] in (2, 3))
    assert (found["planted"], found["found"], found["others"], found["lost"]) == (2, 1, 2, 1)
    assert (found["recall"], found["precision"], found["lost_share"]) == (0.5, 0.5, 0.5)


def test_nothing_planted_has_no_recall():
    assert finding({}, lambda place: True, lambda place: True)["recall"] is None


def test_of_an_image_and_its_copies_any_one_may_stay():
    truth = {("0", number): {"of": "0:0" if number in (1, 2) else ""} for number in range(5)}
    # the original and one copy went; 3 shows no image twice, and went too
    dropped = {("0", 0): "copy", ("0", 1): "copy", ("0", 2): "", ("0", 3): "copy", ("0", 4): ""}
    found = copies(dropped, truth)
    assert (found["planted"], found["found"], found["others"], found["lost"]) == (2, 2, 3, 1)
    # a copy whose original was dropped before is none any more
    assert copies({("0", 1): ""}, truth)["planted"] == 0


def test_the_steps_find_what_was_planted(web):
    raw, made = web
    found = scores(MadeSet(made), read_truth(raw / "truth.jsonl"))
    for title in ("damaged samples", "tiny and wide images", "evaluation images"):
        assert found[title]["recall"] == 1, title
        assert found[title]["lost"] == 0, title
    assert found["captions in other languages"]["recall"] > 0.5
    assert found["wrong captions"]["planted"] > 3
    # there is neither of these steps
    assert not {"copies", "words of readable size"} & set(found)


def test_words_count_where_the_same_word_was_read(web, monkeypatch):
    truth = read_truth(web[0] / "truth.jsonl")
    made = MadeSet(web[1])
    (step, shards) = (made.steps[0], made.shards)
    rows = {(shard, row["number"]): row for shard in shards for row in made.table(step, shard)}
    written = [place for place in rows if any(word["readable"] for word in truth[place]["words"])]
    words = sum(word["readable"] for place in written for word in truth[place]["words"])

    def ocr(own, step, shard):
        found = []
        for place, row in rows.items():
            if place[0] == shard:
                texts = [word["text"].upper() for word in truth[place]["words"] if word["readable"]]
                labels = (
                    {"words": [{"text": text} for text in texts]}
                    if place != written[0]
                    else {"words": [{"text": "?"}]}
                )
                found.append(row | {"drop": "", "labels": labels})
        return found

    monkeypatch.setattr(MadeSet, "table", ocr)
    monkeypatch.setattr(MadeSet, "step", lambda own, name: "10-ocr" if name == "ocr" else None)
    found = scores(made, truth)["words of readable size"]
    missed = sum(word["readable"] for word in truth[written[0]]["words"])
    assert (found["planted"], found["found"], found["wrong"]) == (words, words - missed, 1)


def test_the_command_prints_a_table_and_writes_json(web, capsys):
    raw, made = web
    main(["--raw", str(raw), "--made", str(made)])
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((made / "nano_scores.json").read_text())
    assert lines[:-1] == table(content)
    assert [line for line in lines if line.startswith("evaluation images") and "100.0 %" in line]


def test_a_folder_without_a_run_is_named(web, tmp_path):
    with pytest.raises(
        SystemExit, match="counts.json is missing: .* is not the --output of a finished `openpali web`"
    ):
        main(["--raw", str(web[0]), "--made", str(tmp_path)])
