import random
import time

import pytest

from tenner.core.errors import TennerError
from tenner.core.records import Grade, Question, Trace, Usage
from tenner.data import quality_filters

PROSE = "First I write the sum as a product, since every term has the factor n+{}. Then I compare with line {}.\n"


def question(text="What is 2+2?", **fields):
    return Question(**{"id": "q", "question": text, "source": "test", "answer": "4"} | fields)


def trace(thinking="I add.", answer="4", **fields):
    return Trace(**{
        "id": "q-0", "question_id": "q", "sample_index": 0, "teacher": "t/m", "question": "What is 2+2?",
        "domain": None, "thinking": thinking, "answer": answer, "messages": (), "outcome": "complete",
        "reasoning_is_summary": False, "grade": Grade(verdict="correct", extracted="4"), "usage": Usage(),
        "cost_usd": 0.0, "metered": True,
    } | fields)  # fmt: skip


def flaw(name, item):
    filters = quality_filters.QUESTION_FILTERS if isinstance(item, Question) else quality_filters.TRACE_FILTERS
    return filters[name](item)


BAD_QUESTIONS = [
    ("images", "[asy] draw(A--B); [/asy]"), ("images", "See ![plot](x.png)."), ("images", '<img src="a">'),
    ("images", "What is x in the figure below?"), ("images", r"\includegraphics{a} Find x."),
    ("images", "From the diagram, find AB."), ("images", "A circle as shown below has radius 2."),
    ("broken-numbering", "12. Find x."), ("broken-numbering", "Problem 3: Find x."), ("broken-numbering", "(iv) Find"),
    ("no-answer", question(answer=None)), ("no-answer", question(answer="  ")),
    ("api-errors", "Error code: 429 - rate limited"), ("api-errors", "null"), ("api-errors", "Internal server error"),
    ("s1-patterns", "[asy]"), ("s1-patterns", "![Image](a)"), ("s1-patterns", "on p7. we"),
    ("s1-patterns", "**Q1** What?"),
]  # fmt: skip
GOOD_QUESTIONS = [
    ("images", "What is the image of 3 under f, and what does the figure 4 stand for?"),
    ("images", question("[asy] draw(A--B); [/asy]", source="AIME_1999")), ("images", "Draw a graph with 5 nodes."),
    ("broken-numbering", "3.5 litres are poured out."), ("broken-numbering", "12 eggs. How many boxes?"),
    ("broken-numbering", "I. Newton is older than G. Leibniz."),
    ("no-answer", "What?"), ("api-errors", "None of the above is right. Why?".replace("None of", "Neither of")),
    ("api-errors", "A server has an error rate of 3 %."), ("s1-patterns", "p7 and **bold** and p0. and p1000."),
    ("s1-patterns", question("[asy]", source="AIME_1999")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "item"), BAD_QUESTIONS)
def test_questions_that_fall(name, item):
    assert flaw(name, question(item) if isinstance(item, str) else item)


@pytest.mark.parametrize(("name", "item"), GOOD_QUESTIONS)
def test_questions_that_pass(name, item):
    assert flaw(name, question(item) if isinstance(item, str) else item) is None


LONG = "".join(PROSE.format(i, i * i) for i in range(400))
BAD_TRACES = [
    ("no-final-answer", trace(answer=" ")), ("no-final-answer", trace(grade=Grade(verdict="unparsed", extracted=None))),
    ("truncated", trace(outcome="truncated")), ("api-errors", trace("Error code: 500")),
    ("language-mixing", trace("First, 我们先把两个数加起来再检查一遍。 So 4.")),
    ("language-mixing", trace("Сначала сложим два числа.")),
    ("repetition", trace("Wait, let me check again.\n" * 8)), ("repetition", trace("and so on " * 900)),
    ("repetition", trace(LONG + "so x is 4, so " * 600)),
]  # fmt: skip
GOOD_TRACES = [
    ("no-final-answer", trace()), ("no-final-answer", trace(grade=None)), ("truncated", trace()),
    ("language-mixing", trace("Let ∠ABC = β ≤ π/2, √2 ≈ 1.41 — naïve, as Эйлер said; 中国 remainder theorem.")),
    ("language-mixing", trace("我们先把两个数加起来再检查一遍。", question="二加二等于多少")),
    ("repetition", trace(LONG)), ("repetition", trace("So x=4.\n" * 20)), ("repetition", trace("")),
    ("repetition", trace("\n".join(f"{a} + {b} = {a + b}" for a in range(30) for b in range(30)))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "item"), BAD_TRACES)
def test_traces_that_fall(name, item):
    assert flaw(name, item)


@pytest.mark.parametrize(("name", "item"), GOOD_TRACES)
def test_traces_that_pass(name, item):
    assert flaw(name, item) is None


def test_the_first_filter_that_fails_is_the_reason():
    items = [question("![a](b)", answer=None), question()]
    for names, reason in ((["images", "no-answer"], "images"), (["no-answer", "images"], "no answer")):
        kept, dropped = quality_filters.apply(items, names, quality_filters.QUESTION_FILTERS)
        assert (kept, [d.reason for d in dropped]) == ([question()], [reason])
    assert quality_filters.apply(items, [], quality_filters.QUESTION_FILTERS) == (items, [])


def test_a_filter_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(TennerError, match=r"clean\.filters: no filter is called image$") as e:
        quality_filters.check(["image"], quality_filters.QUESTION_FILTERS, "clean.filters")
    assert e.value.hint == "did you mean images?"


def test_a_long_trace_takes_no_long_time():
    r = random.Random(0)
    words = ["".join(r.choices("abcdefghij", k=r.randint(2, 8))) for _ in range(3000)]
    long = trace(" ".join(r.choices(words, k=100_000)))
    started = time.monotonic()
    assert all(check(long) is None for check in quality_filters.TRACE_FILTERS.values())
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("text", ["![", "![ ]x", "](", "**", "<img", "figure "])
def test_a_question_of_a_megabyte_takes_no_time(text):
    long = question(text * (1_000_000 // len(text)))
    began = time.process_time()
    quality_filters.apply([long], list(quality_filters.QUESTION_FILTERS), quality_filters.QUESTION_FILTERS)
    assert time.process_time() - began < 3
