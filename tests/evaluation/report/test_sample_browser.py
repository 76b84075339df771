import json
import random
import zlib
from base64 import b64decode
from typing import Any

import pytest
from example_run import HOSTILE, run_facts

from tenner.core.records import Policy
from tenner.evaluation.report.answers import Answer, Answered, Segment
from tenner.evaluation.report.facts import RunFacts
from tenner.evaluation.report.sample_browser import Browser, browser, script_json


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return run_facts()


def texts(made: Browser | None) -> list[Any]:
    assert made is not None
    return [row for chunk in json.loads(made.chunks) for row in json.loads(zlib.decompress(b64decode(chunk), -15))]


def test_every_text_comes_back_and_no_text_ends_the_script(facts: RunFacts) -> None:
    made = browser(facts)
    assert made is not None
    assert made.notes == []
    assert "<" not in made.listing + made.chunks
    rows = texts(made)
    assert len(rows) == len(facts.answered)
    for row, q in zip(rows, facts.answered, strict=True):
        assert row[0] == [[0, q.question]]
        for side, given in zip(row[2], (q.before, q.after), strict=True):
            assert ["".join(text for _, text in answer) for answer in side] == [
                "".join(s.text for s in a.segments) for a in given
            ]
    assert rows[0][2][1][0][:3] == [[0, HOSTILE], [1, "Wait"], [3, "Answer:"]]


def test_the_index_names_the_headline_s_policies_and_each_verdict(facts: RunFacts) -> None:
    made = browser(facts)
    assert made is not None
    index = json.loads(made.listing)
    benchmark = facts.benchmarks[0]
    policies = [a.policy for a in facts.answered[0].after]
    assert index["headline"] == [[policies.index(benchmark.before.policy), policies.index(benchmark.after.policy)]]
    first = index["rows"][0][4][1][0]
    assert first == [0, facts.answered[0].after[0].verdict, facts.answered[0].after[0].thinking_tokens, 3]


def test_long_texts_lose_their_middle_and_then_the_last_questions_are_left_out(facts: RunFacts) -> None:
    r = random.Random(0)
    noises = [r.randbytes(4_000).hex() for _ in range(60)]
    noise = noises[0]
    long = [
        Answered("heldout", f"q{i}", "?", "1", None, [], [Answer(Policy(), "wrong", 9, False, False, [segment])])
        for i, segment in enumerate(Segment(text, "thinking", False) for text in noises)
    ]
    shortened = browser(facts._replace(answered=long), bytes_max=120_000)
    pieces = texts(shortened)[0][2][1][0]
    assert [kind for kind, _ in pieces] == [0, -1, 0]
    assert len(pieces[0][1]) + pieces[1][1] + len(pieces[2][1]) == len(noise)
    assert noise.startswith(pieces[0][1])
    assert noise.endswith(pieces[2][1])
    assert shortened is not None
    assert any("shortened in the middle" in note for note in shortened.notes)
    fewer = browser(facts._replace(answered=long), bytes_max=15_000)
    assert len(texts(fewer)) == 25
    assert fewer is not None
    assert any("of 60 questions are shown" in note for note in fewer.notes)


def test_a_run_without_answers_has_no_browser(facts: RunFacts) -> None:
    assert browser(facts._replace(answered=[])) is None


def test_lone_surrogates_and_separators_are_data() -> None:
    text = "\ud800\u2028</script>\x00"
    written = script_json(text)
    assert written.isascii()
    assert "</" not in written
    assert json.loads(written) == text
