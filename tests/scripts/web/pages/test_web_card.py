"""The card of a made set: its numbers are those of the index, and captions cannot break out of their lines."""

import json
import re

import pytest
import yaml
from made_web import make_web

from openpali.data.sources.webdataset import WebDataset
from openpali.scripts.web.pages import card as card_module
from openpali.scripts.web.pages.card import host, lines_of, main, make_card, most_common, size_category
from openpali.scripts.web.pages.made_set import MadeSet


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_web(tmp_path_factory.mktemp("card"))[1]


@pytest.fixture(scope="module")
def card(made):
    main(["--made", str(made)])
    return (made / "README.md").read_text("utf-8")


def test_the_card_counts_what_is_in_the_shards(made, card):
    records = list(WebDataset(str(made / "shards")).records())
    counts = json.loads((made / "counts.json").read_text())
    assert f"{len(records)} of {counts['samples']} images" in card
    for code, name in {"en": "English", "it": "Italian"}.items():
        assert f"| {name} | {code} | {sum(code in record['captions'] for record in records)} |" in card
    assert f"| `caption`, `splitcap` | {len(records)} |" in card
    assert f"| `vq2a`, `question` | {sum('questions' in record for record in records)} |" in card
    licences = [record.get("license") for record in records]
    assert f"| CC BY 4.0 | {licences.count('CC BY 4.0')} |" in card
    assert f"| not given | {licences.count(None)} |" in card


def test_every_step_is_on_the_card(made, card):
    for step in json.loads((made / "counts.json").read_text())["steps"]:
        name = step["step"].partition("-")[2].replace("_", r"\_")
        dropped = sum(step["dropped"].values())
        assert f"| {name} |" in card
        assert f"| {step['reached']:,} | {dropped:,} |" in card


def test_models_are_named_with_their_labels(card):
    assert "| lingua | language |" in card


def test_pictures_lie_beside_the_card(made, card):
    pictures = sorted((made / "card").iterdir())
    assert 1 <= len(pictures) <= 6
    assert all(f"](card/{path.name})" in card for path in pictures)


def test_the_metadata_are_those_of_the_hub(card):
    content = yaml.safe_load(card.split("---")[1])
    assert content["size_categories"] == ["n<1K"]
    assert {"en", "it"} <= set(content["language"])
    assert "image-to-text" in content["task_categories"]


def test_an_edited_card_is_kept(made, card, capsys):
    path = made / "README.md"
    path.write_text(card.replace("# made", "# mine"), "utf-8")
    main(["--made", str(made)])
    assert "was edited and is kept" in capsys.readouterr().out
    assert "# mine" in path.read_text("utf-8")
    path.unlink()
    main(["--made", str(made)])
    assert path.read_text("utf-8") == card


def test_hosts_are_counted_and_not_addresses():
    assert host("https://shop.example.com/a/b?c") == "shop.example.com"
    assert host("CommonCrawl") == "CommonCrawl"
    assert host("http://[::1/a") == "http://[::1/a"


def test_a_hostile_record_stays_on_its_lines(made, monkeypatch):
    hostile = "a | b\n# <script>alert(1)</script> ![x](javascript:alert(2)) `code`"
    monkeypatch.setattr(card_module, "lines_of", lambda record: [hostile])
    monkeypatch.setattr(card_module, "host", lambda source: hostile)
    text = make_card(MadeSet(made))
    assert not re.search(r"(?<!\\)<script|!\[x|\n# \\?<", text)
    assert r"a \| b # \<script\>alert(1)\</script\> !\[x\](javascript:alert(2)) \`code\`" in text


def test_rare_values_are_counted_together():
    from collections import Counter

    counts = Counter({f"host{number}": 30 - number for number in range(25)} | {"": 7})
    rows = most_common(counts)
    assert len(rows) == 22
    assert rows[-2:] == [("others", f"{sum(30 - number for number in range(20, 25))}"), ("not given", "7")]


def test_sizes_in_the_words_of_the_hub():
    assert [size_category(kept) for kept in (5, 1_000, 2_000_000_000)] == ["n<1K", "1K<n<10K", "n>1B"]


def test_lines_of_a_record():
    record = {"captions": {"en": ["a", "b"], "de": "c"}, "words": [{"text": "exit"}]}
    record["questions"] = [{"question": "what is this?", "answer": "dog"}]
    assert lines_of(record) == ["en: a", "en: b", "de: c", "words: exit", "what is this? dog"]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match="counts.json is missing"):
        main(["--made", str(tmp_path)])
    assert MadeSet(tmp_path).folder == tmp_path
