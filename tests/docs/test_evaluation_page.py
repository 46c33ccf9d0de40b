import json
import re
from pathlib import Path

from PIL import Image

import openpali.eval
from openpali.eval.answering.decoding import Answer
from openpali.eval.answering.evaluate_task import METRICS, load_metric
from openpali.eval.predicting.images import Picture
from openpali.eval.predicting.objects import MaskReader
from openpali.eval.predicting.output import plan_output

ROOT = Path(openpali.eval.__file__).parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
PREDICTING = (ROOT / "docs" / "predicting.md").read_text("utf-8")


def blocks(language, page=PAGE):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_table_names_every_metric_and_its_keys():
    rows = dict(re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE))
    assert set(rows) == {path.stem for path in METRICS.glob("*/*.py")}
    for name in ("detection", "segmentation"):
        result = load_metric(name).compute(predictions=[[]], references=[[]])
        assert re.findall(r"\w+", rows[name]) == list(result)


def test_the_answer_in_json_is_what_is_printed(capsys):
    shown = next(json.loads(block) for block in blocks("json", PREDICTING) if '"not_read"' in block)
    picture = Picture("photo.jpg", (Image.new("RGB", (shown["width"], shown["height"])),))
    output = plan_output(["photo.jpg"], ["detect dog"], None, None, as_json=True)
    output.write(picture, "detect dog", Answer(shown["answer"]), MaskReader(None, "model", needed=False))
    printed = json.loads(capsys.readouterr().out)
    assert printed["boxes"][0].pop("confidence") is None
    assert shown["boxes"][0].pop("confidence") == 0.93
    assert printed == shown
