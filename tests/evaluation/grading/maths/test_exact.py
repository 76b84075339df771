import random
import time

import pytest
from grading_pairs import FALSE_NEGATIVES, PAIRS

from tenner.evaluation.grading.maths.exact import verify

ALL = [(theme, a, b, same) for theme, pairs in PAIRS.items() for a, b, same in pairs]


@pytest.mark.parametrize("theme", PAIRS)
def test_pairs_checked_by_hand_in_both_directions(theme):
    # What only math-verify can read is in test_grading.
    pairs = [row for row in PAIRS[theme] if row[:2] not in FALSE_NEGATIVES]
    wrong = [(a, b) for a, b, same in pairs if (verify(a, b).agreement == "same") != same]
    one_sided = [(a, b) for a, b, _ in PAIRS[theme] if verify(a, b) != verify(b, a)]
    assert (wrong, one_sided) == ([], [])


def test_there_are_enough_pairs_of_both_verdicts():
    assert len(ALL) >= 300
    assert min(sum(same for *_, same in ALL), sum(not same for *_, same in ALL)) >= 150
    assert len({frozenset((a, b)) for _, a, b, _ in ALL if a != b}) >= 300


def test_what_it_says_of_any_two_texts_is_symmetric_sure_of_itself_and_quick():
    r = random.Random(0)
    pieces = [
        *"0123456789xyni+-*/^_=<>(),.!|[]{}& $%",
        *(piece for _, a, b, _ in ALL for piece in (a, b) if len(a + b) < 60),
    ]
    pieces += [
        "\\frac",
        "\\sqrt",
        "\\{",
        "\\}",
        "\\pm",
        "\\cup",
        "\\in",
        "\\\\",
        "\\text{",
        "^\\circ",
        "\\ldots",
        " or ",
        "٤",
        "\x00",
        "\ud800",
    ]
    slowest = 0.0
    for _ in range(1500):
        a, b = ("".join(r.choices(pieces, k=r.randrange(1, 6))) for _ in range(2))
        began = time.perf_counter()
        assert verify(a, b).agreement == verify(b, a).agreement
        assert verify(a, a).agreement == "same"
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 2


HOSTILE = [
    "9^" * 500 + "9", "(" * 900 + "1" + ")" * 900, "\\sqrt{" * 300 + "2" + "}" * 300, "+".join(["2999!"] * 300),
    "\\sin(" * 50 + "10^{900}" + ")" * 50,
    "e^{" * 50 + "2" + "}" * 50, ",".join(["\\sqrt{2}+\\pi^3"] * 100), "-" * 1900 + "1", "1/" * 900 + "1",
    "\\frac{1}{" * 200 + "3" + "}" * 200,
    "x^{400}" * 200, "+".join(f"\\sqrt{{{n}}}" for n in range(2, 150)), "\\binom{2999}{1500}" * 80,
    "\\pm" * 500 + "1", "1:" * 800 + "1",
    "(1.0000000001)^{9999999999}", "2^{0.5^{0.5^{0.5}}}" * 60, "|" * 1000, "1_" * 900,
    "\\log_{2}(" * 40 + "3" + ")" * 40, "7\\%" * 500, "\\$", "€",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_compared_in_time(text):
    began = time.perf_counter()
    assert verify(text, "7").agreement != "same"
    assert verify(text, f"{text}+\\pi").agreement != "same"
    assert time.perf_counter() - began < 5


def test_what_is_made_of_plain_answers_needs_no_second_verifier():
    for a, b in [
        (r"5 \le x < 7", "[5, 7)"), ("2, 3", "3, 2"), ("2, 3", "2, 4"), ("(2, 3)", "(3, 2)"), ("x = 2", "2"),
        (r"(-\infty, 1) \cup (2, \infty)", r"x < 1 \text{ or } x > 2"), ("[[1, 2], [3, 4]]", "[[1, 2], [4, 3]]"),
    ]:  # fmt: skip
        assert verify(a, b).certain, (a, b)
    for a, b in [("2, 9, 9", "2, 9"), ("[1, 2]", "(1, 2)"), (r"\ln 4", r"2 \ln 2"), (r"5\text{ m}", "5")]:
        assert not verify(a, b).certain, (a, b)
