"""A command ends with one line on errors of its user or machine, and prints to any console."""

import errno
import io
import subprocess
import sys

import pytest
import torch

from openpali.data.files.config import ConfigError
from openpali.data.images.open_image import BadImage
from openpali.data.records import BadRecord
from openpali.modeling.user_errors import CheckpointError, at_least, command

MENDABLE = {
    "broken": CheckpointError("broken"),
    "f.json:3: odd. Mend it.": BadRecord("f.json", 3, "odd", "Mend it."),
    "no image": BadImage("no image"),
    "no key": ConfigError("no key"),
    "there is no a/b, and it cannot be made: check the path": FileNotFoundError(errno.ENOENT, "gone", "a/b"),
    "a is a file, or lies below one, where a folder is wanted: give another name": FileExistsError(17, "there", "a"),
    "a is a folder where a file is wanted": IsADirectoryError(errno.EISDIR, "folder", "a"),
    "a cannot be read or written (denied): mend its permissions, or give another": PermissionError(13, "denied", "a"),
    "two lines": OSError("two\n  lines"),
    "No module named 'sklearn.svm': pip install \"openpali[eval]\"": ModuleNotFoundError(
        "No module named 'sklearn.svm'", name="sklearn.svm"
    ),
    'needs deepspeed>=0.9: pip install "openpali[deepspeed]"': ModuleNotFoundError("needs deepspeed>=0.9"),
    "full. Take smaller batches, images or weights, or another --device.": torch.OutOfMemoryError("full."),
}


def raising(error, *others):
    @command("openpali x", *others)
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize("line", MENDABLE)
def test_what_can_be_mended_is_one_line(line, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        raising(MENDABLE[line])([])
    assert stop.value.code == f"openpali x: {line}"
    monkeypatch.setenv("OPENPALI_TRACEBACK", "1")
    with pytest.raises(type(MENDABLE[line])):
        raising(MENDABLE[line])([])


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ValueError, match="a bug"):
        raising(ValueError("a bug"))([])
    with pytest.raises(SystemExit, match="openpali x: an option"):
        raising(ValueError("an option"), ValueError)([])


def test_an_interrupt_ends_with_its_own_status(capsys):
    with pytest.raises(SystemExit) as stop:
        raising(KeyboardInterrupt())([])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "openpali x: interrupted\n"


def test_a_reader_that_has_enough_is_no_error():
    code = (
        "from openpali.modeling.user_errors import command\n"
        "@command('openpali x')\n"
        "def main(argv=None):\n"
        "    while True:\n"
        "        print('line', flush=True)\n"
        "main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "K\\xe4se \\u82f9"), ("cp1252", "Käse \\u82f9"), ("utf-8", "Käse 苹")]
)
def test_letters_that_a_console_lacks_are_numbers(encoding, shown, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))

    @command("openpali x")
    def main(argv=None):
        print("Käse 苹", flush=True)

    main([])
    assert written.getvalue().decode(encoding) == f"{shown}\n"


def test_whole_numbers_from_some_on():
    assert at_least(1)("3") == 3
    with pytest.raises(Exception, match="it is at least 1, not 0"):
        at_least(1)("0")
    with pytest.raises(ValueError, match="invalid literal"):
        at_least(1)("x")
