"""Early exit: the machine against a plain reading of its rules, and the embedded engine against the machine."""

import itertools
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from pydantic import ValidationError
from short_format import SHORT
from test_forcing import EOS, FORMAT_IDS, ROOM, Model, finish, hashed_model

from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Grace, Policy, Sampling
from tenner.core.seeds import digest
from tenner.inference.forced_tokens import ForcedRow
from tenner.inference.forcing import ForcingMachine, Measured, Phase
from tenner.inference.format_ids import FormatIds
from tenner.inference.rng import PositionalRNG

ANSWER_MAX = 5
EXITS = [
    *(
        EarlyExit(every_tokens=every, agree=agree, trial_tokens=tokens)
        for every, agree, tokens in ((1, 2, 1), (1, 2, 3), (2, 2, 2), (3, 2, 9), (2, 3, 1))
    ),
    EarlyExit(every_tokens=1, agree=1, probability=0.6, trial_tokens=2),
    EarlyExit(every_tokens=1, agree=2, probability=0.5, trial_tokens=1),
    EarlyExit(at="sentence", trial_tokens=1),
    EarlyExit(at="sentence", agree=1, probability=0.6, trial_tokens=3),
    EarlyExit(at="wait", trial_tokens=1),
    EarlyExit(at="wait", agree=1, probability=0.6, trial_tokens=9),
]
BASES = [
    Policy(thinking_tokens_max=budget, waits=waits, thinking_tokens_min=least)
    for budget, waits, least in itertools.product((0, 3, 10, None), (0, 1), (0, 4))
]
SENTENCE_ENDS = frozenset({3})


def machine_for(fmt: FormatIds, policy: Policy) -> ForcingMachine:
    fmt = replace(fmt, sentence_ends=SENTENCE_ENDS)
    return ForcingMachine(fmt, policy, answer_tokens_max=ANSWER_MAX, thinking_room=ROOM)


def measured_after(ids: list[int]) -> Measured:
    number = int(digest("measured", *ids)[:8], 16)
    return Measured(log_probability=-(number % 100) / 100, end_rank=number // 100 % 4)


def push(machine: ForcingMachine, model: Model) -> None:
    machine.push(model(machine.ids), measured_after(machine.ids))


def run(machine: ForcingMachine, model: Model) -> list[tuple[int, ForcingMachine]]:
    """Decode it with its trials, which are returned with the thinking tokens where they were due."""
    trials = []
    while machine.phase is not Phase.DONE:
        if machine.trial_due:
            trial = machine.trial()
            while trial.phase is not Phase.DONE:
                push(trial, model)
            trials.append((machine.thinking_tokens, trial))
            machine.conclude(trial)
        else:
            push(machine, model)
    return trials


def probability_of(trial: ForcingMachine) -> float:
    """By hand: what was sampled begins after the cue, and ends with the limit or an end of text."""
    start = len(trial.ids) - trial.answer_tokens
    prefixes = [trial.ids[:end] for end in range(start, len(trial.ids) + (not trial.truncated))]
    return exp(fmean(measured_after(prefix).log_probability for prefix in prefixes))


@pytest.mark.parametrize("name", FORMAT_IDS)
def test_thinking_is_the_same_up_to_the_exit_and_the_exit_is_a_cut_there(name: str) -> None:
    fmt, exits = FORMAT_IDS[name], 0
    for base, early_exit, seed in itertools.product(BASES, EXITS, range(2)):
        model = hashed_model(seed)
        machine = machine_for(fmt, base.model_copy(update={"early_exit": early_exit}))
        trials = run(machine, model)
        without = finish(machine_for(fmt, base), model)
        for at, trial in trials:
            assert trial.thinking_ids == without.thinking_ids[:at], "a trial is a cut of the same thinking"
            assert trial.answer_tokens <= early_exit.trial_tokens
        answers = [trial.answer_ids for _, trial in trials]
        agreeing = [answers[i : i + early_exit.agree] for i in range(len(answers) - early_exit.agree + 1)]
        settled = [
            i
            for i, some in enumerate(agreeing)
            if all(a == some[0] for a in some)
            and probability_of(trials[i + early_exit.agree - 1][1]) >= (early_exit.probability or 0)
        ]
        kinds = [i.kind for i in machine.interventions]
        if not settled:
            assert machine.ids == without.ids
            assert machine.interventions == without.interventions
            assert machine.trial_tokens == sum(trial.answer_tokens for _, trial in trials)
            continue
        exits += 1
        assert settled == [len(trials) - early_exit.agree], "the first time that it has settled, and no trial after"
        at, last = trials[-1]
        assert (kinds.count("exit"), machine.thinking_tokens) == (1, at)
        assert machine.thinking_ids == without.thinking_ids[:at]
        assert machine.answer_ids[: len(last.answer_ids)] == last.answer_ids
        assert machine.trial_tokens == sum(trial.answer_tokens for _, trial in trials[:-1])
    assert exits > 1


def test_where_trials_are_due() -> None:
    fmt = FORMAT_IDS["two tokens"]
    policy = Policy(thinking_tokens_max=12, early_exit=EarlyExit(every_tokens=2, trial_tokens=1))
    machine = machine_for(fmt, policy)
    due = []
    for token in (3, 1, 3, 3, 3, 3, 3):  # 1 is the beginning of the delimiter: no trial there
        machine.push(token)
        if machine.trial_due:
            due.append(machine.thinking_tokens)
            with pytest.raises(AssertionError, match="trial answer comes first"):
                machine.push(3)
            trial = machine.trial()
            trial.push(10 + len(due))  # another answer each time
            machine.conclude(trial)
    assert due == [3, 4, 6]
    assert machine.trial_tokens == 3
    held = machine_for(fmt, policy.model_copy(update={"waits": 1}))
    for token in (3, 3, 3, 1):
        assert not held.trial_due, "thinking that is held cannot be ended"
        held.push(token)
    assert held.trial_due


def test_where_trials_are_due_at_sentences_and_before_waits() -> None:
    fmt = FORMAT_IDS["overlaps itself"]  # closes with 1 1 2, waits with 5 4
    at_sentences = machine_for(fmt, Policy(waits=1, early_exit=EarlyExit(at="sentence", trial_tokens=1)))
    at_waits = machine_for(fmt, Policy(waits=2, thinking_tokens_min=3, early_exit=EarlyExit(at="wait", trial_tokens=1)))
    due: list[list[tuple[int, ...]]] = []
    for machine in (at_sentences, at_waits):
        due.append([])
        for number, token in enumerate((3, EOS, 3, 0, 5, 0, EOS, 3, 1, 3)):
            machine.push(token)
            if machine.trial_due:
                due[-1].append(tuple(machine.thinking_ids))
                trial = machine.trial()
                trial.push(10 + number)
                machine.conclude(trial)
            if machine.phase is not Phase.THINKING:
                break
    assert due[0] == [(3, 5, 4, 3)], "not where a wait is left; the second end of text ends the thinking"
    assert due[1] == [
        (3, 5, 4, 3, 0),  # the first end came before the minimum, and was replaced; here the student writes the wait
        (3, 5, 4, 3, 0, 5, 0),
        (3, 5, 4, 3, 0, 5, 0, 5, 4, 3),  # the beginning of the delimiter
    ]
    assert [i.kind for i in at_waits.interventions] == ["open", "wait", "wait", "wait"]


@pytest.mark.parametrize("name", [name for name in FORMAT_IDS if name != "nothing"])
def test_grace_takes_an_end_as_soon_as_it_is_likely_and_keeps_the_budget(name: str) -> None:
    fmt, early = FORMAT_IDS[name], 0
    for base, tokens, candidates, seed in itertools.product(BASES, (4, 20), (1, 3), (1, 2)):
        model = hashed_model(seed)
        grace = Grace(tokens=tokens, candidates=candidates)
        machine = machine_for(fmt, base.model_copy(update={"grace": grace}))
        without = finish(machine_for(fmt, base), model)
        while machine.phase is not Phase.DONE:
            thinking, soft, held = machine.phase is Phase.THINKING, machine.budget - tokens, machine.held
            before, half, token = list(machine.ids), machine.settled < len(machine.ids), model(machine.ids)
            likely = measured_after(before).end_rank < candidates
            ends = thinking and likely and not held and not half and machine.thinking_tokens >= soft
            following = machine.following(token, measured_after(before))
            push(machine, model)
            assert machine.ids[len(before) : len(before) + 1] == ([] if following is None else [following])
            graced = "grace" in {i.kind for i in machine.interventions if i.position == len(before)}
            if thinking:
                assert graced == (ends and token not in fmt.ends)
            assert machine.thinking_tokens <= machine.budget
        if any(i.kind == "grace" for i in machine.interventions):
            early += 1
            cut = base.model_copy(update={"thinking_tokens_max": machine.thinking_tokens})
            assert machine.thinking_ids == without.thinking_ids[: machine.thinking_tokens]
            if not base.waits and not base.thinking_tokens_min:
                assert machine.ids == finish(machine_for(fmt, cut), model).ids
        else:
            assert machine.ids == without.ids
    assert early > 3


@pytest.mark.parametrize("name", FORMAT_IDS)
def test_a_logits_processor_goes_on_with_a_trial_and_begins_anew_after_it(name: str) -> None:
    fmt = FORMAT_IDS[name]
    for base, early_exit in itertools.product(BASES[1::3], EXITS[4::2]):
        model = hashed_model(1)
        policy = base.model_copy(update={"early_exit": early_exit, "grace": Grace(tokens=2, candidates=1)})
        expected, machine, completions = machine_for(fmt, policy), machine_for(fmt, policy), 0
        trials = run(expected, model)
        while machine.phase is not Phase.DONE:
            row = emit(machine, model)
            completions += 1
            if row.thinking is not None:
                machine.conclude(row.machine)
        if fmt.close or fmt.cue:
            assert completions <= len(trials) + 1, "one that settles it ends it, unless the answer is longer"
        assert (machine.ids, machine.trial_tokens) == (expected.ids, expected.trial_tokens)
        assert machine.interventions == expected.interventions


def emit(machine: ForcingMachine, model: Model) -> ForcedRow:
    """Decode it id by id until its end or that of the next trial. In a format without delimiters also before that."""
    row = ForcedRow(machine, PositionalRNG(Sampling(), [0]), prompted=len(machine.ids))
    out: list[int] = []
    while EOS not in out:
        due = row.due(len(out))
        ids = row.machine.ids
        out.append(row.take(model(ids), measured_after(ids)) if due is None else due)
    row.finish(len(out))
    return row


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "every_tokens and at"),
        ({"at": "wait", "every_tokens": 4}, "every_tokens and at"),
        ({"at": "wait", "agree": 1}, "agree = 1 needs a probability"),
    ],
)
def test_an_early_exit_with_a_field_without_effect_is_none(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EarlyExit(**fields)


def test_a_policy_without_it_is_stored_as_before() -> None:
    assert Policy(thinking_tokens_max=3).model_dump() == {
        "thinking_tokens_max": 3, "thinking_tokens_min": 0, "waits": 0,
    }  # fmt: skip
    policy = Policy(early_exit=EarlyExit(every_tokens=4), grace=Grace(tokens=3))
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    ("model", "sampling"),
    [
        ("lively_model_dir", Sampling()),
        pytest.param("lively_model_dir", Sampling(temperature=0.7, seed=3), marks=pytest.mark.slow),
        # It repeats itself, so that its answers settle.
        pytest.param("tiny_model_dir", Sampling(), marks=pytest.mark.slow),
    ],
)
def test_the_embedded_engine_follows_the_machine_in_any_company(
    model: str, sampling: Sampling, request: pytest.FixtureRequest
) -> None:
    """Whatever else is decoded: other policies of the prompt, other prompts, one row or many."""
    import torch

    from tenner.inference.hf.engine import HFEngine
    from tenner.inference.job import Prompt

    prompts = [Prompt(str(i), f"<|im_start|>user\n{i} + {i * i}?<|im_end|>\n") for i in range(3)]
    plain = [Policy(thinking_tokens_max=n) for n in range(0, 25)] + [Policy(thinking_tokens_max=24, waits=1)]
    early: list[Any] = [
        Policy(thinking_tokens_max=24, waits=waits, early_exit=EarlyExit(every_tokens=every, trial_tokens=tokens))
        for every, tokens, waits in ((1, 1, 0), (2, 1, 1), (4, 3, 0), (8, 30, 0), (4, 12, 0), (2, 3, 0))
    ] + [
        Policy(
            thinking_tokens_max=24, thinking_tokens_min=5, grace=grace,
            early_exit=EarlyExit(every_tokens=4, agree=1, probability=0.2, trial_tokens=5),
        )
        for grace in (None, Grace(tokens=8, candidates=9))
    ]  # fmt: skip
    options: dict[str, Any] = {"answer_tokens_max": 12, "sampling": sampling}
    model_dir = request.getfixturevalue(model)
    engine = HFEngine.load(model_dir, dtype=torch.float32, rows=8)
    by = {(g.prompt_id, g.policy): g for g in engine.sweep(prompts, [*early, *plain], SHORT, **options)}
    exits = 0
    for prompt, policy in itertools.product(prompts, early):
        found = by[prompt.id, policy]
        (alone,) = engine.sweep([prompt], [policy], SHORT, **options)
        assert alone == found
        if any(i.kind == "exit" for i in found.interventions):
            exits += 1
            assert found.trial_tokens > 0 or policy.early_exit.agree == 1  # the trial begins the answer
            if policy.waits == 0 and policy.thinking_tokens_min == 0:
                cut = by[prompt.id, Policy(thinking_tokens_max=found.thinking_tokens)]
                assert (found.token_ids, found.answer) == (cut.token_ids, cut.answer)
        else:
            if policy.thinking_tokens_min:
                continue
            without = by[prompt.id, policy.model_copy(update={"early_exit": None})]
            assert (found.token_ids, found.interventions) == (without.token_ids, without.interventions)
    assert exits > 3 if model == "tiny_model_dir" else exits < len(early) * len(prompts)
    done_by_a_trial = [early[4], Policy(thinking_tokens_max=4)]
    both = list(engine.sweep(prompts[:1], done_by_a_trial, SHORT, **options))
    assert {g.policy: g for g in both} == {policy: by[prompts[0].id, policy] for policy in done_by_a_trial}
    one_row = HFEngine.load(model_dir, dtype=torch.float32, rows=1)
    assert {(g.prompt_id, g.policy): g for g in one_row.sweep(prompts, early, SHORT, **options)} == {
        key: g for key, g in by.items() if key[1] in early
    }
    streamed = list(engine.stream(prompts[0], early[0], SHORT, **options))
    expected = by[prompts[0].id, early[0]]
    assert "".join(piece.text for piece in streamed) == expected.thinking + expected.answer


def test_an_engine_that_cannot_is_refused(tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    from tenner.inference.api import ApiEngine
    from tenner.inference.job import Prompt

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    engine = ApiEngine("http://127.0.0.1:9", "m", tokenizer, context_tokens=100, speaks="ids")
    for policy, message in (
        (Policy(early_exit=EarlyExit(at="wait", agree=1, probability=0.9)), "has no early_exit.probability"),
        (Policy(grace=Grace(tokens=4)), "engine api cannot give grace"),
    ):
        with pytest.raises(TennerError, match=message):
            next(engine.sweep([Prompt("p", "Hi")], [policy], SHORT, answer_tokens_max=5))


def test_who_asks_for_a_probability_or_grace_must_be_told_of_the_distribution() -> None:
    fmt = FORMAT_IDS["two tokens"]
    graceful = machine_for(fmt, Policy(thinking_tokens_max=2, grace=Grace(tokens=1)))
    assert not graceful.measures, "nothing is read before the last tokens"
    graceful.push(3)
    sure = machine_for(fmt, Policy(early_exit=EarlyExit(every_tokens=1, agree=1, probability=0.5)))
    assert not sure.measures, "thinking is not read"
    sure.push(3)
    for machine in (graceful, sure.trial()):
        assert machine.measures
        with pytest.raises(AssertionError, match="needs the distribution measured"):
            machine.push(3)
    for policy in (Policy(), Policy(early_exit=EarlyExit(every_tokens=1))):
        machine = machine_for(fmt, policy)
        machine.push(3)
        assert not machine.measures
        assert policy.early_exit is None or not machine.trial().measures


@pytest.mark.parametrize("name", FORMAT_IDS)
def test_machines_that_share_what_is_measured_where_one_reads_it_end_as_each_alone(name: str) -> None:
    rules: list[dict[str, Any]] = [
        {}, {"grace": Grace(tokens=3, candidates=2)}, {"grace": Grace(tokens=1)},
        {"early_exit": EarlyExit(every_tokens=2, agree=1, probability=0.6, trial_tokens=3)},
        {"early_exit": EarlyExit(every_tokens=1, agree=2, trial_tokens=2)},
    ]  # fmt: skip
    for budget, seed, some in itertools.product((3, 10, None), range(3), itertools.permutations(rules, 2)):
        model = hashed_model(seed)
        policies = [Policy(thinking_tokens_max=budget, **rule) for rule in some]
        first = machine_for(FORMAT_IDS[name], policies[0])
        for machine in (first, first.replay(policies[1])):
            machine.recall()
            while machine.phase is not Phase.DONE:
                trial = machine.trial() if machine.trial_due else None
                one = machine if trial is None else trial
                if one.phase is not Phase.DONE:
                    one.push(model(one.ids), measured_after(one.ids) if one.measures else None)
                elif trial is not None:
                    machine.conclude(trial)
                machine.recall()
            alone = machine_for(FORMAT_IDS[name], machine.policy)
            run(alone, model)
            assert machine.ids == alone.ids
            assert machine.interventions == alone.interventions


def test_a_token_that_another_machine_sampled_as_thinking_is_sampled_again_where_it_is_an_answer() -> None:
    fmt = FORMAT_IDS["no close"]
    thinking = machine_for(fmt, Policy())
    sure = thinking.replay(Policy(early_exit=EarlyExit(every_tokens=1, agree=1, probability=0.5)))
    for token in (3, *fmt.cue, 4, 5):  # it thinks the very cue
        thinking.push(token)
    sure.recall()
    trial = sure.trial()
    trial.recall()
    assert trial.ids == thinking.ids[: 1 + len(fmt.cue)]
    trial.push(4, Measured(log_probability=-0.1, end_rank=0))
    assert trial.answer_tokens == 1


def test_an_engine_is_told_where_the_next_switch_point_is() -> None:
    fmt = FORMAT_IDS["two tokens"]
    every_four = Policy(thinking_tokens_max=10, waits=1, early_exit=EarlyExit(every_tokens=4, trial_tokens=1))
    machine = machine_for(fmt, every_four)
    told = []
    for token in (3, 3, 3, 3, 3, EOS):  # held until the end of text, in whose place a wait is put
        assert not machine.trial_due
        told.append(machine.next_switch)
        machine.push(token)
    assert told == [4, 4, 4, 4, 5, 6], "where a trial was held up, it may be due at the very next id"
    assert machine.trial_due


def test_where_a_trial_was_run_the_next_multiple_is_the_next_switch_point() -> None:
    policy = Policy(thinking_tokens_max=10, early_exit=EarlyExit(every_tokens=4, trial_tokens=1))
    machine, told = machine_for(FORMAT_IDS["two tokens"], policy), []
    while machine.phase is Phase.THINKING:
        if machine.trial_due:
            trial = machine.trial()
            assert trial.answer_tokens_max == 1
            trial.push(10 + machine.thinking_tokens)
            machine.conclude(trial)
        told.append(machine.next_switch)
        machine.push(3)
    assert told == [4, 4, 4, 4, 8, 8, 8, 8, 10, 10]
    assert machine_for(FORMAT_IDS["two tokens"], Policy(thinking_tokens_max=7)).next_switch == 7


def test_the_ids_of_a_switch_point_are_those_of_its_kind_while_it_thinks() -> None:
    fmt = FORMAT_IDS["overlaps itself"]
    kinds = {"sentence": SENTENCE_ENDS, "wait": frozenset(fmt.wait[:1]), "tokens": frozenset()}
    for at, ids in kinds.items():
        rule = EarlyExit(every_tokens=2) if at == "tokens" else EarlyExit.model_validate({"at": at})
        machine = machine_for(fmt, Policy(early_exit=rule))
        assert machine.switch_ids == ids
        machine.push(EOS)
        assert machine.phase is Phase.ANSWERING
        assert machine.switch_ids == frozenset()
    assert machine_for(fmt, Policy()).switch_ids == frozenset()
