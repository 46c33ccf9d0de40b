"""A short version of ten_kills.py, which is run by hand."""

import os
from pathlib import Path

import pytest
import torch
from ten_kills import ten_kills


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As many as in the processes, which find their module by this path."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    yield
    torch.set_num_threads(threads)


def test_two_kills_at_random_moments_change_nothing(tmp_path, capsys):
    assert ten_kills(tmp_path, kills=2, steps=16, seed=1) == 2
    assert "kill 2: from step" in capsys.readouterr().out
