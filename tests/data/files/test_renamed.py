import pytest

from openpali.data.files import renamed
from openpali.data.files.config import as_dict, find_config
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.recipes.contrastive import ContrastiveArguments, ContrastiveRun
from openpali.recipes.run.command_line import read_values


@pytest.fixture(autouse=True)
def not_said_yet():
    renamed._announce.cache_clear()


def test_an_old_option_and_an_old_key_are_taken_with_a_line(tmp_path, capsys):
    path = tmp_path / "old.yaml"
    path.write_text("texts_per_picture: 3\noutput_dir: x\n")
    assert read_values([ContrastiveArguments, ContrastiveRun], ["--config", str(path)]).values["texts_per_image"] == 3
    assert capsys.readouterr().err.startswith("texts_per_picture is called texts_per_image now")
    for line in (["--texts_per_picture", "2"], ["--texts_per_picture=2"]):
        assert read_values([ContrastiveArguments, ContrastiveRun], line).values["texts_per_image"] == 2
    # once is enough
    assert capsys.readouterr().err == ""


def test_an_old_source_task_and_configuration_are_taken_with_a_line(tmp_path, capsys):
    (tmp_path / "my.jsonl").write_text('{"image": "a.png", "caption": "a dog"}\n')
    assert load_task({"name": "own", "kind": "caption"}).name == "custom"
    assert capsys.readouterr().err.count("own is called custom now") == 1
    assert as_dict({"name": "own", "path": "x"}, "source")["name"] == "custom"
    assert as_dict({"name": "own"}, "text_config")["name"] == "own"
    assert find_config("transfers/own").stem == "custom"
    assert "transfers/own is called transfers/custom now" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no source 'owm'"):
        load_source({"name": "owm"})
