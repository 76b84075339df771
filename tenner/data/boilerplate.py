"""Boilerplate: the stock phrases and common words of contest questions, and the text that is left without them."""

import re
import tomllib
from functools import cache
from importlib import resources
from itertools import chain

from tenner.data.text_hashing import is_unspaced

DISTINCTIVE_WORDS_MIN = 3
"""From so many different distinctive words on, shared text is evidence of copying."""
RUN_WORDS_MIN = 16
"""From so many words on, of whatever kind, one shared run is evidence, too."""
CHARACTERS_PER_WORD = 1.5
"""Where each character is a word, as in Chinese, so many of them say as much as a word elsewhere."""


def is_evidence(runs: list[list[str]]) -> bool:
    """Whether the runs of words that two questions share show that one was taken from the other."""
    left = [without_phrases(run) for run in runs]
    distinctive = {word for word in chain.from_iterable(left) if _is_distinctive(word)}
    return len(distinctive) >= DISTINCTIVE_WORDS_MIN or max(map(_length, left), default=0) >= RUN_WORDS_MIN


def without_phrases(words: list[str]) -> list[str]:
    """The words that are not part of a stock phrase of contests."""
    text = " ".join(words)
    for phrase in _phrases():
        text = phrase.sub(" ", text)
    return text.split()


def _length(words: list[str]) -> float:
    characters = sum(map(is_unspaced, words))
    return len(words) - characters + characters / CHARACTERS_PER_WORD


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
