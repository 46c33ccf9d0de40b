import re
from pathlib import Path

import openpali.eval
from openpali.eval.answering.evaluate_task import METRICS, load_metric

ROOT = Path(openpali.eval.__file__).parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_names_every_metric_and_its_keys():
    rows = dict(re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE))
    assert set(rows) == {path.stem for path in METRICS.glob("*/*.py")}
    for name in ("detection", "segmentation"):
        result = load_metric(name).compute(predictions=[[]], references=[[]])
        assert re.findall(r"\w+", rows[name]) == list(result)
