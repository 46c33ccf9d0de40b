"""What several tests of custom data share; each module has a `checkpoint` of its own."""

import json

import pytest
from tiny_mask_vqvae import save_codec

from openpali.data.custom.dataset import read_custom
from openpali.recipes import transfer


@pytest.fixture(scope="session")
def codec(tmp_path_factory):
    return save_codec(tmp_path_factory.mktemp("codec") / "codec")


@pytest.fixture
def check(checkpoint, codec, tmp_path, capsys, monkeypatch):
    """Check data from the command line; returns the error, what was printed and data_check.json."""
    # the image of examples is another test's
    monkeypatch.setattr(transfer, "save_examples", lambda *args: None)

    def run(data, kind, *argv):
        read_custom.cache_clear()
        folder = tmp_path / "run"
        line = ["--model", str(checkpoint), "--data", str(data), "--kind", kind, "--output_dir", str(folder)]
        line += ["--codec", str(codec)] if kind == "segment" else []
        error = ""
        try:
            transfer.main([*line, "--check_only", "true", "--use_cpu", "true", *argv])
        except SystemExit as stop:
            error = str(stop.code)
        path = folder / "data_check.json"
        return error, capsys.readouterr().out, json.loads(path.read_text()) if path.exists() else {}

    return run
