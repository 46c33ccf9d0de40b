"""Data and models of the feature cache's tests."""

import json
from typing import Any

import pytest
from feature_runs import DISTINCT, EXAMPLES, CountedImages, arguments, dataset, write_images

from openpali.data.collator import Collator
from openpali.recipes.features.cache import cached_features

WORDS = ["a red dog", "two green cats", "dog", "en", "what", "caption", "detect dog", "a dog"]


@pytest.fixture
def data(tmp_path):
    """Eight records; two of the six images are used twice, and the last record has two."""
    write_images(tmp_path)
    names = [[f"{i % DISTINCT}.png"] for i in range(EXAMPLES - 1)] + [["1.png", "4.png"]]
    lines = [
        {"image": images, "prefix": ("caption en", "what is this")[i % 2], "suffix": WORDS[i]}
        for i, images in enumerate(names)
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def make(tiny_model, tiny_processor, tiny_paligemma):
    """A new copy of a family's model, and its processor."""
    weights = {"pali3": tiny_model.state_dict(), "paligemma": tiny_paligemma[0].state_dict()}
    weights = {kind: {key: value.clone() for key, value in state.items()} for kind, state in weights.items()}

    def copy(kind):
        model = tiny_model if kind == "pali3" else tiny_paligemma[0]
        model.load_state_dict(weights[kind])
        return model, tiny_processor if kind == "pali3" else tiny_paligemma[1]

    return copy


@pytest.fixture
def fill_cache(make, data, tmp_path, capsys):
    """Fills the cache as a run does: number of computed images, examples, collator, and what was printed."""

    def fill(folder="run", change=None, mode: Any = "on", exact=True, augment=None, source=None, **options):
        model, processor = make("pali3")
        if change:
            change(model, processor)
        count = CountedImages(model)
        run = arguments(tmp_path / folder, **options)
        collator = Collator(processor, exact_images=exact)
        found = cached_features(mode, model, source or dataset(data, augment), collator, run)
        return count.images, *found, capsys.readouterr().out

    return fill
