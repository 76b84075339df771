"""A machine whose ids come out one by one, as a logits processor must run it, against one that is simply pushed."""

import itertools

import pytest
from test_forcing import EOS, FORMAT_IDS, POLICIES, ROOM, finish, hashed_model, machine_for

from tenner.core.records import Sampling
from tenner.inference.forced_tokens import ForcedRow
from tenner.inference.rng import PositionalRNG


@pytest.mark.parametrize("name", FORMAT_IDS)
@pytest.mark.parametrize("prompted", [False, True])
def test_what_comes_out_is_what_the_machine_says(name: str, prompted: bool) -> None:
    fmt = FORMAT_IDS[name]
    for seed, policy in itertools.product(range(6), POLICIES):
        model, machine = hashed_model(seed), machine_for(fmt, policy)
        expected = finish(machine_for(fmt, policy), model)
        start = list(machine.ids) if prompted else []
        row = ForcedRow(machine, PositionalRNG(Sampling(), [0]), prompted=len(start))
        out: list[int] = []
        while EOS not in out and len(start) + len(out) < ROOM + fmt.injected_tokens_max + 4:
            for _ in range(1 + len(out) % 2):  # every other time the engine throws away what it has sampled
                due = row.due(len(out))
                following = row.take(model(machine.ids)) if due is None else due
            out.append(following)
            if not prompted and machine.phase.value == "answering" and len(out) == len(expected.ids):
                break  # an engine may know the limit of the answer itself
        row.finish(len(out))
        assert [*start, *(token for token in out if token != EOS)] == expected.ids == machine.ids
        assert machine.interventions == expected.interventions
        assert machine.truncated == expected.truncated


def test_a_roll_belongs_to_the_place_of_the_token() -> None:
    machine = machine_for(FORMAT_IDS["two tokens"], POLICIES[-1])
    rng = PositionalRNG(Sampling(temperature=1.0, seed=3), [7])
    row = ForcedRow(machine, rng, prompted=0)
    assert [row.due(0), row.due(1), row.due(2)] == [*machine.ids, None]
    assert row.uniform() == rng.uniform(2) != rng.uniform(3)
    assert PositionalRNG(Sampling(temperature=1.0, seed=3), [8]).uniform(2) != rng.uniform(2)
    assert PositionalRNG(Sampling(temperature=1.0, seed=4), [7]).uniform(2) != rng.uniform(2)
