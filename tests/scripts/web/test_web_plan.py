"""Mistakes in a configuration of `openpali web` are one line, before Ray is started."""

from pathlib import Path

import pytest
from raw_web import scene, write_raw_web

from openpali.scripts.web.command import main, read_arguments
from openpali.scripts.web.passes import MOST_ATTEMPTS, note_attempt
from openpali.scripts.web.running.plan import WebArguments, plan_run


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("plan")
    write_raw_web(folder, shards=1, size=12)
    return str(folder / "raw")


MISTAKES = [
    ([], "steps: there are none"),
    (["no_such_step"], "steps: there is no step 'no_such_step'; known are language, "),
    ([{"share": 0.5}], "steps: step 1 must be a name or a mapping with a name"),
    ([{"name": "hashes", "batchsize": 4}], "steps: 01-hashes: unknown option 'batchsize'; did you mean 'batch_size'"),
    ([{"name": "hashes", "batch_size": 0}], "steps: 01-hashes: batch_size is at least 1, not 0"),
    (
        [{"name": "image_rules", "least_side": "big"}],
        "steps: 01-image_rules: least_side must be a whole number, not 'big'",
    ),
    (["duplicates"], "steps: 01-duplicates needs the step hashes before it"),
    (["best_share"], "steps: 01-best_share needs the step similarity before it"),
    (["similarity"], "steps: 01-similarity: model: give the folder or Hub name of a SigLIP"),
    ([{"name": "language", "among": ["en", "xx"]}], "steps: 01-language: among: 'xx' is none of af, "),
    (
        [{"name": "language", "languages": ["de"], "among": ["en", "fr"]}],
        "steps: 01-language: among: 'de' of languages",
    ),
    (["hashes", "evaluation_images"], "steps: 02-evaluation_images: against: give folders of images"),
]


@pytest.mark.parametrize(("steps", "line"), MISTAKES)
def test_a_mistake_is_one_line(raw, steps, line):
    with pytest.raises(ValueError, match="^" + line.replace("(", r"\(")) as caught:
        plan_run(WebArguments(input=[raw], steps=steps))
    assert "\n" not in str(caught.value)


def written(folder: Path) -> str:
    """A configuration with two steps."""
    (folder / "web.yaml").write_text("steps: [hashes, {name: image_rules, least_side: 8}]\n")
    return str(folder / "web.yaml")


def test_missing_shards_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: input: there are no shards"):
        main(
            ["--config", written(tmp_path), "--input", str(tmp_path / "none*.tar"), "--output", str(tmp_path / "out")]
        )


def test_the_command_line_changes_options_of_a_step(raw, tmp_path):
    args, _ = read_arguments(["--config", written(tmp_path), "--input", raw, "--steps.image_rules.least_side", "16"])
    assert plan_run(args).steps[1].step.least_side == 16
    with pytest.raises(
        ValueError, match=r"^steps: there is no step 'ocr' in this configuration, but hashes, image_rules$"
    ):
        read_arguments(["--config", written(tmp_path), "--steps.ocr.engine", "x"])


def test_another_configuration_in_the_same_folder_is_refused(raw, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text('{"language": "en"}')
    with pytest.raises(SystemExit, match="has a run with other settings"):
        main(["--config", written(tmp_path), "--input", raw, "--output", str(tmp_path / "out")])


def test_steps_with_equal_resources_read_the_images_together(raw):
    steps = ["text_rules", "image_rules", "hashes", "duplicates", {"name": "image_rules", "gpus": 0.5}, "text_rules"]
    passes = [[plan.folder for plan in plans] for plans in plan_run(WebArguments(input=[raw], steps=steps)).passes()]
    assert passes == [
        ["01-text_rules", "02-image_rules", "03-hashes"],
        ["04-duplicates"],
        ["05-image_rules"],
        ["06-text_rules"],
    ]


def test_a_shard_at_which_workers_die_again_and_again_ends_the_run(tmp_path):
    for _ in range(MOST_ATTEMPTS):
        note_attempt(tmp_path / "01-ocr" / "0007")
    with pytest.raises(Exception, match=f"^0007: {MOST_ATTEMPTS} workers died at this shard in 01-ocr: "):
        note_attempt(tmp_path / "01-ocr" / "0007")


def test_images_of_the_raw_web_differ():
    assert scene(1).tobytes() != scene(2).tobytes()
