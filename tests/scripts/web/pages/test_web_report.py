"""The report on a made set: every reason with its count, samples from the raw shards, and hostile captions as text."""

import json
import re
import tarfile

import numpy as np
import pytest
from made_web import make_web
from PIL import Image

from openpali.scripts.web.pages.histogram import FINE, Tally, histogram, score_histograms, thresholds
from openpali.scripts.web.pages.made_set import MadeSet, NotMade
from openpali.scripts.web.pages.report import main, urls_of, write_web_report
from openpali.scripts.web.pages.shown_samples import Shown, choose, make_card, within


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return make_web(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(web):
    raw, made = web
    main(["--input", str(raw / "shards"), "--made", str(made)])
    return (made / "report.html").read_text("utf-8")


def test_every_step_and_reason_is_on_the_page_with_its_count(web, page):
    counts = json.loads((web[1] / "counts.json").read_text())
    assert f"{counts['kept']} of {counts['samples']} samples kept" in page
    for step in counts["steps"]:
        assert step["step"] in page
        for reason, count in step["dropped"].items():
            assert re.search(rf"<h3>{re.escape(reason).replace('%', '%')} <small>{count:,} samples", page), reason


def test_all_dropped_samples_of_a_small_set_are_shown(web, page):
    counts = json.loads((web[1] / "counts.json").read_text())
    dropped = sum(sum(step["dropped"].values()) for step in counts["steps"])
    assert page.count("<article>") == dropped + counts["kept"]


def test_pictures_are_inline_and_nothing_is_loaded(page):
    assert page.count('src="data:image/') >= page.count("<article>")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_a_caption_is_text_whatever_it_says(web):
    hostile = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    record = {"image": Image.new("RGB", (64, 64)), "captions": {"en": [hostile], '"><b>': "x"}, "source": hostile}
    card = make_card('00000:"><script>', record, Shown("01-x", hostile, values={"of": hostile}, models={"a": hostile}))
    assert card["captions"][0]["text"] == hostile
    raw, made = web
    from openpali.scripts.web.pages import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "read_cards", lambda *args: [(Shown("", ""), card)])
        path = write_web_report(MadeSet(made), urls_of([str(raw / "shards")]))
    page = path.read_text("utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_same_samples_are_chosen_each_time_and_no_more_than_wanted(web):
    made = MadeSet(web[1])
    one, again = choose(made, made.shards[1], 2), choose(made, made.shards[1], 2)
    assert one == again
    reasons = [(shown.step, shown.drop) for shown in one.values()]
    assert max(reasons.count(reason) for reason in reasons) == 2
    assert len(choose(made, made.shards[1], 50)) > len(one)


def test_few_shards_are_opened(web, monkeypatch):
    raw, made = web
    opened = []
    from openpali.scripts.web.pages import report

    monkeypatch.setattr(report, "read_cards", lambda url, name, *more: opened.append(name) or [])
    write_web_report(MadeSet(made), urls_of([str(raw / "shards")]), shards=2)
    assert len(opened) == 2


def test_the_histogram_has_the_threshold_of_each_language(web):
    made = MadeSet(web[1])
    limits = thresholds(made)
    found = score_histograms(made)
    assert {one.threshold for one in found} == set(limits.values())
    reached = next(row["reached"] for row in made.counts["steps"] if row["step"].endswith("similarity"))
    assert sum(one.total for one in found) == reached
    assert all(one.kept is not None and 0.5 < one.kept <= 1 for one in found)


def test_a_histogram_of_equal_scores_has_one_bar():
    tally = Tally(np.zeros(FINE, int))
    tally.add(np.array([0.5, 0.5]), 0.5)
    one = histogram("en", tally, int(tally.fine.argmax()), 1, 0.5)
    assert (one.total, one.kept, sorted(one.heights)[-2:]) == (2, 1, [0, 1])
    assert one.least <= 0.5 < one.most


def test_bars_hold_the_scores_between_their_edges():
    tally, scores = Tally(np.zeros(FINE, int)), np.random.default_rng(0).normal(0.1, 0.1, 1000)
    tally.add(scores[:300], 0.2)
    tally.add(scores[300:], 0.2)
    filled = np.flatnonzero(tally.fine)
    one = histogram("all", tally, int(filled[0]), -(-(int(filled[-1]) - int(filled[0]) + 1) // 40), 0.2)
    assert one.name == "all languages"
    assert one.kept == (scores >= 0.2).mean()
    assert one.counts == tuple(np.histogram(scores, len(one.counts), (one.least, one.most))[0])
    assert abs(one.least + one.place * (one.most - one.least) - 0.2) < 1e-9


def test_cards_end_where_the_page_would_be_too_large():
    assert within([{"size": 3}, {"size": 3}, {"size": 3}], 7) == [{"size": 3}] * 2


def test_boxes_of_words_are_drawn():
    labels = {
        "words": [{"text": "exit", "box": [0.1, 0.1, 0.5, 0.3]}],
        "objects": [{"names": {"en": "dog"}, "box": [0, 0, 1, 1]}],
    }
    record = {"image": Image.new("RGB", (64, 64)), "captions": {"en": "a dog"}}
    card = make_card("0:0", record, Shown(labels=labels))
    assert card["drawing"].boxes
    assert "exit, dog" in card["drawing"].words


def test_other_raw_shards_are_refused(web, tmp_path):
    raw, made = web
    with tarfile.open(tmp_path / "other.tar", "w"):
        pass
    with pytest.raises(NotMade, match="--input has no shard"):
        write_web_report(MadeSet(made), urls_of([str(tmp_path)]))
