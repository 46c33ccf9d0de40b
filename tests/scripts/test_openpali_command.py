"""The `openpali` command's table of verbs."""

import re

import openpali_cli  # pyright: ignore[reportMissingImports]


def test_help_has_three_titled_groups_in_the_order_of_use(capsys):
    assert openpali_cli.main(["--help"]) == 0
    usage, *groups, hint = capsys.readouterr().out.rstrip().split("\n\n")
    assert usage == "usage: openpali VERB [options]"
    assert hint == "`openpali VERB --help` lists the options of a verb."
    titles = [group.partition("\n")[0] for group in groups]
    assert titles == ["Use a model:", "Train a model:", "Tar shards and conversion:"]
    verbs = [re.findall(r"^  (\w+) +\w", group, re.MULTILINE) for group in groups]
    assert [group[0] for group in verbs] == ["predict", "transfer", "web"]
    assert [verb for group in verbs for verb in group] == list(openpali_cli.VERBS)


def test_every_verb_is_in_one_group():
    assert sum(map(len, openpali_cli.GROUPS.values())) == len(openpali_cli.VERBS)


def test_lines_fit_on_a_terminal():
    assert max(map(len, openpali_cli.usage().splitlines())) <= 80
