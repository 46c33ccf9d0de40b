"""A short version of ten_kills.py, which is run by hand."""

import os
import sys

from ten_kills import ten_kills


def test_two_kills_at_random_moments_change_nothing(one_thread, monkeypatch, tmp_path, capsys):
    # where the processes find their module
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert ten_kills(tmp_path, kills=2, steps=16, seed=1) == 2
    assert "kill 2: from step" in capsys.readouterr().out
