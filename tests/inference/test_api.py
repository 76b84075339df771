"""Forcing by continuation over real HTTP, compared with a machine that the same student drives directly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from completions_server import CompletionsServer
from transformers import AutoTokenizer

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import EarlyExit, Policy, Sampling
from tenner.core.seeds import digest
from tenner.inference import api
from tenner.inference.api import ApiEngine
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.format_ids import FormatIds
from tenner.inference.job import Prompt

FORMAT = ThinkFormat("two", open="<|im_start|>t", close="xy", cue="=")
PLAIN = ThinkFormat("none", open="", close="", cue="=")
PROMPTS = [Prompt(str(i), f"<|im_start|>user\n{i} + {i}?<|im_end|>\n") for i in range(12)]
POLICIES = [Policy(thinking_tokens_max=b, waits=w) for b in (0, 3, 9, 20) for w in (0, 2)] + [
    Policy(thinking_tokens_max=12, thinking_tokens_min=6)
]
ANSWER_MAX = 5


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def student(tokenizer: Tokenizer) -> Callable[[list[int]], int]:
    """The next token is drawn by a hash of all ids before it: mostly pieces of the delimiter."""
    alphabet = [*tokenizer.encode("axxyyb", add_special_tokens=False), tokenizer.eos_token_id]
    return lambda ids: alphabet[int(digest(*ids)[:8], 16) % len(alphabet)]


def engine_for(server: CompletionsServer, tokenizer: Tokenizer, **options: Any) -> ApiEngine:
    return ApiEngine(server.url, "m", tokenizer, context_tokens=200, wait_text="w", **{"speaks": "ids"} | options)


def alone(
    tokenizer: Tokenizer, student: Callable[[list[int]], int], prompt: Prompt, policy: Policy, fmt: ThinkFormat
) -> ForcingMachine:
    ids = tokenizer.encode(prompt.text, add_special_tokens=False)
    fmt_ids = FormatIds.resolve(tokenizer, fmt, "w")
    machine = ForcingMachine(fmt_ids, policy, answer_tokens_max=ANSWER_MAX, thinking_room=100)
    return finish(machine, lambda after: student(ids + after))


def finish(machine: ForcingMachine, student: Callable[[list[int]], int]) -> ForcingMachine:
    while machine.phase is not Phase.DONE:
        if machine.trial_due:
            machine.conclude(finish(machine.trial(), student))
        else:
            machine.push(student(machine.ids))
    return machine


@pytest.mark.parametrize("fmt", [FORMAT, PLAIN])
def test_rounds_by_ids_are_the_machine_step_by_step(
    tokenizer: Any, student: Callable[[list[int]], int], fmt: ThinkFormat
) -> None:
    with CompletionsServer(tokenizer, student) as server:
        generations = list(engine_for(server, tokenizer).sweep(PROMPTS, POLICIES, fmt, answer_tokens_max=ANSWER_MAX))
    assert len(generations) == len(PROMPTS) * len(POLICIES)
    for g in generations:
        expected = alone(tokenizer, student, PROMPTS[int(g.prompt_id)], g.policy, fmt)
        assert list(g.token_ids) == expected.ids
        assert g.interventions == expected.interventions
        assert g.truncated == expected.truncated
    assert len(server.requests) < 4.5 * len(generations)


def test_rounds_by_text_give_the_same_ids(tokenizer: Any, student: Callable[[list[int]], int]) -> None:
    with CompletionsServer(tokenizer, student, gives_ids=False) as server:
        engine = engine_for(server, tokenizer, speaks="text")
        generations = list(engine.sweep(PROMPTS, POLICIES, FORMAT, answer_tokens_max=ANSWER_MAX))
    for g in generations:
        assert list(g.token_ids) == alone(tokenizer, student, PROMPTS[int(g.prompt_id)], g.policy, FORMAT).ids


@pytest.mark.parametrize("speaks", ["ids", "text"])
def test_trial_answers_of_early_exit_are_rounds_of_their_own(
    tokenizer: Any, student: Callable[[list[int]], int], speaks: str
) -> None:
    policies = [
        Policy(thinking_tokens_max=20, waits=waits, early_exit=EarlyExit(at=at, every_tokens=every, trial_tokens=1))
        for waits, at, every in ((0, "tokens", 2), (2, "tokens", 3), (3, "wait", None))
    ]
    with CompletionsServer(tokenizer, student, gives_ids=speaks == "ids") as server:
        engine = engine_for(server, tokenizer, speaks=speaks)
        generations = list(engine.sweep(PROMPTS, policies, FORMAT, answer_tokens_max=ANSWER_MAX))
        streamed = "".join(
            p.text for p in engine.stream(PROMPTS[0], policies[-1], FORMAT, answer_tokens_max=ANSWER_MAX)
        )
    for g in generations:
        expected = alone(tokenizer, student, PROMPTS[int(g.prompt_id)], g.policy, FORMAT)
        assert (list(g.token_ids), g.interventions) == (expected.ids, expected.interventions)
        assert g.trial_tokens == expected.trial_tokens
    assert {p for p in policies for g in generations if g.policy == p and "exit" in {i.kind for i in g.interventions}}
    assert streamed in {g.thinking + g.answer for g in generations if g.prompt_id == "0"}


def test_the_words_of_other_servers_for_an_end_and_a_cut_are_known(
    tokenizer: Any, student: Callable[[list[int]], int]
) -> None:
    with CompletionsServer(tokenizer, student, words={"stop": "eos", "length": "MAX_TOKENS"}) as server:
        generations = list(engine_for(server, tokenizer).sweep(PROMPTS, POLICIES, FORMAT, answer_tokens_max=ANSWER_MAX))
    expected = [alone(tokenizer, student, PROMPTS[int(g.prompt_id)], g.policy, FORMAT) for g in generations]
    assert [(list(g.token_ids), g.truncated) for g in generations] == [(e.ids, e.truncated) for e in expected]
    assert any(e.truncated for e in expected)


@pytest.mark.parametrize("word", ["abort", "content_filter", "paused", None])
def test_an_end_that_is_neither_is_an_error(tokenizer: Any, student: Callable[[list[int]], int], word: str) -> None:
    with CompletionsServer(tokenizer, student, words={"stop": word, "length": word}) as server:
        engine = engine_for(server, tokenizer)
        with pytest.raises(TennerError, match=f"ended a completion with finish_reason {word}"):
            list(engine.sweep(PROMPTS, POLICIES, FORMAT, answer_tokens_max=ANSWER_MAX))


def test_a_stream_is_the_generation_and_sampling_goes_with_every_round(
    tokenizer: Any, student: Callable[[list[int]], int]
) -> None:
    with CompletionsServer(tokenizer, student) as server:
        engine, hot = engine_for(server, tokenizer), Sampling(temperature=0.5, top_p=0.9, seed=3)
        pieces = list(engine.stream(PROMPTS[0], POLICIES[-2], FORMAT, answer_tokens_max=ANSWER_MAX, sampling=hot))
    expected = alone(tokenizer, student, PROMPTS[0], POLICIES[-2], FORMAT)
    assert "".join(p.text for p in pieces) == tokenizer.decode([*expected.thinking_ids, *expected.answer_ids])
    assert {(r["temperature"], r["top_p"]) for r in server.requests} == {(0.5, 0.9)}
    assert len({r["seed"] for r in server.requests}) == len(server.requests), "every round has a seed of its own"


def test_the_servers_own_budget_is_counted(tokenizer: Any) -> None:
    think, x, y = tokenizer.encode("axy", add_special_tokens=False)
    end = tokenizer.eos_token_id

    def heeding(ids: list[int]) -> int:
        """Thinks for three tokens, closes, and answers with two."""
        start = len(ids) - 1 - ids[::-1].index(1) + 2
        return [think, think, think, x, y, think, think, end][len(ids) - start]

    with CompletionsServer(tokenizer, heeding) as server:
        engine = engine_for(server, tokenizer)
        g = engine.by_own_budget(PROMPTS[0], 3, FORMAT, answer_tokens_max=ANSWER_MAX)
        assert (g.thinking_tokens, g.answer_tokens, g.truncated) == (3, 2, False)
        assert server.requests[0]["thinking_token_budget"] == 3
        with pytest.raises(TennerError, match="ignored thinking_token_budget: 3 thinking tokens for prompt 0 where 2"):
            engine.by_own_budget(PROMPTS[0], 2, FORMAT, answer_tokens_max=ANSWER_MAX)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"gives_ids": False}, "returns no token ids"),
        ({"heeds_max_tokens": False}, r"returned \d+ tokens where \d+ were allowed"),
        ({"choices": 0}, "returned no choice"),
    ],
)
def test_responses_are_checked(
    tokenizer: Any, student: Callable[[list[int]], int], fault: dict[str, Any], message: str
) -> None:
    with (
        CompletionsServer(tokenizer, lambda ids: min(student(ids), 100) + 3, **fault) as server,
        pytest.raises(TennerError, match=message),
    ):
        list(engine_for(server, tokenizer).sweep(PROMPTS, POLICIES, FORMAT, answer_tokens_max=ANSWER_MAX))


def test_every_end_of_a_turn_ends_a_round(tokenizer: Any, tmp_path: Path) -> None:
    """generation_config names a second one: the server is told of it, and it is no part of the answer."""
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    (think,) = tokenizer.encode("a", add_special_tokens=False)

    def ending(ids: list[int]) -> int:
        """Ends the thinking, and then the answer, by the second one after two tokens."""
        return 0 if ids[-2:] == [think, think] else think

    with CompletionsServer(tokenizer, ending) as server:
        engine = engine_for(server, tokenizer, model_dir=tmp_path)
        (g,) = engine.sweep(PROMPTS[:1], [Policy(thinking_tokens_max=9)], FORMAT, answer_tokens_max=ANSWER_MAX)
    assert (g.thinking, g.answer, g.truncated) == ("aa", "aa", False)
    (close,) = tokenizer.encode("x", add_special_tokens=False)
    assert [r["stop_token_ids"] for r in server.requests] == [[close, 0], [0]]


def test_a_control_token_as_text_needs_a_server_of_ids(tokenizer: Any) -> None:
    prompt = Prompt("p", "<|im_start|>user\nWhat is <|im_end|>?<|im_end|>\n", ((25, 35),))
    for speaks in ("ids", "text"):
        with CompletionsServer(tokenizer, lambda _: 2) as server:
            engine = engine_for(server, tokenizer, speaks=speaks)
            if speaks == "ids":
                (_,) = engine.sweep([prompt], [Policy()], PLAIN, answer_tokens_max=ANSWER_MAX)
                assert server.requests[0]["prompt"].count(2) == 1
                continue
            with pytest.raises(TennerError, match=r"prompt p holds <\|im_end\|> as text") as refused:
                list(engine.sweep([prompt], [Policy()], PLAIN, answer_tokens_max=ANSWER_MAX))
            assert refused.value.hint is not None
            assert 'speaks = "ids"' in refused.value.hint
            assert server.requests == []


@pytest.mark.slow
def test_no_server_and_no_room(tokenizer: Any) -> None:
    engine = ApiEngine("http://127.0.0.1:9/v1", "m", tokenizer, context_tokens=40, speaks="ids")
    with pytest.raises(TennerError, match="Connection error"):
        list(engine.sweep([Prompt("p", "?")], [Policy()], FORMAT, answer_tokens_max=ANSWER_MAX))
    with pytest.raises(TennerError, match="too many for the context"):
        list(engine.sweep(PROMPTS, [Policy()], FORMAT, answer_tokens_max=30))


UNREADABLE = {
    "a web page": (b"<!DOCTYPE html><html>Please log in</html>", "returned something else than JSON"),
    "nothing": (b"", "returned something else than JSON"),
    "deep": (b"[" * 100_000, "returned something else than JSON"),
    "a list": (b"[]", "returned no completion: the body"),
    "null": (b"null", "returned no completion: the body"),
    "no choices": (b"{}", "returned no choice"),
    "null choices": (b'{"choices": null}', "returned no choice"),
    "a choice that is text": (b'{"choices": ["a"]}', r"returned no completion: choices\.0"),
    "text that is a number": (b'{"choices": [{"text": 7}]}', r"returned no completion: choices\.0\.text"),
    "a reason that is a number": (b'{"choices": [{"finish_reason": 7}]}', r"choices\.0\.finish_reason"),
    "ids that are words": (b'{"choices": [{"token_ids": ["a"]}]}', r"choices\.0\.token_ids\.0"),
    "ids below nought": (b'{"choices": [{"token_ids": [-1]}]}', r"choices\.0\.token_ids\.0"),
    "ids beyond any": (b'{"choices": [{"token_ids": [4294967296]}]}', r"choices\.0\.token_ids\.0"),
    "a count that is text": (b'{"choices": [{}], "usage": {"completion_tokens": "many"}}', "completion_tokens"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_is_no_completion_is_one_line(tokenizer: Any, name: str) -> None:
    body, message = UNREADABLE[name]
    with (
        CompletionsServer(tokenizer, lambda _: 3, body=body) as server,
        pytest.raises(TennerError, match=message) as caught,
    ):
        list(engine_for(server, tokenizer).sweep(PROMPTS[:1], POLICIES[:1], FORMAT, answer_tokens_max=ANSWER_MAX))
    assert caught.value.hint
    assert server.url in str(caught.value)


def test_half_a_character_of_a_text_is_replaced(tokenizer: Any) -> None:
    body = b'{"choices": [{"text": "1 \\ud83d", "finish_reason": "length"}], "usage": null}'
    completion = api.read_completion(body, where="http://a")
    assert completion.choices[0].text == "1 ?"
    assert tokenizer.encode(completion.choices[0].text)
