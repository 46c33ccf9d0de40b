"""The costs of a configuration, computed by hand for one of its steps, and rates that are measured here."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from transformers import BertConfig, M2M100Config, SiglipConfig, T5Config, ViTConfig

from openpali.modeling.user_errors import UserError
from openpali.recipes.costs.forward_passes import Lengths
from openpali.recipes.costs.layer_flops import encoder_decoder, stacks_of
from openpali.scripts.web import rates
from openpali.scripts.web.costs import PlanArguments, human, kept_shares, passes, plan_lines, plan_rows, read_rates
from openpali.scripts.web.model_costs import GPUS, ModelUse, config_size, gpu_seconds, model_size, model_uses
from openpali.scripts.web.steps.questions import Questions
from openpali.scripts.web.steps.safety import Safety

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@dataclass
class Plain:
    """The options of a step without any."""


@dataclass
class Planned:
    """A step as the run plans it."""

    name: str
    step: Any = field(default_factory=Plain)
    cpus: float = 1.0
    gpus: float = 0.0
    actors: int | None = None
    folder: str = ""
    is_whole: bool = False

    def __post_init__(self) -> None:
        self.folder = self.folder or self.name


@dataclass
class Best:
    share: float = 0.25


@dataclass
class Copies:
    distance: int = 6


@dataclass
class Scores:
    model: str


@pytest.fixture
def siglip(tmp_path):
    SiglipConfig(vision_config=SIZE | {"image_size": 32}, text_config=SIZE).save_pretrained(tmp_path / "siglip")
    return str(tmp_path / "siglip")


def rows_of(steps, **options):
    notes: list[str] = []
    args = PlanArguments(True, 1e6, nodes=2, node_cpus=10, **options)
    return {row.name: row for row in plan_rows(steps, args, read_rates(), notes)}, notes


def test_flops_are_those_of_the_formulas():
    t5 = T5Config(d_model=64, d_ff=128, num_layers=3, num_decoder_layers=2, num_heads=4, d_kv=16)
    formula = sum(one.flops(False, False, False) - 2 * one.logits for one in encoder_decoder(t5, 0, Lengths(28, 12)))
    size = config_size(t5, "write", 28, 12)
    assert size.flops == formula
    assert size.decoder_layers == 2
    # half of it is the table of 32,128 tokens
    assert size.decoder_bytes == pytest.approx(2 * (32128 * 64 + 2 * (8 * 64 * 64 + 2 * 64 * 128)), rel=0.01)
    siglip = SiglipConfig()
    formula = sum(one.flops(False, False, False) for one in stacks_of("contrastive", siglip, Lengths(64, 0)))
    # the formula has no pooling head
    assert 1 < config_size(siglip, "pair").flops / formula < 1.02


@pytest.mark.parametrize(
    ("config", "kind", "layers"),
    [
        (ViTConfig(**SIZE), "image", 0),
        (SiglipConfig(vision_config=SIZE), "image", 0),
        (BertConfig(**SIZE), "text", 0),
        (M2M100Config(d_model=16, encoder_layers=1, decoder_layers=3, vocab_size=99), "write", 3),
    ],
)
def test_other_models_are_counted_too(config, kind, layers):
    size = config_size(config, kind, 8, 4)
    assert size.flops > 1e4
    assert size.decoder_layers == layers


def test_written_tokens_take_the_time_of_their_launches(tmp_path):
    T5Config(d_model=16, d_ff=16, num_layers=1, num_decoder_layers=2, num_heads=1, d_kv=16).save_pretrained(tmp_path)
    use = ModelUse(str(tmp_path), "write", 3, 28, 12)
    flops = model_size(str(tmp_path), "write", 28, 12).flops
    # 12 tokens through two layers of a millisecond each, for a batch of 128
    expected = 3 * (flops / (0.4 * 989e12) + 12 * 2e-3 / 128)
    assert gpu_seconds(use, GPUS["H100"]) == pytest.approx(expected)


def test_each_step_has_the_pairs_that_reach_it(siglip):
    steps = [
        Planned("text_rules"),
        Planned("hashes"),
        Planned("similarity", Scores(siglip), gpus=0.25),
        Planned("best_share", Best(), is_whole=True),
        Planned("duplicates", Copies(), is_whole=True),
        Planned("questions", Questions()),
    ]
    assert [[one.name for one in own] for own in passes(steps)] == [
        ["text_rules", "hashes"],
        ["similarity"],
        ["best_share"],
        ["duplicates"],
        ["questions"],
    ]
    rows, notes = rows_of(steps, node_gpus=4)
    assert rows["hashes"].cpu == pytest.approx(1e6 * read_rates()["steps"]["hashes"]["seconds"])
    assert rows["hashes"].wall == pytest.approx(rows["hashes"].cpu / 20)
    assert rows["similarity"].gpu > 0
    assert rows["similarity"].cpu == pytest.approx(1e6 * read_rates()["prepare"])
    # there is room for 20 actors of one core, or for 32 of a quarter of a GPU
    assert rows["similarity"].wall == pytest.approx((rows["similarity"].cpu + rows["similarity"].gpu) / 20)
    assert (rows["similarity"].source, rows["hashes"].source) == ("computed", "measured")
    # every pass reads all shards
    assert (rows["reading"].read, rows["reading"].pairs) == (25e9, 250_000)
    assert rows["duplicates"].shuffled == 250_000 * 7 * 40
    assert rows["questions"].pairs == 250_000
    assert rows["writing shards"].written == 250_000 * (25_000 + 2500)
    assert [note.split()[0] for note in notes] == ["best_share"]
    assert (rows["best_share"].source, rows["duplicates"].source) == ("unknown", "measured")


def test_a_model_without_a_gpu_takes_the_time_of_cores(siglip):
    rows, _ = rows_of([Planned("similarity", Scores(siglip), actors=3, cpus=2)])
    row, known = rows["similarity"], read_rates()
    assert row.gpu == 0
    per_pair = model_size(siglip, "pair", 24, 0).flops / known["core_flops"] + known["prepare"]
    assert row.cpu == pytest.approx(1e6 * per_pair)
    # six cores work at a time
    assert row.wall == pytest.approx(row.cpu / 6)
    with pytest.raises(UserError, match="the machines have none: give --node_gpus"):
        rows_of([Planned("similarity", Scores(siglip), gpus=1)])


def test_shares_come_from_the_counts_of_a_trial_run(tmp_path):
    steps = [Planned("text_rules", folder="01-text_rules"), Planned("hashes", folder="02-hashes")]
    counts = {"steps": [{"step": "01-text_rules", "reached": 200, "dropped": {"short": 30, "long": 20}}]}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    assert kept_shares(steps, str(tmp_path / "counts.json")) == {"01-text_rules": 0.75, "02-hashes": 1.0}
    rows, _ = rows_of(steps, counts=str(tmp_path / "counts.json"))
    assert rows["02-hashes"].pairs == 750_000
    (tmp_path / "counts.json").write_text("[]")
    with pytest.raises(UserError, match=r"counts.json is no counts.json of a run"):
        kept_shares(steps, str(tmp_path / "counts.json"))


def test_the_table_is_aligned_and_says_what_it_assumes():
    args = PlanArguments(True, 1e9, nodes=64)
    lines = plan_lines([Planned("text_rules"), Planned("masks", Scores("somewhere"), folder="02-masks")], args)
    assert lines[0] == "1,000,000,000 pairs of 25 kB on 64 machines of 32 cores"
    places = {line.index("1,000,000,000") for line in lines[2:7]}
    assert len(places) == 1
    assert [line.split()[0] for line in lines[1:7]] == [
        "step",
        "reading",
        "text_rules",
        "02-masks",
        "writing",
        "total",
    ]
    assert "kept: every step but best_share is taken to keep all" in lines[-2]
    assert lines[-1] == "02-masks is not in the sums: there is no formula for masks."
    assert [human(size) for size in (0, 999, 25e12, 3e18)] == ["-", "999 B", "25 TB", "3e+03 PB"]


def test_a_model_that_is_not_there_leaves_its_step_out(tmp_path):
    rows, notes = rows_of([Planned("questions", Questions(model=str(tmp_path / "none")))])
    assert rows["questions"].source == "unknown"
    assert "no folder" in notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "wants --pairs"),
        ({"pairs": 9, "gpu": "V100"}, "gpu is one of A100, L4"),
        ({"pairs": 9, "nodes": 0}, "nodes and node_cpus are at least 1"),
        ({"pairs": 9, "node_gigabytes": 0}, "are above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        plan_lines([Planned("hashes")], PlanArguments(True, **options))


def test_uses_of_models_follow_the_options(monkeypatch):
    monkeypatch.setattr("openpali.scripts.web.steps.safety.label_of", lambda model, label, option: label)
    both = Safety("images", {"nsfw": 0.5}, "texts", {"toxic": 0.5})
    assert [(use.model, use.kind) for use in model_uses("safety", both)] == [("images", "image"), ("texts", "text")]
    asked = Questions(model="t5", further_answers=["yes", "no"], answer_model="qa")
    assert [(use.model, use.times) for use in model_uses("questions", asked)] == [("t5", 8), ("qa", 8)]
    assert model_uses("questions", Questions()) == []


def test_rates_are_measured_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENPALI_CACHE", str(tmp_path / "cache"))
    rates.main(["--steps", "questions", "--samples", "3", "--side", "48", "--output", str(tmp_path / "rates.yaml")])
    found = yaml.safe_load((tmp_path / "rates.yaml").read_text())
    assert found.keys() == read_rates().keys()
    assert found["command"] == "python -m openpali.scripts.web.rates --steps questions --samples 3 --side 48"
    assert found["steps"].keys() == {"questions"}
    assert 0 <= found["steps"]["questions"]["seconds"] < 1
    assert found["core_flops"] > 1e8
    assert capsys.readouterr().out.startswith("machine: ")
    with pytest.raises(SystemExit, match="no configuration file nowhere"):
        rates.main(["--config", "nowhere", "--output", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("input: x")
    with pytest.raises(SystemExit, match=r"b.yaml has no list of steps"):
        rates.main(["--config", str(tmp_path / "b.yaml"), "--output", str(tmp_path / "a.yaml")])
