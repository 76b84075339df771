"""The forcing machine against a plain reading of its rules, over many models that are functions of the ids."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenner.errors import TennerError
from tenner.formats import FORMATS
from tenner.records import Policy
from tenner.seeds import digest, rng
from tenner.think.engine import Transcript
from tenner.think.forcing import ForcingMachine, FormatIds, Phase

EOS, OPEN, CUE, WAIT = 9, 7, 6, 5
Model = Callable[[list[int]], int]

FORMAT_IDS = {
    "one token": FormatIds((OPEN,), (1,), (CUE,), (WAIT,), frozenset({EOS})),
    "two tokens": FormatIds((OPEN, 8), (1, 2), (CUE,), (WAIT,), frozenset({EOS})),
    "overlaps itself": FormatIds((OPEN,), (1, 1, 2), (CUE, CUE), (WAIT, 4), frozenset({EOS})),
    "wait looks like close": FormatIds((OPEN,), (1, 2), (CUE,), (0, 1), frozenset({EOS})),
    "open looks like close": FormatIds((OPEN, 1), (1, 2), (CUE,), (WAIT,), frozenset({EOS})),
    "no close": FormatIds((), (), (CUE,), (WAIT,), frozenset({EOS})),
    "no cue": FormatIds((), (1, 2), (), (WAIT, 0), frozenset({EOS})),
    "nothing": FormatIds((), (), (), (WAIT,), frozenset({EOS})),
}
POLICIES = [
    Policy(thinking_tokens_max=budget, waits=waits, thinking_tokens_min=least)
    for budget, waits, least in itertools.product((0, 1, 2, 3, 4, 5, 7, 10, None), (0, 1, 2), (0, 4))
]
ROOM, ANSWER_MAX = 14, 3


def hashed_model(seed: int) -> Model:
    """A model of no sense: the next token is drawn by a hash of all ids before it, mostly pieces of delimiters."""
    alphabet = (0, 1, 1, 1, 2, 2, 3, EOS)
    return lambda ids: alphabet[int(digest(seed, *ids)[:8], 16) % len(alphabet)]


def scripted(*tokens: int) -> Iterator[int]:
    return iter(tokens)


def machine_for(format_ids: FormatIds, policy: Policy) -> ForcingMachine:
    return ForcingMachine(format_ids, policy, answer_tokens_max=ANSWER_MAX, thinking_room=ROOM)


def finish(machine: ForcingMachine, model: Model) -> ForcingMachine:
    while machine.phase is not Phase.DONE:
        machine.push(model(machine.ids))
    return machine


def state(machine: ForcingMachine) -> tuple[object, ...]:
    return (
        machine.ids,
        machine.phase,
        machine.thinking_ids,
        machine.answer_ids,
        machine.answer_tokens,
        machine.truncated,
        machine.interventions,
    )


def kinds(machine: ForcingMachine) -> list[str]:
    return [i.kind for i in machine.interventions]


CASES = [(name, seed) for name in FORMAT_IDS for seed in range(40)]


@pytest.mark.parametrize("name", FORMAT_IDS)
def test_never_over_budget_always_closed_and_every_injection_recorded(name: str) -> None:
    fmt = FORMAT_IDS[name]
    for seed, policy in itertools.product(range(40), POLICIES):
        machine, model = machine_for(fmt, policy), hashed_model(seed)
        while machine.phase is not Phase.DONE:
            assert machine.thinking_tokens <= machine.budget
            settled = machine.ids[: machine.settled]
            machine.push(model(machine.ids))
            assert machine.ids[: len(settled)] == settled, "what is settled stands"
        budget = ROOM if policy.thinking_tokens_max is None else min(ROOM, policy.thinking_tokens_max)
        assert machine.thinking_tokens == len(machine.thinking_ids) <= budget
        assert tuple(machine.ids) == (*fmt.open, *machine.thinking_ids, *fmt.close, *machine.answer_ids)
        assert machine.answer_tokens <= ANSWER_MAX
        assert machine.truncated == (machine.answer_tokens == ANSWER_MAX)
        assert not fmt.eos & set(machine.ids)
        assert kinds(machine).count("wait") <= policy.waits or policy.thinking_tokens_min > 0
        cue_due = "cut" in kinds(machine) or not fmt.close
        assert ("cue" in kinds(machine)) == (cue_due and bool(fmt.cue))
        if cue_due:
            assert tuple(machine.answer_ids[: len(fmt.cue)]) == fmt.cue
        texts = {"open": fmt.open, "wait": fmt.wait, "cue": fmt.cue}
        for i in machine.interventions:
            put_in = tuple(machine.ids[i.position : i.position + i.tokens])
            assert put_in == (texts[i.kind] if i.kind in texts else fmt.close[len(fmt.close) - i.tokens :])
            assert i.tokens > 0 or i.kind == "cut"


@pytest.mark.parametrize("name", FORMAT_IDS)
def test_a_replay_finished_is_a_run_from_scratch(name: str) -> None:
    for seed in range(12):
        model = hashed_model(seed)
        alone = [finish(machine_for(FORMAT_IDS[name], policy), model) for policy in POLICIES]
        for parent in (alone[0], alone[-6], alone[-1]):
            for policy, expected in zip(POLICIES, alone, strict=True):
                fresh = finish(machine_for(FORMAT_IDS[name], parent.policy), model)
                assert state(finish(fresh.replay(policy), model)) == state(expected), (policy, parent.policy)


def test_one_pass_serves_all_budgets() -> None:
    """Replays sample thinking once: only what no policy has yet sampled after the same ids is asked of the model."""
    asked: list[tuple[int, ...]] = []
    model = hashed_model(3)
    first = machine_for(FORMAT_IDS["two tokens"], POLICIES[-1])
    for policy in POLICIES:
        machine = first.replay(policy)
        while machine.phase is not Phase.DONE:
            asked.append(tuple(machine.ids))
            machine.push(model(machine.ids))
            machine.recall()
    assert len(asked) == len(set(asked)), "nothing is sampled twice"
    alone = sum(len(finish(machine_for(first.format_ids, policy), model).ids) for policy in POLICIES)
    assert len(asked) < alone / 5


def test_a_replay_of_the_same_policy_is_done_and_one_in_progress_stands_at_the_same_ids() -> None:
    model, policy = hashed_model(5), Policy(waits=1)
    machine = machine_for(FORMAT_IDS["two tokens"], policy)
    while machine.phase is not Phase.DONE:
        assert state(machine.replay(policy)) == state(machine)
        machine.push(model(machine.ids))
    assert state(machine.replay(policy)) == state(machine)


def test_siblings_recall_what_either_has_sampled() -> None:
    parent = machine_for(FORMAT_IDS["two tokens"], Policy())
    twin = parent.replay(Policy(waits=1))
    parent.push(3)
    assert twin.recall() == 2
    assert twin.ids == parent.ids
    for token in (1, 2):
        parent.push(token)
    assert twin.recall() == 3, "open and 3 stand; the delimiter has been taken out"
    assert twin.ids == [OPEN, 8, 3, WAIT]


def test_without_limit_and_waits_it_is_plain_generation() -> None:
    fmt = FormatIds((OPEN,), (1, 2), (CUE,), (WAIT,), frozenset({EOS}))
    checked = 0
    for seed in range(400):
        model, plain = hashed_model(seed), [OPEN]
        while (token := model(plain)) != EOS and len(plain) < 60:
            plain.append(token)
        closes = [i for i in range(1, len(plain) - 1) if plain[i : i + 2] == [1, 2]]
        if not closes:
            continue
        machine = finish(ForcingMachine(fmt, Policy(), answer_tokens_max=100, thinking_room=100), model)
        checked += 1
        if len(plain) < 60:
            assert machine.ids == plain
            assert not machine.truncated
        else:
            assert machine.ids[:60] == plain
        assert kinds(machine) == ["open"]
        assert machine.thinking_ids == plain[1 : closes[0]]
    assert checked > 100


@pytest.mark.parametrize(
    ("budget", "sampled", "thinking", "forced"),
    [
        pytest.param(3, [3, 1, 2], [3], [], id="the last id of close still fits: the student's own end"),
        pytest.param(2, [3, 1], [3], ["cut", "close", "cue"], id="half of close at the budget is completed"),
        pytest.param(1, [3], [3], ["cut", "close", "cue"], id="close would need more budget"),
        pytest.param(3, [3, 3, 3], [3, 3, 3], ["cut", "close", "cue"], id="close injected whole"),
        pytest.param(0, [], [], ["cut", "close", "cue"], id="no thinking at all"),
        pytest.param(5, [3, 1, EOS], [3], ["close"], id="end of text after half of close"),
        pytest.param(5, [EOS], [], ["close"], id="end of text at once"),
    ],
)
def test_the_border_of_the_budget(budget: int, sampled: list[int], thinking: list[int], forced: list[str]) -> None:
    machine = machine_for(FORMAT_IDS["two tokens"], Policy(thinking_tokens_max=budget))
    for token in sampled:
        assert machine.phase is Phase.THINKING
        machine.push(token)
    assert machine.phase is Phase.ANSWERING
    assert machine.thinking_ids == thinking
    assert machine.ids == [OPEN, 8, *thinking, 1, 2, *([CUE] if "cue" in forced else [])]
    assert kinds(machine) == ["open", *forced]


def test_a_close_that_overlaps_itself_is_completed_from_its_longest_beginning() -> None:
    machine = machine_for(FORMAT_IDS["overlaps itself"], Policy(thinking_tokens_max=3))
    for _ in range(3):
        machine.push(1)
    assert machine.thinking_ids == [1]
    assert machine.ids == [OPEN, 1, 1, 1, 2, CUE, CUE]


def test_a_wait_takes_the_place_of_the_delimiter_while_there_is_room() -> None:
    machine = machine_for(FORMAT_IDS["two tokens"], Policy(thinking_tokens_max=5, waits=2))
    stands = [machine.push(token) for token in (3, 1, 2)]
    assert stands == [2, 3, 3]
    assert machine.ids == [OPEN, 8, 3, WAIT]
    for token in (3, 1, 2):
        machine.push(token)
    assert machine.ids == [OPEN, 8, 3, WAIT, 3, WAIT], "one id more has room"
    machine.push(3)
    assert machine.ids == [OPEN, 8, 3, WAIT, 3, WAIT, 3, 1, 2, CUE]
    assert kinds(machine) == ["open", "wait", "wait", "cut", "close", "cue"]


def test_an_end_stands_when_wait_and_one_id_more_do_not_fit() -> None:
    for budget, suppressed in ((3, True), (2, False)):
        machine = machine_for(FORMAT_IDS["one token"], Policy(thinking_tokens_max=budget, waits=1))
        machine.push(3)
        machine.push(1)
        assert (machine.ids == [OPEN, 3, WAIT]) == suppressed
        assert machine.thinking_ids == ([3, WAIT] if suppressed else [3])


def test_the_minimum_uses_no_wait_up() -> None:
    machine = machine_for(FORMAT_IDS["one token"], Policy(thinking_tokens_min=2, waits=1))
    for token in (3, 1, 1, 1):
        machine.push(token)
    assert machine.ids == [OPEN, 3, WAIT, WAIT, 1], "one for the minimum, one of the waits, and the end"
    assert kinds(machine) == ["open", "wait", "wait"]


def test_matching_begins_anew_after_an_injection() -> None:
    machine = machine_for(FORMAT_IDS["wait looks like close"], Policy(waits=1))
    for token in (3, 1, 2):
        machine.push(token)
    assert machine.ids == [OPEN, 3, 0, 1]
    machine.push(2)
    assert machine.phase is Phase.THINKING, "the 1 before the 2 was injected"


def test_the_context_caps_the_budget() -> None:
    machine = ForcingMachine(
        FORMAT_IDS["one token"], Policy(thinking_tokens_max=100), answer_tokens_max=1, thinking_room=2
    )
    machine.push(3)
    machine.push(3)
    assert machine.ids == [OPEN, 3, 3, 1, CUE]
    machine.push(0)
    assert machine.phase is Phase.DONE
    assert machine.truncated
    assert len(machine.ids) == 2 + 1 + machine.format_ids.injected_tokens_max


def test_every_short_sequence_of_samples_ends_within_the_context() -> None:
    """All sequences over a small alphabet, so also those that no seed has drawn."""
    fmt = FORMAT_IDS["overlaps itself"]
    for policy in (
        Policy(thinking_tokens_max=4),
        Policy(thinking_tokens_max=5, waits=1),
        Policy(thinking_tokens_min=3),
    ):
        for tokens in itertools.product((1, 2, 3, EOS), repeat=6):
            machine = ForcingMachine(fmt, policy, answer_tokens_max=2, thinking_room=6)
            for token in tokens:
                if machine.phase is not Phase.DONE:
                    machine.push(token)
            assert machine.thinking_tokens <= machine.budget
            assert len(machine.ids) <= machine.budget + 2 + fmt.injected_tokens_max
            if machine.phase is not Phase.THINKING:
                ids = tuple(machine.ids)
                close_at = len(fmt.open) + machine.thinking_tokens
                assert ids[close_at : close_at + 3] == fmt.close
                assert all(ids[i : i + 3] != fmt.close for i in range(close_at)), "the first delimiter ends it"


def test_resolve_and_transcript_with_a_real_tokenizer(tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    fmt = FormatIds.resolve(tokenizer, FORMATS["s1"], "Wait")
    assert fmt.close[0] == 1
    assert len(fmt.close) == 1 + len("answer\n")
    assert fmt.eos == {tokenizer.eos_token_id}
    with pytest.raises(TennerError, match="wait text is empty"):
        FormatIds.resolve(tokenizer, FORMATS["s1"], "")

    draw = rng(0, "transcript")
    says = tokenizer.encode("Zwölf → 12\n<|im_start|>", add_special_tokens=False)
    for policy in (Policy(), Policy(waits=1), Policy(thinking_tokens_max=6)):
        machine = ForcingMachine(fmt, policy, answer_tokens_max=20, thinking_room=200)
        transcript, pieces = Transcript(machine, tokenizer), []
        script = itertools.chain(
            says, fmt.close, says, fmt.close, iter(lambda: draw.randrange(3, len(tokenizer)), None)
        )
        while machine.phase is not Phase.DONE:
            machine.push(next(script))
            pieces += transcript.fresh()
        for part, ids in (("thinking", machine.thinking_ids), ("answer", machine.answer_ids)):
            assert "".join(p.text for p in pieces if p.part == part) == tokenizer.decode(ids)
        forced = "".join(p.text for p in pieces if p.forced)
        assert forced == {0: "", 1: "Wait"}[policy.waits] + ("Answer:" if policy.thinking_tokens_max else "")
