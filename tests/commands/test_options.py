"""Options that are made of a section's fields: types, choices, defaults and help are the fields' own."""

import argparse
from importlib import import_module
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tenner import cli
from tenner.commands import options
from tenner.core.sections import Evaluate, Section, TraceSection


class Example(Section):
    count: Annotated[int, Field(le=9000)] | None = 7
    """How many
    of them; 50 % is a half."""
    kind: Literal["a", "b"] = "b"
    """Which."""
    fast: bool = False
    """Whether."""
    name: str
    """What it is called."""


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    for field in Example.model_fields:
        options.add_field(parser, f"--{field}", Example, field)
    return parser


def test_an_option_is_what_its_field_is(parser):
    assert vars(parser.parse_args([])) == dict.fromkeys(Example.model_fields)
    given = parser.parse_args(["--count", "3", "--kind", "a", "--fast", "--name", "x"])
    assert vars(given) == {"count": 3, "kind": "a", "fast": True, "name": "x"}
    help_ = " ".join(parser.format_help().split())
    assert "--count N How many of them; 50 % is a half (default: 7)" in help_
    assert "--kind {a,b} Which (default: b)" in help_
    assert "--fast Whether --name TEXT What it is called" in help_


@pytest.mark.parametrize("words", [["--count", "x"], ["--kind", "c"]])
def test_what_the_field_is_not_is_refused(parser, words, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert "invalid" in capsys.readouterr().err


def test_an_option_s_bound_is_its_field_s(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--count", "9001"])
    assert "--count: 9001 is not a number up to 9,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "section", "field"),
    [
        ("trace", TraceSection, "concurrency"),
        ("trace", TraceSection, "output_tokens_max"),
        ("measure", Evaluate, "rows"),
        ("measure", Evaluate, "answer_tokens_max"),
    ],
)
def test_a_default_is_the_section_s(verb, section, field, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"(default: {section.model_fields[field].default})" in said


@pytest.mark.parametrize("verb", sorted(cli.COMMANDS))
def test_every_verb_tells_its_options(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: tenner {verb} ")


@pytest.mark.parametrize("text", ["1e308", "-inf", "nan", "1001", "x"])
def test_an_absurd_number_is_refused(text):
    assert options.up_to(1000.0)("1e3") == 1000
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        options.up_to(1000.0)(text)


def test_every_number_of_the_command_line_is_bounded():
    """By `up_to`; the two others are checked where they are read."""
    unbounded = set()
    for verb in cli.COMMANDS:
        for action in verb_options(verb):
            if action.type in (int, float):
                unbounded.add((verb, *action.option_strings))
    assert {option for _, option in unbounded} == {"--budget-usd", "--port"}


def verb_options(verb):
    parser = argparse.ArgumentParser()
    import_module(f"tenner.commands.{cli.COMMANDS[verb].module}").add_options(parser)
    return parser._actions
