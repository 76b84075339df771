"""Boilerplate: the stock phrases and common words of contest questions, and the text that is left without them."""

import re
import tomllib
from functools import cache
from importlib import resources
from itertools import chain

DISTINCTIVE_WORDS_MIN = 3
"""From so many different distinctive words on, shared text is evidence of copying."""
RUN_WORDS_MIN = 16
"""From so many words on, of whatever kind, one shared run is evidence, too."""


def is_evidence(runs: list[list[str]]) -> bool:
    """Whether the runs of words that two questions share show that one was taken from the other."""
    left = [without_phrases(run) for run in runs]
    distinctive = {word for word in chain.from_iterable(left) if _is_distinctive(word)}
    return len(distinctive) >= DISTINCTIVE_WORDS_MIN or max(map(len, left), default=0) >= RUN_WORDS_MIN


def without_phrases(words: list[str]) -> list[str]:
    """The words that are not part of a stock phrase of contests."""
    text = " ".join(words)
    for phrase in _phrases():
        text = phrase.sub(" ", text)
    return text.split()


def _is_distinctive(word: str) -> bool:
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
