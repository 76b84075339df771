"""Wording that many questions share: what it is made of, and what is left of a text without it."""

import re
import tomllib
from functools import cache
from importlib import resources
from itertools import chain

TELLING_WORDS = 3
"""Different words beyond the boilerplate from which on shared text is no coincidence."""
TELLING_LENGTH = 16
"""Words, of whatever kind, from which on it is none either."""


def is_telling(runs: list[list[str]]) -> bool:
    """Whether stretches of words that two questions share say that one was taken from the other."""
    left = [without_phrases(run) for run in runs]
    telling_words = {word for word in chain.from_iterable(left) if _is_telling_word(word)}
    return len(telling_words) >= TELLING_WORDS or max(map(len, left), default=0) >= TELLING_LENGTH


def without_phrases(words: list[str]) -> list[str]:
    """The words that are not part of a turn of phrase of contests."""
    text = " ".join(words)
    for phrase in _phrases():
        text = phrase.sub(" ", text)
    return text.split()


def _is_telling_word(word: str) -> bool:
    return len(word) > 1 and word not in _common_words()


@cache
def _tables() -> dict[str, object]:
    return tomllib.loads((resources.files("tenner.data") / "boilerplate.toml").read_text("utf-8"))


@cache
def _common_words() -> frozenset[str]:
    words = _tables()["words"]
    assert isinstance(words, str)
    return frozenset(words.split())


@cache
def _phrases() -> tuple[re.Pattern[str], ...]:
    phrases = _tables()["phrases"]
    assert isinstance(phrases, list)
    return tuple(re.compile(rf"\b{phrase}" if phrase.endswith("$") else rf"\b{phrase}\b") for phrase in phrases)
