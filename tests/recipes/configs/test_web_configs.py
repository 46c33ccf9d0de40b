"""The configurations of `openpali web`: each opens with its command, and its steps have the options that they name."""

from dataclasses import fields

import pytest
import yaml

from openpali.data.files.config import CONFIGS
from openpali.recipes.run.command_line import read_values
from openpali.scripts.web.plan import RESOURCES, WebArguments
from openpali.scripts.web.steps import step_class

PATHS = sorted((CONFIGS / "web").glob("*.yaml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_opens_with_the_command_that_reads_it(path):
    first = path.read_text("utf-8").splitlines()[0]
    assert first == f"# openpali web --config web/{path.stem}"
    values = read_values((WebArguments,), first.split()[3:])
    args = values.parser.parse_dict(values.values)[0]
    assert args.output.startswith("outputs/")
    assert [step["name"] for step in args.steps] == [
        step["name"] for step in yaml.safe_load(path.read_text())["steps"]
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_its_steps_have_these_options(path):
    # options alone: published models are not looked for
    for given in yaml.safe_load(path.read_text("utf-8"))["steps"]:
        known = {one.name for one in fields(step_class(given["name"])) if one.init}
        assert set(given) - {"name"} <= known | set(RESOURCES), given["name"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_steps_that_need_another_one_come_after_it(path):
    names = [step["name"] for step in yaml.safe_load(path.read_text("utf-8"))["steps"]]
    for place, name in enumerate(names):
        needs = getattr(step_class(name), "needs", None)
        assert not needs or needs in names[:place]
