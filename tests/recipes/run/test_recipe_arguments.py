from dataclasses import dataclass, field

import pytest
import yaml

from openpali.data.files.config import CONFIGS, ConfigError, find_config
from openpali.recipes.run.arguments import RunArguments, save_config
from openpali.recipes.run.command_line import command, expand_mappings, parse


@dataclass
class Extra:
    data: str | None = None
    source: dict | str | None = None
    languages: list[str] = field(default_factory=lambda: ["en"])


def write(folder, **content):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(folder / "run"), **content}))
    return str(path)


def test_file_and_overrides(tmp_path):
    path = write(tmp_path, learning_rate=3e-4, max_steps=7, source={"name": "emoji", "size": 64}, freeze=["a"])
    extra, run = parse(
        [Extra, RunArguments],
        ["--config", path, "--data", "my.jsonl", "--max_steps=9", "--languages", "de", "fr", "--source.size", "32"],
    )
    assert (extra.data, extra.languages) == ("my.jsonl", ["de", "fr"])
    assert extra.source == {"name": "emoji", "size": 32}
    assert (run.learning_rate, run.max_steps, run.freeze) == (3e-4, 9, ["a"])


def test_scientific_notation_is_a_number_everywhere(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\nlearning_rate: 1e-3\nmax_steps: 1e3\nlr_multipliers: {{vision_tower: 1e-1}}\n"
    )
    (run,) = parse([RunArguments], ["--config", str(path)])
    assert (run.learning_rate, run.max_steps, run.lr_multipliers) == (1e-3, 1000, {"vision_tower": 0.1})


def test_words_that_look_like_numbers_stay_words(tmp_path):
    extra, _ = parse([Extra, RunArguments], ["--config", write(tmp_path, data="1e5a.jsonl")])
    assert extra.data == "1e5a.jsonl"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"learning_rat": 1}, r"run.yaml: unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
        ({"max_steps": "many"}, "run.yaml: max_steps must be a whole number, not 'many'"),
        ({"max_steps": 1.5}, "max_steps must be a whole number, not 1.5"),
        ({"learning_rate": [1]}, "learning_rate must be a number"),
        ({"freeze": "vision_tower"}, "freeze must be a list"),
        ({"overwrite": "perhaps"}, "overwrite must be true or false"),
        ({"schedule": "linear"}, "schedule must be one of cosine, rsqrt, constant"),
        ({"label_smoothing_factor": 0.1}, "use label_smoothing"),
        ({"load_best_model_at_end": True}, "eval_steps turns evaluation on"),
    ],
)
def test_mistakes_in_the_file_name_file_key_and_remedy(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        parse([Extra, RunArguments], ["--config", write(tmp_path, **content)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max_stpes", "3"], r"unknown argument --max_stpes; did you mean 'max_steps'\?"),
        (["--max_steps", "three"], "invalid int value: 'three'"),
        (["--config", "pali3/no-such"], "no configuration file pali3/no-such"),
        (["--config"], "--config needs a value"),
        (["--sorce.size", "3"], "did you mean 'source'"),
        (
            ["--output_dir", "x", "--lr_multipliers", "{a"],
            r"lr_multipliers: '\{a' is not YAML .*put quotation marks around texts",
        ),
        (["--source.path", "@x"], r"--source.path: '@x' is not YAML"),
        (["--output_dir", "x", "--report_to", "nothing"], "nothing is not supported, only"),
        (["--output_dir", "x", "--logging_steps", "0"], "requires non-zero --logging_steps"),
        (["--output_dir", "x", "--lr_multipliers", "[1]"], "lr_multipliers must be a mapping"),
        ([], "output_dir is missing"),
    ],
)
def test_mistakes_on_the_command_line(argv, message):
    with pytest.raises(ConfigError, match=message):
        extra, _ = parse([Extra, RunArguments], argv)


NUMBERS = {"eval_limit": 0, "per_device_train_batch_size": 0, "gradient_accumulation_steps": 0, "adam_beta2": 1.0}
NUMBERS |= {"learning_rate": -1e-3, "seed": -1, "dataloader_num_workers": -1, "save_steps": -1, "num_train_epochs": -1}


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_that_lead_nowhere_are_told_wherever_they_stand(tmp_path, key):
    with pytest.raises(ConfigError, match=f"^{key}=.*: it is"):
        parse([Extra, RunArguments], ["--output_dir", "x", f"--{key}", str(NUMBERS[key])])
    with pytest.raises(ConfigError, match=f"^{key}=.*: it is"):
        parse([Extra, RunArguments], ["--config", write(tmp_path, **{key: NUMBERS[key]})])


def test_a_mapping_without_a_name_changes_what_is_there():
    line = ["--task", "{codec: a/b, things: [x, y]}", "--source={name: emoji}", "--seed", "1"]
    expected = ["--source={name: emoji}", "--seed", "1", "--task.codec", '"a/b"', "--task.things", '["x", "y"]']
    assert expand_mappings(line, ("source", "task")) == expected
    _, run = parse(
        [Extra, RunArguments], ["--output_dir", "x", *expand_mappings(["--source", "{size: 3}"], ("source",))]
    )
    assert run.resolved["source"] == {"size": 3}


def test_a_file_in_another_encoding_is_told(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("output_dir: Käse".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run.yaml is not UTF-8 \(byte 13\): save it as UTF-8"):
        parse([RunArguments], ["--config", str(path)])
    path.write_text("output_dir: Käse", "utf-8-sig")
    assert parse([RunArguments], ["--config", str(path)])[0].output_dir == "Käse"


def test_resolved_configuration_reads_back_to_the_same_run(tmp_path):
    path = write(tmp_path, learning_rate="2e-3", source={"name": "emoji"}, warmup_steps=0.1)
    argv = ["--config", path, "--languages", "de", "--source.size", "32"]
    first, run = parse([Extra, RunArguments], argv)
    save_config(tmp_path / "config.yaml", run)
    again, rerun = parse([Extra, RunArguments], ["--config", str(tmp_path / "config.yaml")])
    assert again == first
    assert rerun.resolved == run.resolved
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["learning_rate"] == 2e-3
    assert saved["schedule"] == "cosine"
    assert "adam_epsilon" not in saved


def test_shipped_configurations_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = CONFIGS / "pali3" / "nano-pretrain.yaml"
    for name in ("pali3/nano-pretrain", "recipes/configs/pali3/nano-pretrain.yaml", "pali3/nano-pretrain.yaml"):
        assert find_config(name) == wanted
    with pytest.raises(ConfigError, match="did you mean 'pali3/nano-pretrain'"):
        find_config("pali3/nano-pretain")


def test_command_ends_with_one_sentence(capsys):
    @command
    def main(argv=None):
        raise ConfigError("say it plainly")

    with pytest.raises(SystemExit, match="^error: say it plainly$"):
        main([])


def test_help_shows_the_defaults_and_what_the_file_changes(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("rsqrt_timescale: 7\n")
    with pytest.raises(SystemExit):
        parse([RunArguments], ["--config", str(path), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "object object" not in shown
    assert "steps after which rsqrt is 0.71 (default: 7)" in shown
    assert "share of the run) in which rsqrt falls to 0 (default: 0.0)" in shown


def test_processes_that_do_not_find_each_other_write_no_run(tmp_path, monkeypatch):
    (run,) = parse([RunArguments], ["--output_dir", str(tmp_path / "run")])
    run.check_processes()
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="the launcher started 2 processes, and on this device .* start one, or give"
    ):
        run.check_processes()
    monkeypatch.setenv("WORLD_SIZE", "1")
    run.check_processes()
    # of a cluster, with no launcher here
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK")
    run.check_processes()


def test_a_launcher_on_cpus_is_told_from_one_on_gpus(tmp_path, monkeypatch):
    (run,) = parse([RunArguments], ["--output_dir", str(tmp_path / "run")])
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert not run.launched_on_cpus()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run.launched_on_cpus()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert not run.launched_on_cpus()
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    run.bf16 = True
    assert not run.launched_on_cpus()
    run.bf16 = False
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert not run.launched_on_cpus()


def test_half_precision_without_a_gpu_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ConfigError, match="doesn't support bf16.*; or give --bf16 false for float32$"):
        parse([RunArguments], ["--output_dir", str(tmp_path / "run"), "--bf16", "true"])
    (run,) = parse([RunArguments], ["--output_dir", str(tmp_path / "run"), "--bf16", "true", "--use_cpu", "true"])
    assert run.bf16


@pytest.mark.parametrize("option", [["--freeze", "none"], ["--freeze"], ["--freeze=none"]])
def test_freeze_none_and_the_bare_option_empty_the_list_of_the_configuration(option, tmp_path):
    path = write(tmp_path, freeze=["a"])
    (run,) = parse([RunArguments], ["--config", path, *option])
    assert (run.freeze, run.resolved["freeze"]) == ([], [])


def test_freeze_takes_none_in_a_list_and_alone(tmp_path):
    assert parse([RunArguments], ["--config", write(tmp_path, freeze=["none"])])[0].freeze == []
    for names in (["none", "vision_tower"], ["vision_tower", "none"]):
        with pytest.raises(ConfigError, match="freeze: none cannot stand beside vision_tower"):
            parse([RunArguments], ["--output_dir", "x", "--freeze", *names])
