"""The questions of a tuning are neither trained on nor the benchmark's."""

from collections.abc import Collection, Sequence

import pytest

from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.records import Question
from tenner.data import puzzles, tuning_questions
from tenner.data.puzzles import split_of

RECIPE = recipe.load("demo")
WORDS = "river stone lamp garden paper window copper silver forest valley".split()


def from_table(number: int, *, answer: str | None = "1") -> Question:
    """A question that shares neither numbers nor eight words with another."""
    text = f"How many {WORDS[number % 10]} things and {WORDS[number // 10 % 10]} things make {1000 + number} things?"
    return Question(id=f"t{number}", question=text, answer=answer, source="table", kind="maths")


def draw(
    count: int, pool: Sequence[Question], *, trained_on: Collection[str] = (), benchmark: Sequence[Question] = ()
) -> list[Question]:
    return tuning_questions.draw(count, pool=pool, trained_on=trained_on, benchmark=benchmark, recipe=RECIPE)


def test_of_a_table_those_are_left_that_were_not_trained_on_and_are_clear_of_the_benchmark() -> None:
    pool = [from_table(n) for n in range(40)] + [from_table(40, answer=None)]
    trained_on, benchmark = {f"t{n}" for n in range(10)}, [from_table(11).model_copy(update={"id": "b"})]
    found = draw(20, pool, trained_on=trained_on, benchmark=benchmark)
    ids = {q.id for q in found}
    assert len(ids) == 20
    assert not ids & (trained_on | {"t11", "t40"})
    assert draw(20, pool, trained_on=trained_on, benchmark=benchmark) == found
    with pytest.raises(TennerError, match="29 questions are held out") as e:
        draw(30, pool, trained_on=trained_on, benchmark=benchmark)
    assert e.value.hint
    assert "--questions 29" in e.value.hint


def test_where_a_run_generates_questions_new_ones_take_their_share() -> None:
    generated = list(puzzles.generate(30, families=RECIPE.gather.families, split="train", seed=0))
    benchmark = list(puzzles.generate(16, families=RECIPE.gather.families, split="heldout", seed=0, distinct=True))
    found = draw(16, generated, benchmark=benchmark)
    assert len({q.question for q in found}) == 16
    assert {split_of(q.question) for q in found} == {"heldout"}
    assert not {q.question for q in found} & {q.question for q in benchmark}
    mixed = draw(16, [*generated, *(from_table(n) for n in range(10))], benchmark=benchmark)
    assert sum(q.source == "table" for q in mixed) == 4
