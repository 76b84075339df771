import pytest

from tenner.core.seeds import rng
from tenner.training import packing
from tenner.training.loss_mask import Encoded


def lengths(count, longest=200):
    draw = rng(0, "test lengths")
    return [draw.randint(40, longest) for _ in range(count)]


def test_every_sample_exactly_once_an_epoch():
    steps = packing.plan(lengths(500), 1000, epochs=2, seed=7)
    half = len(steps) // 2
    for epoch in (steps[:half], steps[half:]):
        assert sorted(i for step in epoch for i in step) == list(range(500))
    assert steps[:half] != steps[half:]


def test_order_is_a_function_of_the_seed():
    assert packing.plan(lengths(50), 500, epochs=1, seed=1) == packing.plan(lengths(50), 500, epochs=1, seed=1)
    assert packing.plan(lengths(50), 500, epochs=1, seed=1) != packing.plan(lengths(50), 500, epochs=1, seed=2)


def test_steps_are_balanced_to_within_a_sample():
    sizes = lengths(501)
    steps = packing.epoch_steps(sizes, 1000, seed=0, epoch=0)
    tokens = [sum(sizes[i] for i in step) for step in steps]
    assert len(steps) == round(sum(sizes) / 1000)
    assert max(tokens) - min(tokens) <= 2 * max(sizes)


@pytest.mark.parametrize("sizes", [[5000, 10, 10], [10], [10, 5000, 10, 10], [1, 1, 1]])
def test_odd_sizes_lose_nothing(sizes):
    steps = packing.epoch_steps(sizes, 100, seed=3, epoch=0)
    assert sorted(i for step in steps for i in step) == list(range(len(sizes)))
    assert all(steps)


def test_rows_hold_the_step_within_the_limit():
    sizes = [*lengths(40), 900]
    rows = packing.split_rows(range(41), sizes, 600)
    assert sorted(i for row in rows for i in row) == list(range(41))
    assert all(sum(sizes[i] for i in row) <= 600 or len(row) == 1 for row in rows)
    assert packing.split_rows(range(41), sizes, 10**6) == [tuple(sorted(range(41), key=lambda i: (-sizes[i], i)))]


def test_layout_of_a_row():
    a = Encoded("a", (10, 11, 12), (False, True, True))
    b = Encoded("b", (20, 21, 22, 23), (True, False, True, True))
    assert packing.pack([a, b]) == packing.Row(
        sample_ids=("a", "b"),
        lengths=(3, 4),
        ids=(10, 11, 12, 20, 21, 22, 23),
        positions=(0, 1, 2, 0, 1, 2, 3),
        predictors=(0, 1, 4, 5),  # b's first token is trained on paper, but nothing predicts it
        targets=(11, 12, 22, 23),
    )


def test_rows_have_even_shares_and_there_is_one_for_each_rank():
    sizes = [10, 30, 20, 20, 10]
    assert packing.split_rows(range(5), sizes, 90) == [(1, 2, 3, 0, 4)]  # 90 fit into one
    assert packing.split_rows(range(5), sizes, 89) == [(1, 2), (3, 0, 4)]  # else two of 45, or as close as it comes
    assert packing.split_rows(range(5), sizes, 1000, ranks=2) == [(1, 2), (3, 0, 4)]
    assert packing.split_rows(range(5), sizes, 30) == [(1,), (2,), (3, 0), (4,)]
    assert packing.split_rows(range(3), [40, 30, 30], 60) == [(0,), (1, 2)]
    assert packing.split_rows([0, 1], [5, 5], 100, ranks=3) == [(0,), (1,)]
    assert packing.split_rows(range(4), [10, 10, 10, 10], 39) == [(0, 1), (2, 3)]
    assert packing.split_rows(range(9), [10] * 9, 30, ranks=2) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


def test_rows_are_dealt_from_the_largest_there_and_back():
    rows = [(0,), (1,), (2,), (3,), (4,)]
    assert packing.deal(rows, [1, 5, 3, 2, 4], ranks=2) == [[(1,), (3,), (0,)], [(4,), (2,), ()]]
    assert packing.deal(rows[:4], [1, 5, 3, 2], ranks=3) == [[(1,), ()], [(2,), ()], [(3,), (0,)]]
    assert packing.deal(rows[:2], [1, 5], ranks=1) == [[(1,), (0,)]]


def test_a_sample_is_in_the_step_in_which_its_middle_falls():
    (order,) = packing.epoch_steps([1] * 4, 4, seed=0, epoch=0)
    assert sorted(order) == [0, 1, 2, 3]
    first, second = packing.epoch_steps([1] * 4, 2, seed=0, epoch=0)
    assert (first, second) == (order[:2], order[2:])
    assert packing.epoch_steps([1] * 5, 2, seed=0, epoch=0)[0] == tuple(packing.epoch_order(5, seed=0, epoch=0)[:2])
