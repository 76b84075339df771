import pytest

from tenner.core.errors import TennerError
from tenner.core.records import Sample
from tenner.training import held_out


def samples(questions, each=2):
    made = [(f"q{n}", f"q{n}.{i}") for n in range(questions) for i in range(each)]
    return [Sample(id=id_, question_id=q, question="?", thinking="t", answer="a", domain=None) for q, id_ in made]


def test_all_samples_of_a_question_are_held_out_together_whatever_their_order():
    given = samples(20)
    chosen = held_out.choose(given, 5, seed=0)
    assert len(chosen) == 6
    assert len({id_.split(".")[0] for id_ in chosen}) == 3
    assert held_out.choose(given[::-1], 5, seed=0) == chosen
    assert held_out.choose(given, 5, seed=1) != chosen


@pytest.mark.parametrize("count", [4, 9])
def test_something_is_left_to_train_on(count):
    with pytest.raises(TennerError, match=f"validation_samples = {count} leaves none of 4 samples"):
        held_out.choose(samples(2), count, seed=0)


@pytest.mark.parametrize(
    ("steps", "at"), [(1, [0]), (3, [0, 1, 2]), (101, [*range(0, 101, 10)]), (26, [*range(0, 26, 3), 25])]
)
def test_the_loss_is_measured_first_last_and_evenly_between(steps, at):
    assert [step for step in range(steps) if held_out.is_due(step, steps)] == sorted({*at, steps - 1})
