import os
import socket
import sys

import pytest
from tiny_adapters import adapted_model, save_checkpoint

from openpali.eval import web_demo
from openpali.eval.web_demo import main as demo


@pytest.fixture
def model(tiny_tokenizer, tmp_path, monkeypatch):
    """The folder of a tiny PaliGemma; the environment is put back at the end."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "model")


def test_it_serves_on_this_machine_alone_until_it_is_interrupted(model, monkeypatch, capsys):
    found = []

    def wait():
        address = capsys.readouterr().out.split(" answers on ")[1].split()[0]
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        found.append((host, socket.create_connection((host, int(port)), 10).close(), os.environ["GRADIO_TEMP_DIR"]))
        assert os.path.isdir(found[0][2])

    monkeypatch.setattr(web_demo, "wait", wait)
    demo([str(model), "--device", "cpu"])
    assert found[0][0] == "127.0.0.1"
    assert not os.path.exists(found[0][2])


def test_a_missing_gradio_is_told_before_the_model_loads(model, monkeypatch):
    monkeypatch.setattr(web_demo, "load_model", lambda *_: pytest.fail("it was loaded"))
    monkeypatch.delitem(sys.modules, "openpali.eval.web.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match=r'^openpali demo: .*gradio.*: pip install "openpali\[page\]"$'):
        demo([str(model)])


def test_a_model_that_is_not_there_is_one_line(model):
    with pytest.raises(SystemExit, match=r"^openpali demo: .*outputs/nowhere") as stop:
        demo(["outputs/nowhere", "--device", "cpu"])
    assert "\n" not in str(stop.value.code)


def test_a_port_that_is_taken_is_one_line(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        match = f"^openpali demo: port {port} of 127.0.0.1 cannot be used .*: give another --port or --host$"
        with pytest.raises(SystemExit, match=match):
            demo([str(model), "--device", "cpu", "--port", str(port)])


@pytest.mark.parametrize("option", [("--port", "0"), ("--time_limit", "0"), ("--time_limit", "inf"), ("--port", "x")])
def test_numbers_out_of_bounds_are_an_error(option, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        demo(["model", *option])
    assert f"argument {option[0]}: " in capsys.readouterr().err


@pytest.mark.adapters
def test_adapters_are_answered_with(model, tmp_path, monkeypatch, capsys):
    adapted = adapted_model(model, "lora")
    adapted.save_pretrained(tmp_path / "adapters")
    monkeypatch.setattr(web_demo, "wait", lambda: None)
    demo([str(tmp_path / "adapters"), "--device", "cpu"])
    assert f"{tmp_path / 'adapters'} answers on http://127.0.0.1:" in capsys.readouterr().out
