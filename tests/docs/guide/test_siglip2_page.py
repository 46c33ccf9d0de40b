"""The page of SigLIP 2's losses: its commands run with a step each, or begin, and its table has the defaults."""

import re
from dataclasses import fields

from page_blocks import QUICK, ROOT, blocks, run_command
from page_checks import begins
from transformers import AutoModel, Siglip2Model, SiglipModel

from openpali.recipes.siglip2 import Siglip2Arguments

PAGE = ROOT / "docs" / "guide" / "siglip2.md"


def test_what_the_page_shows_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"tokenizer_records": 20, "late_share": 1, "local_views": 2, "output_dir": "outputs/nano-siglip2"}
    quick = QUICK | {"recipes.siglip2": QUICK["recipes.classification"] | few}
    later = quick | {"recipes.siglip2": quick["recipes.siglip2"] | {"output_dir": "outputs/nano-siglip2-96"}}
    for block in blocks(PAGE):
        for command in block.commands():
            if command.startswith("accelerate"):
                begins(command)
            else:
                run_command(command, later if "--image_size" in command else quick)
    assert type(AutoModel.from_pretrained("outputs/nano-siglip2")) is SiglipModel
    assert AutoModel.from_pretrained("outputs/nano-siglip2-96").config.vision_config.image_size == 96
    assert type(AutoModel.from_pretrained("outputs/nano-siglip2-naflex")) is Siglip2Model


def test_options_and_defaults_of_the_table():
    known = {field.name: field for field in fields(Siglip2Arguments)}
    args = Siglip2Arguments()
    for names, default in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE):
        found = re.findall(r"`(\w+)`", names)
        assert set(found) <= set(known), names
        numbers = re.fullmatch(r"[\d., ]+", default)
        if numbers:
            assert [getattr(args, name) for name in found] == [float(n) for n in default.split(", ")], names
