import pytest

from tenner.core.seeds import rng
from tenner.training import packing, rank_balance


def work_of(tokens):
    return tokens + tokens**2 / 40_000


def waited(dealt, work):
    """The share of the ranks' time in which they wait."""
    turns = [[sum(work[i] for i in row) for row in turn] for turn in zip(*dealt, strict=True)]
    return 1 - sum(map(sum, turns)) / (len(dealt) * sum(map(max, turns)))


@pytest.mark.parametrize("ranks", [2, 8, 16])
@pytest.mark.parametrize("step_samples", [1, 11, 33, 200])
def test_every_sample_has_its_row_and_ranks_wait_less_than_when_dealt_by_tokens(ranks, step_samples):
    r = rng(0, "even", str(step_samples))
    lengths = [min(20_000, int(r.lognormvariate(9, 0.6))) for _ in range(300)]
    work = [work_of(tokens) for tokens in lengths]
    step = r.sample(range(300), step_samples)
    dealt = rank_balance.even_turns(step, lengths, 4096, ranks, work=work)
    assert len(dealt) == ranks
    assert len({len(rows) for rows in dealt}) == 1, "ranks go forward and back together"
    assert sorted(i for rows in dealt for row in rows for i in row) == sorted(step)
    longest = max(lengths[i] for i in step)
    assert all(sum(lengths[i] for i in row) <= max(4096, longest) for rows in dealt for row in rows)
    by_tokens = packing.deal(packing.split_rows(step, lengths, 4096, ranks=ranks), lengths, ranks)
    assert waited(dealt, work) <= waited(by_tokens, work) + 1e-9
    assert waited(dealt, work) == pytest.approx(
        rank_balance.idle_share([step], lengths, 4096, ranks, work=work), abs=1e-9
    )


def test_rows_that_may_be_longer_than_any_sample_are_filled_evenly():
    lengths = [100] * 12
    dealt = rank_balance.even_turns(range(12), lengths, 1000, 4, work=lengths)
    assert [[len(row) for row in rows] for rows in dealt] == [[3]] * 4


def test_a_few_ranks_with_room_for_the_whole_step_take_one_turn():
    """A sample that exceeds the even share is not left for a turn in which all others wait."""
    work = [7, 6, 5, 5, 4, 4]
    dealt = rank_balance.even_turns(range(6), work, 100, 2, work=work)
    assert [len(rows) for rows in dealt] == [1, 1]
    assert sorted(sum(work[i] for i in rows[0]) for rows in dealt) == [15, 16]


def test_a_step_with_fewer_samples_than_ranks_leaves_ranks_without_a_row():
    dealt = rank_balance.even_turns([0, 1], [50, 100], 10, 3, work=[50, 100])
    assert sorted(dealt) == [[()], [(0,)], [(1,)]]


def test_the_step_is_found_with_which_16_ranks_hardly_wait():
    lengths = rank_balance.assumed_lengths(9_200, 256, tokens_max=20_480)
    found = rank_balance.waiting(lengths, 100_000, 1024, 16, flops=work_of, seed=0)
    assert found.idle_share > 0.4, "eleven samples a step"
    assert found.idle_share_then <= rank_balance.IDLE_MAX
    assert 100_000 < found.tokens_per_step < 1_000_000
    again = rank_balance.waiting(lengths, found.tokens_per_step, 1024, 16, flops=work_of, seed=0)
    assert again[:4] == (found.idle_share_then, found.tokens_per_step, found.tokens_per_step, found.idle_share_then)


def test_the_ranks_are_found_that_should_share_rows():
    lengths = rank_balance.assumed_lengths(9_200, 256, tokens_max=20_480)
    found = rank_balance.waiting(lengths, 100_000, 1024, 16, flops=work_of, seed=0, could_share=(2, 4, 8))
    assert found.context_parallel in (4, 8)
    assert found.idle_share_shared is not None
    assert found.idle_share_shared <= rank_balance.IDLE_MAX < found.idle_share
    again = rank_balance.waiting(
        lengths, 100_000, 1024, 16, flops=work_of, seed=0, sharing=found.context_parallel, could_share=(8, 16)
    )
    assert again[:4] == (found.idle_share_shared, 100_000, 100_000, found.idle_share_shared)
    assert again.context_parallel is None


def test_assumed_lengths_have_the_mean_that_was_told():
    lengths = rank_balance.assumed_lengths(9_200, 1000, tokens_max=10**9)
    assert sum(lengths) / len(lengths) == pytest.approx(9_200, rel=0.02)
    assert max(rank_balance.assumed_lengths(9_200, 1000, tokens_max=20_480)) == 20_480
