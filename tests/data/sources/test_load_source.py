import importlib

import pytest

from openpali.data.sources import SOURCES, CheckedSource, load_source
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.tasks import TASKS, load_task


def test_sources_by_name(drawings, write_jsonl):
    source = load_source({"name": "emoji", "split": "test", "objects": [1, 3], "cache_dir": str(drawings)})
    assert isinstance(source, EmojiScenes)
    assert (source.split, source.objects) == ("test", (1, 3))
    assert not isinstance(source, CheckedSource)
    jsonl = load_source({"name": "jsonl", "path": write_jsonl([{"image": "good.png", "prefix": "", "suffix": "a"}])})
    assert isinstance(jsonl, CheckedSource)
    assert jsonl.name == "jsonl"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "emojis"}, "no source 'emojis'. Did you mean 'emoji'?"),
        ({"name": "zzz"}, "There are: activitynet_cap, activitynet_qa, ai2d, "),
        ({"split": "train"}, "a source needs a name"),
        ({"name": "emoji", "spilt": "train"}, "no option 'spilt'. Did you mean 'split'?"),
        ({"name": "jsonl"}, "missing 1 required positional argument: 'path'"),
    ],
)
def test_mistakes_in_a_source(spec, message):
    with pytest.raises(ValueError) as error:
        load_source(spec)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "anser"}, "Did you mean 'answer'?"),
        ({"name": "answer", "kind": ["what"]}, "Did you mean 'kinds'?"),
        ({"name": "answer", "kinds": ["who"]}, "kinds are what, count"),
        ({"name": "answer", "kinds": []}, "at least one of each"),
        ({"name": "answer", "languages": ["xx"]}, "no phrases for language 'xx'"),
    ],
)
def test_mistakes_in_a_task(spec, message):
    with pytest.raises(ValueError) as error:
        load_task(spec)
    assert message in str(error.value)


def test_every_task_and_source_in_the_tables_can_be_imported():
    for name in TASKS:
        assert load_task({"name": name}).name == name
    for place in SOURCES.values():
        module, _, factory = place.partition(":")
        assert callable(getattr(importlib.import_module(module), factory))
