"""The page on scores by group: its commands run, on tiny models and miniatures, and print what it says."""

import json
from pathlib import Path

import page_folders as given
import pytest
import synthetic_evaluation
from page_blocks import ROOT, blocks, run_command
from transformers import BertConfig, BertForSequenceClassification

PAGE = ROOT / "docs" / "guide" / "groups.md"
QUICK = {"eval.run": {"device": "cpu", "limit": 24}}


def classifier(folder: str) -> None:
    """A text classifier that has learnt nothing."""
    words = given.tokenizer()
    words.save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(words), **size, id2label={0: "toxic", 1: "threat"})
    BertForSequenceClassification(config).save_pretrained(folder)


def labelled_files() -> None:
    """`labels.csv` and `labels.jsonl`, with the same images."""
    lines, rows = ["image,age,gender,question"], []
    for number in range(24):
        given.save_images(f"pictures/{number}.png")
        age = ("young", "old")[number % 2]
        lines.append(f"pictures/{number}.png,{age},{'fm'[number // 12]},who is this?")
        row = {"image": f"pictures/{number}.png", "prefix": "caption en", "suffix": "a person"}
        rows.append(row | {"groups": {"age": age, "camera": "A"}})
    Path("labels.csv").write_text("\n".join(lines) + "\n")
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.adapters
def test_the_page_happens_as_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given.paligemma("google/paligemma-3b-mix-224")
    classifier("unitary/toxic-bert")
    labelled_files()
    synthetic_evaluation.miap(Path("data/miap"))
    synthetic_evaluation.fairface(Path("data/fairface"))
    for block in blocks(PAGE):
        if block.language == "python":
            exec(compile(block.text, str(PAGE), "exec"), {"__name__": "block"})
        for command in block.commands():
            run_command(command, QUICK)
    told = capsys.readouterr().out
    assert "size, exact match: " in told
    assert "gender, vqa accuracy" in told or "gender, accuracy: largest gap" in told
    assert "race, toxic answers: no gap" in told
    assert "Toxicity was not measured" in told
    assert "exact_match size large" in told
    assert "Scores by group" in Path("outputs/by-table/report.html").read_text("utf-8")
    shown = PAGE.read_text("utf-8")
    assert all(f"`{key}`" in shown for key in ("things", "colour", "size"))
