"""The configurations of `openpali web`: each opens with its command, and its steps have the options that they name."""

import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from openpali.data.files.config import CONFIGS
from openpali.scripts.web.command import read_arguments
from openpali.scripts.web.running.plan import RESOURCES
from openpali.scripts.web.running.registry import step_class

PATHS = sorted((CONFIGS / "web").glob("*.yaml"))


def steps_of(path: Path) -> list[dict]:
    """The steps of a configuration, of which some are names alone."""
    steps = yaml.safe_load(path.read_text("utf-8"))["steps"]
    return [{"name": step} if isinstance(step, str) else step for step in steps]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_opens_with_the_command_that_reads_it(path):
    first = path.read_text("utf-8").splitlines()[0]
    assert first.startswith(f"# openpali web --config web/{path.stem}")
    args, _ = read_arguments(shlex.split(first.removeprefix("# openpali web ")))
    assert args.input
    assert args.output


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_its_steps_have_these_options(path):
    # options alone: published models are not looked for
    for given in steps_of(path):
        known = {one.name for one in fields(step_class(given["name"])) if one.init}
        assert set(given) - {"name"} <= known | set(RESOURCES), given["name"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_steps_that_need_another_one_come_after_it(path):
    names = [step["name"] for step in steps_of(path)]
    for place, name in enumerate(names):
        needs = getattr(step_class(name), "needs", None)
        assert not needs or needs in names[:place]
