import pytest

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.report.confusion import OTHER, confusion_table
from openpali.eval.report.page import write_report


def rows(*pairs, **extra):
    """An example for each pair of reference and answer."""
    return [{"references": [one], "text": answer, "boxes": [], "predicted_boxes": []} | extra for one, answer in pairs]


def test_references_by_predictions_without_regard_to_case():
    table = confusion_table(rows(("Yes", "yes"), ("yes", "No "), ("no", "no"), ("no", "perhaps"), ("no", "no")))
    assert table is not None
    assert table.references == ["no", "Yes"]
    assert table.predictions == ["no", "Yes", OTHER]
    assert table.counts == [[2, 0, 1], [1, 1, 0]]
    assert table.share(0, 0) == pytest.approx(2 / 3)


def test_numbers_are_in_their_order_and_boxes_of_a_question_do_not_matter():
    found = rows(*[(str(n), str(n)) for n in (10, 9, 2)] * 2, boxes=[{"box": [0, 0, 1, 1], "label": "dog"}])
    table = confusion_table(found)
    assert table is not None
    assert table.predictions == ["2", "9", "10"]
    assert table.counts == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


@pytest.mark.parametrize(
    "found",
    [
        rows(*[("yes", "yes")] * 5),  # one value
        rows(*[(str(n), "1") for n in range(26)] * 2),  # too many
        rows(("a", "a"), ("b", "b"), ("c", "c")),  # hardly any answer comes twice
        rows(*[("a", "x"), ("b", "y")] * 3),  # no answer is a reference
        rows(*[("a", "a"), ("b", "b")] * 3, reference=[{"box": [0, 0, 1, 1], "label": "a"}]),
        rows(*[("a", "a"), ("b", "b")] * 3, references=["a", "c"]),
        rows(*[("", ""), ("b", "b")] * 3),
    ],
)
def test_open_answers_have_no_table(found):
    assert confusion_table(found) is None


def test_the_table_stands_on_the_page_with_its_headers(tmp_path):
    found = rows(*[("yes", "yes"), ("no", "<b>")] * 3, pictures=1, prefix="is it?", index=0, task="pope")
    for i, row in enumerate(found):
        row |= {"id": str(i), "score": float(row["text"] == "yes")}
    result = TaskResult("pope", {"accuracy": 0.5, "examples": 6.0}, found, "accuracy")
    html = write_report(tmp_path / "report.html", "T", [result], {}).read_text()
    assert "Confusion table: 2 references" in html
    assert '<th scope="col" class="number">other</th>' in html
    assert '<th scope="row">no</th><td class="number diagonal"></td><td class="number"></td><td class="number"' in html
    assert html.count("&lt;b&gt;") == 3
