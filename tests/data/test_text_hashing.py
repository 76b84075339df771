import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from tenner.data.puzzles import FAMILIES, generate
from tenner.data.text_hashing import fingerprints, hashed, joined, normalise, tokens, windows


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("What  is 7+4,\n“Ann”?", "what is 7+4 ann"),
        (r"$\left( \dfrac{1}{2} \right)$", r"(\frac12)".replace("12", "{1}{2}")),
        (r"$x,$ $y,$ and\, $z$", "x, y and z"),
        ("a three-digit number", "a three digit number"),
        ("5 − 3", "5-3"),  # noqa: RUF001  a real minus
        (r"\text{Find } x_1", r"Find x_{1}"),
    ],
)
def test_the_same_but_for_how_it_is_set(text, same):
    assert tokens(text) == tokens(same)


@pytest.mark.parametrize(("text", "other"), [("3+5", "3-5"), ("3/5", "3 5"), ("x = 1", "x < 1"), ("x^2", "x_2")])
def test_operators_tell_texts_apart_though_they_are_no_words(text, other):
    assert tokens(text) != tokens(other)
    assert fingerprints(hashed([text]))[0] != fingerprints(hashed([other]))[0]
    assert normalise(text) == normalise(other)


def test_ascii_is_read_like_the_rest():
    r = random.Random(0)
    for _ in range(3000):
        text = "".join(r.choices("aB3 -_~+/^=<>.,\\$\n\t\x1c{}()", k=r.randint(0, 12)))
        assert tokens(text) == [t for t in tokens(f"{text} é") if t != "é"], text


def test_plain_ascii_has_the_hashes_that_it_always_had():
    """The selected ids of existing runs depend on them."""
    texts = [
        "A baker in Trondheim sells 340 rye loaves, and 125 buns; how much (in $) is 3*4 - 2?",
        "What is 7+4 <= 11, or 12/5 > -3?",
        "three-digit x_1 snake_case 2x 1, 250 and 1,2 or 3.5%",
        '"Quote" don\'t\n a\tb~c 5-3 = 2 a - b -- -7',
    ]
    text = hashed(texts)
    assert fingerprints(text).tolist() == [
        1731822672310194296, 17795936004526034247, 9625236926910813483, 9224968437322197381,
    ]  # fmt: skip
    assert int(text.values.sum()) == 4185354861613628338


def test_the_hashes_of_generated_puzzles_are_those_of_their_plain_words():
    """What is read as LaTeX, an exponent or a grouped number does not occur in them."""
    puzzle_texts = [q.question for q in generate(600, families=list(FAMILIES), split="train", seed=0)]
    plain_token = re.compile(r"[^\W_]+|[+/^=<>]|-(?=\s*\d)")
    assert [tokens(text) for text in puzzle_texts] == [plain_token.findall(text.casefold()) for text in puzzle_texts]


def test_each_character_is_a_word_where_words_have_no_spaces():
    assert tokens("小明有12个苹果") == ["小", "明", "有", "12", "个", "苹", "果"]
    assert tokens("ひらがなテスト") == list("ひらがなテスト")
    assert joined(tokens("小明有12个苹果 and tea")) == "小明有 12 个苹果 and tea"


def test_a_zero_byte_is_a_space():
    assert tokens("3\0\0005") == tokens("3 5") == ["3", "5"]


def test_windows_keep_within_their_text():
    found = windows(hashed(["a b c d", "c d", "", "b c d e"]).words(), 3)
    assert found.lengths.tolist() == [2, 0, 0, 2]
    assert found.values[1] == found.values[2]  # b c d
    assert len(set(found.values.tolist())) == 3


def test_fingerprints_know_the_order_and_every_token():
    texts = ["a b", "b a", "a b c", "", "A, b!"]
    found = fingerprints(hashed(texts))
    assert found[0] == found[4]
    assert len(set(found.tolist())) == 4


def test_hashes_are_the_same_in_every_process():
    code = "from tenner.data.text_hashing import hashed; print(hashed(['Wie viele? 3+4']).values.tolist())"
    seen = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert seen == {f"{hashed(['Wie viele? 3+4']).values.tolist()}\n"}


def test_nothing_is_nothing():
    assert hashed([]).starts.tolist() == [0]
    assert windows(hashed([""]), 8).values.dtype == np.uint64
