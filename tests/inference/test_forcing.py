"""The forcing machine against a plain reading of its rules, over many models that are functions of the ids."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import Policy
from tenner.core.seeds import digest, rng
from tenner.inference.engine import Transcript
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.format_ids import FormatIds

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


tokens = st.sampled_from((0, 1, 1, 1, 2, 2, 3, EOS))
few = st.lists(st.integers(0, 3), max_size=3).map(tuple)
formats = st.builds(
    FormatIds,
    open=few,
    close=st.lists(st.sampled_from((1, 1, 2, 0)), max_size=4).map(tuple),
    cue=few,
    wait=st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple),
    eos=st.just(frozenset({EOS})),
)
policies = st.builds(
    Policy,
    thinking_tokens_max=st.none() | st.integers(0, 12),
    thinking_tokens_min=st.integers(0, 8),
    waits=st.integers(0, 3),
)


@settings(max_examples=600)
@given(formats, policies, st.integers(0, 14), st.integers(1, 4), st.lists(tokens, min_size=1, max_size=40))
def test_never_over_budget_always_closed_the_answer_has_its_reserve_and_the_log_explains_every_injection(
    fmt: FormatIds, policy: Policy, room: int, answer_tokens_max: int, stream: list[int]
) -> None:
    machine = ForcingMachine(fmt, policy, answer_tokens_max=answer_tokens_max, thinking_room=room)
    budget = room if policy.thinking_tokens_max is None else min(room, policy.thinking_tokens_max)
    context = room + fmt.injected_tokens_max + answer_tokens_max
    sampled = itertools.cycle(stream)
    texts = {"open": fmt.open, "wait": fmt.wait, "cue": fmt.cue, "cut": ()}
    was_held = True
    while machine.phase is not Phase.DONE:
        before, token, held = list(machine.ids), next(sampled), machine.held
        assert was_held or not held, "what is not held never will be again"
        thinking, settled = machine.phase is Phase.THINKING, machine.settled
        machine.push(token)
        was_held = held
        assert machine.ids[: len(before)] == before, "nothing is taken back"
        assert settled <= machine.settled
        assert machine.thinking_tokens <= budget
        added, logged = machine.ids[len(before) :], [i for i in machine.interventions if i.position >= len(before)]
        forced = [p for i in logged for p in range(i.position, i.position + i.tokens)]
        put_in = len(before) in forced
        if token == EOS or (held and token in fmt.close[:1]):
            assert put_in or not added, "an end is not kept"
            assert not held or [i.kind for i in logged] == ["wait"]
        else:
            assert not put_in
            assert added[0] == token, "any other token is"
        assert forced == list(range(len(before) + (not put_in), len(machine.ids))), "nothing else is there unlogged"
        assert thinking or not forced, "nothing is put into a sampled answer"
        for i in logged:
            words = tuple(machine.ids[i.position : i.position + i.tokens])
            assert words == (texts[i.kind] if i.kind in texts else fmt.close[len(fmt.close) - i.tokens :])
            assert i.tokens > 0 or i.kind == "cut"
    assert len(machine.ids) <= context, "whatever happens, the answer's reserve is there"
    assert machine.thinking_tokens == len(machine.thinking_ids)
    assert tuple(machine.ids) == (*fmt.open, *machine.thinking_ids, *fmt.close, *machine.answer_ids)
    assert machine.truncated == (machine.answer_tokens == answer_tokens_max)
    assert not fmt.eos & set(machine.ids)
    assert kinds(machine).count("wait") <= policy.waits or policy.thinking_tokens_min > 0
    cue_due = "cut" in kinds(machine) or not fmt.close
    assert ("cue" in kinds(machine)) == (cue_due and bool(fmt.cue))
    assert tuple(machine.answer_ids[: len(fmt.cue)]) == fmt.cue or not cue_due
    least = min(policy.thinking_tokens_min, budget - len(fmt.wait))
    assert machine.thinking_tokens >= least, "the minimum is kept wherever a wait has room"


@settings(max_examples=300)
@given(formats, policies, policies, st.integers(0, 14), st.integers(0, 1 << 30))
def test_a_replay_of_any_other_policy_is_a_run_from_scratch(
    fmt: FormatIds, policy: Policy, other: Policy, room: int, seed: int
) -> None:
    model = hashed_model(seed)

    def fresh(policy: Policy) -> ForcingMachine:
        return finish(ForcingMachine(fmt, policy, answer_tokens_max=ANSWER_MAX, thinking_room=room), model)

    assert state(finish(fresh(policy).replay(other), model)) == state(fresh(other))


def test_one_pass_serves_all_budgets() -> None:
    """Replays sample thinking once: only what no policy has yet sampled after the same ids is sampled by the model."""
    sampled_after: list[tuple[int, ...]] = []
    model = hashed_model(3)
    first = machine_for(FORMAT_IDS["two tokens"], POLICIES[-1])
    for policy in POLICIES:
        machine = first.replay(policy)
        while machine.phase is not Phase.DONE:
            sampled_after.append(tuple(machine.ids))
            machine.push(model(machine.ids))
            machine.recall()
    assert len(sampled_after) == len(set(sampled_after)), "nothing is sampled twice"
    alone = sum(len(finish(machine_for(first.format_ids, policy), model).ids) for policy in POLICIES)
    assert len(sampled_after) < alone / 5


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
    twin.recall()
    assert twin.ids == parent.ids
    parent.push(1)
    twin.recall()
    assert twin.ids == [OPEN, 8, 3, WAIT], "the beginning of the delimiter is an end for it, and not for the parent"
    parent.push(2)
    assert parent.phase is Phase.ANSWERING
    twin.recall()
    assert twin.ids == [OPEN, 8, 3, WAIT], "what comes after the wait has not been sampled"


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


def run(fmt: FormatIds, policy: Policy, *sampled: int, room: int = ROOM) -> ForcingMachine:
    """A machine that has been given these tokens, all of them."""
    machine = ForcingMachine(fmt, policy, answer_tokens_max=ANSWER_MAX, thinking_room=room)
    for token in sampled:
        machine.push(token)
    return machine


def test_a_beginning_of_the_delimiter_that_does_not_complete_is_thinking() -> None:
    fmt = FORMAT_IDS["overlaps itself"]
    machine = run(fmt, Policy(), 1, 1, 3, 1, 3, 1, 1)
    assert machine.phase is Phase.THINKING
    assert machine.ids[machine.settled :] == [1, 1], "it may still become the delimiter"
    machine.push(1)
    assert machine.ids[machine.settled :] == [1, 1], "of three ids the last two may"
    machine.push(2)
    assert machine.thinking_ids == [1, 1, 3, 1, 3, 1]
    assert kinds(machine) == ["open"]


def test_the_delimiter_ends_with_the_last_token_of_the_budget() -> None:
    fmt = FORMAT_IDS["two tokens"]
    assert kinds(run(fmt, Policy(thinking_tokens_max=3), 3, 1, 2)) == ["open"], "the student's own end"
    assert kinds(run(fmt, Policy(thinking_tokens_max=2), 3, 1)) == ["open", "cut", "close", "cue"], "one id late"
    assert run(fmt, Policy(thinking_tokens_max=2), 3, 1).ids == [OPEN, 8, 3, 1, 2, CUE], "and not doubled"
    held = run(fmt, Policy(thinking_tokens_max=3, waits=1), 3, 1)
    assert held.ids == [OPEN, 8, 3, WAIT], "a wait and one id more have room"


def test_an_end_of_text_at_once() -> None:
    for fmt in FORMAT_IDS.values():
        machine = run(fmt, Policy(), EOS)
        assert machine.thinking_ids == []
        assert machine.ids == [*fmt.open, *fmt.close, *(() if fmt.close else fmt.cue)]
        before = machine.phase
        machine.push(EOS)
        assert (before, machine.phase) == (Phase.ANSWERING, Phase.DONE)
        assert not machine.truncated
        assert run(fmt, Policy(waits=1), EOS).ids == [*fmt.open, *fmt.wait]


def test_a_budget_of_nothing_asks_for_the_answer_at_once() -> None:
    for fmt in FORMAT_IDS.values():
        for policy, room in ((Policy(thinking_tokens_max=0, waits=2, thinking_tokens_min=4), ROOM), (Policy(), 0)):
            machine = run(fmt, policy, room=room)
            assert machine.ids == [*fmt.open, *fmt.close, *fmt.cue]
            assert machine.phase is Phase.ANSWERING


def test_a_wait_text_longer_than_what_is_left_is_not_begun() -> None:
    fmt = FormatIds((OPEN,), (1, 2), (CUE,), (WAIT, WAIT, WAIT), frozenset({EOS}))
    assert run(fmt, Policy(thinking_tokens_max=5, waits=1), 3, 1).ids == [OPEN, 3, WAIT, WAIT, WAIT]
    late = run(fmt, Policy(thinking_tokens_max=5, waits=1), 3, 3, 1, 2)
    assert late.ids == [OPEN, 3, 3, 1, 2], "the end stands"
    assert kinds(late) == ["open"]
    early = run(fmt, Policy(thinking_tokens_max=5, thinking_tokens_min=5), 3, 3, EOS)
    assert early.ids == [OPEN, 3, 3, 1, 2], "and so before a minimum that cannot be had"


def test_a_close_that_overlaps_itself_is_completed_from_its_longest_beginning() -> None:
    machine = machine_for(FORMAT_IDS["overlaps itself"], Policy(thinking_tokens_max=3))
    for _ in range(3):
        machine.push(1)
    assert machine.thinking_ids == [1]
    assert machine.ids == [OPEN, 1, 1, 1, 2, CUE, CUE]


def test_a_wait_takes_the_place_of_the_delimiter_while_there_is_room() -> None:
    machine = machine_for(FORMAT_IDS["two tokens"], Policy(thinking_tokens_max=5, waits=2))
    for token in (3, 1):
        assert machine.held
        machine.push(token)
    assert machine.ids == [OPEN, 8, 3, WAIT], "the first id of the delimiter decides"
    for token in (3, 1):
        machine.push(token)
    assert machine.ids == [OPEN, 8, 3, WAIT, 3, WAIT], "one id more has room"
    assert not machine.held
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
    for token in (3, 1):
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
        transcript = Transcript(machine, tokenizer)
        pieces: list[Any] = []
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


def test_what_is_known_while_it_thinks_and_while_it_answers() -> None:
    fmt = FORMAT_IDS["two tokens"]
    thinking = run(fmt, Policy(), 3, 1)
    assert (thinking.answer_tokens, thinking.answer_ids, thinking.thinking_tokens) == (0, [], 2)
    assert thinking.settled == len(thinking.ids) - 1, "the delimiter has begun"
    answering = run(fmt, Policy(), 3, 1, 2, 3, 1)
    assert (answering.answer_tokens, answering.answer_ids, answering.thinking_tokens) == (2, [3, 1], 1)
    assert answering.settled == len(answering.ids), "an answer may hold what begins a delimiter"


def test_a_machine_anew_shares_nothing() -> None:
    machine = run(FORMAT_IDS["two tokens"], Policy(waits=1), 3, 3)
    again = machine.anew()
    again.recall()
    assert (again.ids, again.policy, again.budget) == ([OPEN, 8], machine.policy, machine.budget)
    assert again.answer_tokens_max == ANSWER_MAX
    twin = machine.replay(machine.policy)
    assert twin.ids == machine.ids
