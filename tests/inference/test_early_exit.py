"""Early exit: the machine against a plain reading of its rules, and the embedded engine against the machine."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from short_format import SHORT
from test_forcing import FORMAT_IDS, ROOM, Model, finish, hashed_model

from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Policy, Sampling
from tenner.inference.forcing import ForcingMachine, FormatIds, Phase

ANSWER_MAX = 5
EXITS = [
    EarlyExit(every_tokens=every, agree=agree, trial_tokens=tokens)
    for every, agree, tokens in ((1, 2, 1), (1, 2, 3), (2, 2, 2), (3, 2, 9), (2, 3, 1))
]
BASES = [
    Policy(thinking_tokens_max=budget, waits=waits, thinking_tokens_min=least)
    for budget, waits, least in itertools.product((0, 3, 10, None), (0, 1), (0, 4))
]


def machine_for(fmt: FormatIds, policy: Policy) -> ForcingMachine:
    return ForcingMachine(fmt, policy, answer_tokens_max=ANSWER_MAX, thinking_room=ROOM)


def run(machine: ForcingMachine, model: Model) -> list[tuple[int, ForcingMachine]]:
    """Decode it with its trials, which are returned with the thinking tokens where they were due."""
    trials = []
    while machine.phase is not Phase.DONE:
        if machine.trial_due:
            trial = machine.trial()
            trials.append((machine.thinking_tokens, finish(trial, model)))
            machine.conclude(trial)
        else:
            machine.push(model(machine.ids))
    return trials


@pytest.mark.parametrize("name", FORMAT_IDS)
def test_thinking_is_the_same_up_to_the_exit_and_the_exit_is_a_cut_there(name: str) -> None:
    fmt, exits = FORMAT_IDS[name], 0
    for base, early_exit, seed in itertools.product(BASES, EXITS, range(4)):
        model = hashed_model(seed)
        machine = machine_for(fmt, base.model_copy(update={"early_exit": early_exit}))
        trials = run(machine, model)
        without = finish(machine_for(fmt, base), model)
        for at, trial in trials:
            assert trial.thinking_ids == without.thinking_ids[:at], "a trial is a cut of the same thinking"
            assert trial.answer_tokens <= early_exit.trial_tokens
        answers = [trial.answer_ids for _, trial in trials]
        agreeing = [answers[i : i + early_exit.agree] for i in range(len(answers) - early_exit.agree + 1)]
        settled = [i for i, some in enumerate(agreeing) if all(a == some[0] for a in some)]
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


def test_a_policy_without_it_is_stored_as_before() -> None:
    assert Policy(thinking_tokens_max=3).model_dump() == {
        "thinking_tokens_max": 3, "thinking_tokens_min": 0, "waits": 0,
    }  # fmt: skip
    policy = Policy(early_exit=EarlyExit(every_tokens=4))
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    ("model", "sampling"),
    [
        ("lively_model_dir", Sampling()),
        ("lively_model_dir", Sampling(temperature=0.7, seed=3)),
        ("tiny_model_dir", Sampling()),  # it repeats itself, so that its answers settle
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
    early = [
        Policy(thinking_tokens_max=24, waits=waits, early_exit=EarlyExit(every_tokens=every, trial_tokens=tokens))
        for every, tokens, waits in ((1, 1, 0), (2, 1, 1), (4, 3, 0), (8, 30, 0))
    ]
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
            assert found.trial_tokens > 0
            if policy.waits == 0:
                cut = by[prompt.id, Policy(thinking_tokens_max=found.thinking_tokens)]
                assert (found.token_ids, found.answer) == (cut.token_ids, cut.answer)
        else:
            without = by[prompt.id, policy.model_copy(update={"early_exit": None})]
            assert (found.token_ids, found.interventions) == (without.token_ids, without.interventions)
    assert exits > 3 if model == "tiny_model_dir" else exits < len(early) * len(prompts)
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
    policy = Policy(early_exit=EarlyExit(every_tokens=4))
    with pytest.raises(TennerError, match="engine api cannot end thinking early"):
        next(engine.sweep([Prompt("p", "Hi")], [policy], SHORT, answer_tokens_max=5))
