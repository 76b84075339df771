import random
import time

import pytest

from tenner.core.records import Grade
from tenner.evaluation.grading.grader import grade_after_cue
from tenner.evaluation.grading.text import same_answer

CUE = "Answer:"

SAME = [
    ("42", "42"),
    ("025", "25"),
    ("-07", "-7"),
    ("-0", "0"),
    ("1,234", "1234"),
    ("12,345,678", "12345678"),
    ("42.", "42"),
    ("**42**", "42"),
    ("** 42", "42"),  # "**Answer:** 42" leaves its stars behind
    ("`42`.", "42"),
    ('"Tuesday"', "tuesday"),
    ("\u2018Tuesday.\u2019", "Tuesday"),  # curly quotes
    ("\\boxed{42}", "42"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ('**"\\boxed{1,234}."**', "1234"),
    ("H  T\tH", "h t h"),
    ("3, 5, 8", "3,5,8"),
    ("( 3, 4 )", "(3,4)"),
    ("{ a,  b}", "{A, B}"),
    ("1, 234", "1,234"),  # the same list, and the reference does not say whether it is a number
    ("9" * 5000, "0" + "9" * 5000),
    ("STRASSE", "straße"),
]
DIFFERENT = [
    ("42", "43"),
    ("42", "-42"),
    ("4 2", "42"),
    ("42.0", "42"),
    ("42.5", "42"),
    ("1, 234", "1234"),  # two numbers are not one
    ("12,34", "1234"),
    ("1234,567", "1234567"),
    ("HTH", "H T H"),
    ("\\boxed{1} or \\boxed{2}", "1} or \\boxed{2"),
    ("42 apples", "42"),
    ("5'", "5"),
    ("٤٢", "42"),
    ("3,5,8", "3,8,5"),
    ("", "0"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same_answers_in_both_directions(a: str, b: str) -> None:
    assert same_answer(a, b)
    assert same_answer(b, a)
    assert grade_after_cue(f"So it is.\n{CUE} {a}", b, cue=CUE).verdict == "correct"


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers_in_both_directions(a: str, b: str) -> None:
    assert not same_answer(a, b)
    assert not same_answer(b, a)
    assert grade_after_cue(f"{CUE} {b}", a, cue=CUE).verdict == "wrong"


UNPARSED = ["", "42", "the answer is 42", CUE, f"{CUE} \n ", f"{CUE} **", f"{CUE} \\boxed{{}}."]


@pytest.mark.parametrize("response", UNPARSED)
def test_without_a_cue_or_an_answer_it_is_unparsed(response: str) -> None:
    assert grade_after_cue(response, "42", cue=CUE) == Grade(verdict="unparsed", extracted=None)


def test_only_the_first_line_after_the_last_cue_counts() -> None:
    last = grade_after_cue(f"{CUE} 41. No, wait.\n{CUE}\n 42 \n43", "42", cue=f"\n{CUE}")
    assert last == Grade(verdict="correct", extracted="42")
    assert grade_after_cue(f"{CUE} 42\n{CUE} 41", "42", cue=CUE) == Grade(verdict="wrong", extracted="41")
    assert grade_after_cue(f"{CUE} 41\n42", "42", cue=CUE).verdict == "wrong"


def test_any_text_gets_a_verdict_that_is_symmetric_and_sure_of_itself() -> None:
    r = random.Random(0)
    alphabet = "0123456789,,,.-  **``\"'“”\\{}()[]\n\t\x00\x1c\u2028\ud800ßİaA" + "٤²"
    for _ in range(5000):
        a, b = ("".join(r.choices(alphabet, k=r.randrange(12))) for _ in range(2))
        assert same_answer(a, a)
        assert same_answer(a, b) == same_answer(b, a)
        assert grade_after_cue(f"{CUE}{a}", a, cue=CUE).verdict in ("correct", "unparsed")


def test_long_answers_do_not_hang() -> None:
    start = time.perf_counter()
    for hard in ("\\boxed{" * 20_000, "{" * 100_000, "1," * 50_000, "* ." * 30_000, " ," * 50_000):
        assert grade_after_cue(f"{CUE} {hard}x", "42", cue=CUE).verdict == "wrong"
    assert time.perf_counter() - start < 2
