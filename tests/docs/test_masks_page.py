import re
from pathlib import Path

import torch

import openpali.modeling
from openpali import MaskVQVAE
from openpali.data.files.config import find_config
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig

PAGE = (Path(openpali.modeling.__file__).parents[1] / "docs" / "masks.md").read_text("utf-8")


def test_what_the_page_runs_runs(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    MaskVQVAE(MaskVQVAEConfig()).save_pretrained("outputs/mask-vqvae")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        names = {}
        exec(compile(block, f"docs/masks.md block {number}", "exec"), names)
        # the page shows the tokens of the box
        assert names["text"].startswith(re.search(r"# ((?:<loc\d{4}>)+)", block)[1])
        assert names["text"].endswith(" dog")
    shown = capsys.readouterr().out
    assert "torch.Size([1, 480, 640]) [LocatedBox(" in shown
    assert "it has 1 location tokens instead of 4" in shown


def test_files_and_names_on_the_page_exist():
    root = Path(openpali.modeling.__file__).parents[1]
    names = re.findall(r"--config (\w+/\w+)", PAGE)
    assert {"mask_vqvae/builtin", "mask_vqvae/released"} <= set(names)
    for name in names:
        assert find_config(name).is_file()
    for module in re.findall(r"`openpali\.modeling\.(\w+)`", PAGE):
        assert (root / "modeling" / f"{module}.py").is_file()
    assert "mask-vqvae:" in (root / "Makefile").read_text()
