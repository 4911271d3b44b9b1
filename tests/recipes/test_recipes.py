"""What every recipe has, and how the command tells of it."""

import argparse
import inspect

import pytest

from normwise.cli import main
from normwise.recipes import NAMES, function_of, recipes
from normwise.recipes.outcome import summary, worded

each_name = pytest.mark.parametrize("name", NAMES)


def test_the_command_lists_them(capsys):
    assert main(["recipe"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.split("\n\n")[0].splitlines()] == list(NAMES)
    assert max(map(len, printed.splitlines())) <= 80


@each_name
def test_help_tells_what_the_docstring_tells(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["recipe", name, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert " ".join(recipes()[name].__doc__.split()) in " ".join(printed.split())
    assert "--out" in printed


@each_name
def test_the_options_are_what_the_function_takes(name):
    """With the same defaults, so that the command does what the function does."""
    parser = argparse.ArgumentParser()
    recipes()[name].add_options(parser)
    parameters = inspect.signature(function_of(name)).parameters
    needed = [action.dest for action in parser._actions if action.required]
    told = vars(parser.parse_args(["word"] * len(needed)))
    assert {*told, "out", "command"} == set(parameters)
    defaults = {option: parameters[option].default for option in told}
    assert {option: told[option] for option in told if option not in needed} == {
        option: default
        for option, default in defaults.items()
        if default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.3861], "0.386"), ([0.384, 0.388], "0.386 ±0.025"), ([0.02361, 0.0236], "0.0236 ±0.0001"),
     ([0.0], "0.000")],
)  # fmt: skip
def test_a_summary_in_words(values, words):
    assert worded(summary(values)) == words
