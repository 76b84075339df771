"""Tokenizes and hashes texts for comparison: the same on every machine, and fast enough for millions of questions."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenner.data.notation import TIMES, plain

Hashes = NDArray[np.uint64]

TOKEN = re.compile(rf"[^\W_]+|[+/^=<>{TIMES}]|-(?=\s*\d)")
"""A word, or an operator; a minus only before a digit, since others are hyphens."""
MINUS = re.compile(r"-(?=\s*\d)")
# Characters of scripts without spaces between words (Thai to Burmese, Khmer, kana, Han): each is a word.
_RANGES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_UNSPACED = re.compile(f"[{_RANGES}]")
_BETWEEN_UNSPACED = re.compile(f"(?<=[{_RANGES}]) (?=[{_RANGES}])")
_BLANKS = "-" + "".join(c if c.isalnum() or c in f"+/^=<>{TIMES}" else " " for c in map(chr, range(1, 128)))
OPERATORS = f"+/^=<>-{TIMES}"
WORD, NUMBER, OPERATOR = 0, 1, 2  # the two lowest bits of a token's hash
VOCABULARY_MAX = 500_000
ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio


def tokens(text: str) -> list[str]:
    """Words and operators, without case, punctuation and spacing, and however mathematics is spelled in it.

    See `notation` for the spellings. In scripts that put no spaces between words, each character is a word.
    """
    text = plain(text.replace("\0", " "))
    if not text.isascii():
        return TOKEN.findall(_UNSPACED.sub(r" \g<0> ", text))
    # The same result for ASCII, in half the time.
    text = MINUS.sub("\0", text).translate(_BLANKS) if "-" in text else text.translate(_BLANKS)
    for operator in OPERATORS:
        text = text.replace(operator, f" {operator} ")
    return text.split()


def words(text: str) -> list[str]:
    """The tokens without the operators."""
    return [token for token in tokens(text) if token[0].isalnum()]


def is_unspaced(word: str) -> bool:
    """Whether a word is a character of a script without spaces, as Chinese."""
    return not word.isascii() and _UNSPACED.match(word) is not None


def joined(found: Sequence[str]) -> str:
    """Words as one text, to be read."""
    text = " ".join(found)
    return text if text.isascii() else _BETWEEN_UNSPACED.sub("", text)


def normalise(text: str) -> str:
    """The words with single spaces."""
    return " ".join(words(text))


class Hashed(NamedTuple):
    """Texts as token hashes in one flat array: text i has the tokens `values[starts[i]:starts[i + 1]]`.

    Shapes: values (tokens of all texts,), starts (texts + 1,).
    """

    values: Hashes
    starts: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text. Shape: (texts,)."""
        return np.diff(self.starts)

    def only(self, chosen: NDArray[np.bool_]) -> "Hashed":
        """The same texts with only the `chosen` tokens, one flag per token."""
        before = np.concatenate(([0], np.cumsum(chosen)))  # chosen tokens before each place
        return Hashed(self.values[chosen], before[self.starts])

    def words(self) -> "Hashed":
        """The texts without operators."""
        return self.only((self.values & np.uint64(3)) != OPERATOR)

    def numbers(self) -> "Hashed":
        """The numbers of the texts alone."""
        return self.only((self.values & np.uint64(3)) == NUMBER)


def hashed(texts: Sequence[str]) -> Hashed:
    """Hash the tokens of texts to 64 bits, so that collisions are negligible in a pool of a million."""
    if len(_VOCABULARY) > VOCABULARY_MAX:
        _VOCABULARY.clear()
    values: list[int] = []
    starts = [0]
    for text in texts:
        values.extend(map(_VOCABULARY.__getitem__, tokens(text)))
        starts.append(len(values))
    return Hashed(np.array(values, dtype=np.uint64), np.array(starts, dtype=np.int64))


def sums(values: Hashes, starts: NDArray[np.int64]) -> Hashes:
    """The sum of each text's values, modulo 2^64; 0 for an empty text. Shape: (texts,)."""
    before = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)))
    return before[starts[1:]] - before[starts[:-1]]


def mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def windows(text: Hashed, size: int) -> Hashed:
    """The hash of every window of `size` successive tokens within a text; a shorter text has none."""
    # `first` is the place of each window's first token in `text.values`. Shape: (windows of all texts,).
    counts = np.maximum(text.lengths - size + 1, 0)
    starts = np.concatenate(([0], np.cumsum(counts)))
    first = np.arange(starts[-1]) + np.repeat(text.starts[:-1] - starts[:-1], counts)
    total = np.zeros(len(first), np.uint64)
    for offset in range(size):  # a polynomial in ODD over the window's tokens, so that their order counts
        total = total * ODD + text.values[first + offset]
    return Hashed(mixed(total), starts)


def fingerprints(text: Hashed) -> Hashes:
    """One hash per text, of its tokens in their order. Shape: (texts,)."""
    # Each token is hashed together with its place in its text; the sum over the text is hashed again.
    place = np.arange(len(text.values)) - np.repeat(text.starts[:-1], text.lengths)
    return mixed(sums(mixed(text.values + mixed(place.astype(np.uint64) + ODD)), text.starts))


class _Vocabulary(dict[str, int]):
    """The hash of every token seen so far; its two lowest bits are the kind of the token."""

    def __missing__(self, token: str) -> int:
        kind = NUMBER if token.isdigit() else WORD if token[0].isalnum() else OPERATOR
        digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[token] = int.from_bytes(digest, "little") & ~3 | kind
        return value


_VOCABULARY = _Vocabulary()
