"""A tiny nano web, and what `openpali web` makes of it, in this process and without Ray."""

import json
from pathlib import Path

import pytest
from tiny_siglip import tiny_siglip

from openpali.scripts.web import command, counts
from openpali.scripts.web.nano.build import NanoWeb, build
from openpali.scripts.web.running.plan import WebArguments, plan_run
from openpali.scripts.web.steps import best_share, evaluation_images

TINY = NanoWeb(samples=66, shards=3, evaluation=6, elsewhere=3)
LANGUAGES = ["en", "es", "fr", "it", "de", "pt", "tr", "id", "ru", "ja", "ar"]


def in_process(shards, function, what, *resources):
    """As `over_shards`, one shard after the other."""
    return [function({"shard": place}) for place in shards]


def make_web(folder: Path) -> tuple[Path, Path]:
    """Folders of a raw and of a made set: all steps that need neither Ray nor a model, and a random SigLIP's."""
    raw, made = folder / "raw", folder / "made"
    build(raw, TINY)
    model, processor = tiny_siglip()
    model.save_pretrained(folder / "siglip")
    processor.save_pretrained(folder / "siglip")
    steps = [
        {"name": "language", "languages": LANGUAGES[:4], "among": LANGUAGES},
        {"name": "text_rules"},
        {"name": "image_rules", "least_side": 40, "most_aspect": 4},
        {"name": "hashes"},
        {"name": "evaluation_images", "against": [str(raw / "evaluation")]},
        {"name": "similarity", "model": str(folder / "siglip")},
        {"name": "best_share", "share": 0.7},
    ]
    run = plan_run(WebArguments(input=[str(raw / "shards")], output=str(made), steps=steps))
    settings = {"shards": run.names, "language": run.language, "steps": [command.settings(one) for one in run.steps]}
    made.mkdir()
    (made / "settings.json").write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        for module in (command, counts, best_share, evaluation_images):
            patch.setattr(module, "over_shards", in_process)
        patch.setattr(command, "gpus_here", lambda: 0)
        command.run_steps(run)
    return raw, made
