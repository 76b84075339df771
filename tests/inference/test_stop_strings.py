"""Stop strings: however a text is cut into pieces, the same part of it is passed on."""

from random import Random

import pytest

from tenner.inference.stop_strings import StopStrings


def passed_on(pieces: list[str], strings: list[str]) -> tuple[str, bool]:
    stop = StopStrings(strings)
    return "".join(map(stop.feed, pieces)) + stop.flush(), stop.found


@pytest.mark.parametrize(
    ("text", "strings", "expected"),
    [
        ("one two", ["two"], "one "),
        ("one two", ["o", "two"], ""),
        ("three", ["hree", "r"], "th"),  # complete first
        ("one tw", ["two"], "one tw"),
        ("aabaabaaab", ["aabaaa"], "aab"),  # an abandoned beginning holds the true one
        ("one two", [], "one two"),
        ("one\n\ntwo", ["\n\n", "\n"], "one"),
    ],
)
def test_the_one_that_is_complete_first_counts(text: str, strings: list[str], expected: str) -> None:
    assert passed_on([text], strings) == (expected, expected != text)
    assert passed_on(list(text), strings) == (expected, expected != text)


def test_any_cut_into_pieces_gives_the_same() -> None:
    draw = Random(0)
    for _ in range(2_000):
        text = "".join(draw.choices("ab", k=draw.randrange(1, 14)))
        strings = ["".join(draw.choices("ab", k=draw.randrange(1, 5))) for _ in range(draw.randrange(3))]
        places = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(5)))
        pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
        ends = [(text.find(s) + len(s), text.find(s)) for s in strings if s in text]
        expected = text[: min(ends)[1]] if ends else text
        assert passed_on(pieces, strings) == (expected, bool(ends)), (text, strings, pieces)


def test_what_cannot_be_a_beginning_is_passed_on_at_once() -> None:
    stop = StopStrings(["###"])
    assert [stop.feed(piece) for piece in ("a#", "#b", "#", "##c")] == ["a", "##b", "", ""]
    assert stop.found
