"""The server as clients meet it: a tiny real model behind a real port, and OpenAI's own client before it."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import load_generator
import openai
import psutil
import pytest
from paths import DATA
from short_format import SHORT

from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Grace, Policy
from tenner.inference.engine import Generation
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Job, Prompt, Request
from tenner.inference.server.app import Serving, Settings, serving
from tenner.inference.server.served_student import ServedStudent

SETTINGS = Settings("127.0.0.1", 0, None, concurrency_max=8, request_bytes_max=20_000, price_usd_per_hour=0.36)
LONG = 900
QUESTION = "What is 2 + 2?"
Client = openai.AsyncOpenAI


@pytest.fixture(scope="module")
def engine(lively_model_dir: Path) -> HFEngine:
    return load_generator.load(lively_model_dir)


@pytest.fixture(scope="module")
def endless(tiny_model_dir: Path) -> HFEngine:
    """It repeats itself until the limit."""
    engine = load_generator.load(tiny_model_dir)
    assert generated(engine, Policy(thinking_tokens_max=8), answer_tokens_max=LONG, question="Hi").truncated
    return engine


@pytest.fixture(scope="module")
def student() -> ServedStudent:
    return load_generator.student(Path("of the engine"))._replace(system_prompt="Be brief.", answer_tokens_max=12)


def generated(engine: HFEngine, policy: Policy, *, answer_tokens_max: int = 12, question: str = QUESTION) -> Generation:
    """What the engine answers without a server."""
    prompt = Prompt("alone", ChatTemplate(engine.tokenizer, system_prompt="Be brief.").question(question).text)
    (generation,) = engine.sweep([prompt], [policy], SHORT, answer_tokens_max=answer_tokens_max)
    return generation


def talk(
    engine: HFEngine,
    student: ServedStudent,
    conversation: Callable[[Client, Serving], Awaitable[Any]],
    *,
    key: str = "none",
    **settings: Any,
) -> Any:
    """Run a conversation between a client and a server of its own."""

    async def run() -> Any:
        async with (
            serving(engine, student, SETTINGS._replace(**settings)) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client,
        ):
            return await conversation(client, server)

    return asyncio.run(run())


async def ask(client: Client, question: str = QUESTION, **options: Any) -> Any:
    options.setdefault("model", "tiny")
    return await client.chat.completions.create(messages=[{"role": "user", "content": question}], **options)


def extra(completion: Any) -> dict[str, Any]:
    found: dict[str, Any] = completion.model_extra["tenner"]
    return found


def forced_text(generation: Generation, engine: HFEngine) -> list[tuple[str, str]]:
    ids = generation.token_ids
    return [
        (i.kind, engine.tokenizer.decode(list(ids[i.position : i.position + i.tokens])) if i.tokens else "")
        for i in generation.interventions
    ]


POLICIES: list[tuple[dict[str, Any], Policy]] = [
    ({}, Policy(thinking_tokens_max=64)),
    ({"reasoning_effort": "none"}, Policy(thinking_tokens_max=0)),
    ({"reasoning_effort": "minimal"}, Policy(thinking_tokens_max=8)),
    ({"reasoning_effort": "medium"}, Policy(thinking_tokens_max=32)),
    ({"extra_body": {"thinking": {"max_tokens": 5}}}, Policy(thinking_tokens_max=5)),
    ({"extra_body": {"thinking": {"waits": 2}}}, Policy(thinking_tokens_max=64, waits=2)),
    (
        {"extra_body": {"thinking": {"max_tokens": 40, "min_tokens": 20}}},
        Policy(thinking_tokens_max=40, thinking_tokens_min=20),
    ),
    ({"reasoning_effort": "high", "extra_body": {"thinking": {"waits": 1}}}, Policy(thinking_tokens_max=64, waits=1)),
    (
        {"extra_body": {"thinking": {"early_exit": {"every_tokens": 4, "trial_tokens": 1}}}},
        Policy(thinking_tokens_max=64, early_exit=EarlyExit(every_tokens=4, trial_tokens=1)),
    ),
    (
        {"extra_body": {"thinking": {"waits": 1, "early_exit": {"at": "wait", "agree": 1, "probability": 0.01}}}},
        Policy(thinking_tokens_max=64, waits=1, early_exit=EarlyExit(at="wait", agree=1, probability=0.01)),
    ),
    (
        {"extra_body": {"thinking": {"max_tokens": 32, "grace": {"tokens": 30, "candidates": 2}}}},
        Policy(thinking_tokens_max=32, grace=Grace(tokens=30, candidates=2)),
    ),
]


def test_the_requested_policy_is_the_one_applied(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        for options, policy in POLICIES:
            expected = generated(engine, policy)
            completion = await ask(client, **options)
            (choice,) = completion.choices
            assert choice.message.content == expected.answer
            assert choice.message.reasoning_content == choice.message.reasoning == expected.thinking
            assert choice.finish_reason == ("length" if expected.truncated else "stop")
            usage, report = completion.usage, extra(completion)
            assert usage.completion_tokens_details.reasoning_tokens == expected.thinking_tokens
            assert usage.completion_tokens == len(expected.token_ids)
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
            assert report["policy"] == policy.model_dump()
            assert report["trial_tokens"] == expected.trial_tokens
            assert [(i["kind"], i["text"]) for i in report["interventions"]] == forced_text(expected, engine)
            assert report["cost_usd"] == pytest.approx(report["machine_seconds"] * 0.36 / 3600)
            assert report["machine_seconds"] > 0

    talk(engine, student, conversation)
    kinds = {i.kind for _, policy in POLICIES for i in generated(engine, policy).interventions}
    assert kinds - {"exit"} == {"open", "wait", "cut", "close", "cue"}, "the policies cover all kinds of interventions"


def test_a_stream_is_the_completion_in_pieces(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        options: dict[str, Any] = {"extra_body": {"thinking": {"max_tokens": 30, "waits": 2}}}
        whole = await ask(client, **options)
        stream = await ask(client, stream=True, stream_options={"include_usage": True}, **options)
        chunks = [chunk async for chunk in stream]
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        message = whole.choices[0].message
        assert "".join(d.content or "" for d in deltas) == message.content
        for name in ("reasoning_content", "reasoning"):
            assert "".join(getattr(d, name, None) or "" for d in deltas) == message.reasoning_content
        assert deltas[0].role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
        assert chunks[-1].choices == []
        assert chunks[-1].usage == whole.usage
        assert {c.id for c in chunks} == {chunks[0].id} != {whole.id}
        assert extra(chunks[-2])["interventions"] == extra(whole)["interventions"]
        forced = [c for c in chunks[:-2] if c.model_extra and c.model_extra.get("tenner") == {"forced": True}]
        put_in = "".join(i["text"] for i in extra(whole)["interventions"] if i["kind"] in ("wait", "cue"))
        shown = "".join(
            (c.choices[0].delta.content or "") + (getattr(c.choices[0].delta, "reasoning", None) or "") for c in forced
        )
        assert shown == put_in != ""
        without = [chunk async for chunk in await ask(client, stream=True)]
        assert all(chunk.choices and chunk.usage is None for chunk in without)

    talk(engine, student, conversation)


def test_sampling_is_by_temperature_and_seed(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        async def text(**options: Any) -> str:
            message = (await ask(client, temperature=1.0, **options)).choices[0].message
            return f"{message.reasoning}|{message.content}"

        assert await text(seed=1) == await text(seed=1)
        assert len({await text(seed=seed) for seed in range(5)}) > 1
        assert len({await text() for _ in range(5)}) > 1, "without a seed every request has its own"

    talk(engine, student, conversation)


def test_a_temperature_below_what_float32_holds_is_greedy(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        greedy = (await ask(client)).choices[0].message
        for temperature in (1e-45, 5e-324, 1e-30):
            assert (await ask(client, temperature=temperature, top_p=0.5)).choices[0].message == greedy
            assert (await ask(client, temperature=temperature)).choices[0].message == greedy

    talk(engine, student, conversation)


def test_max_tokens_holds_thinking_answer_and_delimiters_together(engine: HFEngine, student: ServedStudent) -> None:
    injected = len(engine.tokenizer.encode(SHORT.open + SHORT.close + SHORT.cue))

    async def conversation(client: Client, _: Serving) -> None:
        for total in (injected + 1, injected + 2, 20, 50, 200):
            for name in ("max_tokens", "max_completion_tokens"):
                limit: dict[str, Any] = {name: total}
                completion = await ask(client, **limit)
                assert completion.usage.completion_tokens <= total
        for options, answer_tokens_max in (({"thinking": {"max_tokens": 8}}, 92 - injected), ({}, 100 - injected - 64)):
            completion = await ask(client, max_tokens=100, extra_body=options)
            policy = Policy(thinking_tokens_max=options.get("thinking", {}).get("max_tokens", 64))
            expected = generated(engine, policy, answer_tokens_max=answer_tokens_max)
            assert completion.choices[0].message.content == expected.answer
        with pytest.raises(openai.BadRequestError, match="leaves no room for an answer"):
            await ask(client, max_tokens=20, extra_body={"thinking": {"max_tokens": 20}})
        with pytest.raises(openai.BadRequestError, match="leaves no room for an answer"):
            await ask(client, max_tokens=injected)

    talk(engine, student, conversation)


def test_conversations_are_rendered_by_the_chat_template(engine: HFEngine, student: ServedStudent) -> None:
    async def tokens(client: Client, *messages: Any) -> int:
        done = await client.chat.completions.create(model="tiny", messages=messages, reasoning_effort="none")
        assert done.usage is not None
        return done.usage.prompt_tokens

    def count(*turns: tuple[str, str]) -> int:
        text = engine.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns], tokenize=False, add_generation_prompt=True
        )
        return len(engine.tokenizer.encode(text, add_special_tokens=False))

    async def conversation(client: Client, _: Serving) -> None:
        user = {"role": "user", "content": "Hi"}
        assert await tokens(client, user) == count(("system", "Be brief."), ("user", "Hi"))
        parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}
        assert await tokens(client, parts) == count(("system", "Be brief."), ("user", "Hi\nyou"))
        for role in ("system", "developer"):
            own = {"role": role, "content": "Sing."}
            assert await tokens(client, own, user) == count(("system", "Sing."), ("user", "Hi"))
        first = (await ask(client, "Hi")).choices[0].message
        earlier_answer = first.model_dump()  # with all the fields that are null, and the thinking
        expected = count(("system", "Be brief."), ("user", "Hi"), ("assistant", first.content), ("user", "Hi"))
        assert await tokens(client, user, earlier_answer, user) == expected

    talk(engine, student, conversation)


def test_models_health_and_page(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        (model,) = (await client.models.list()).data
        assert (model.id, model.object, model.owned_by) == ("tiny", "model", "tenner")
        defaults = (model.model_extra or {})["tenner"]
        assert defaults["efforts"] == {"none": 0, "minimal": 8, "low": 16, "medium": 32, "high": 64}
        assert defaults["thinking_tokens_max"] == 64
        assert defaults["price_usd_per_hour"] == 0.36
        async with httpx2.AsyncClient(base_url=server.url) as http:
            health = (await http.get("/health")).json()
            assert health == {"status": "ok", "model": "tiny", "answers_under_way": 0, "concurrency_max": 8}
            page = await http.get("/")
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "unsafe" not in page.headers["content-security-policy"]
            assert "default-src 'none'" in page.headers["content-security-policy"]
            for path in re.findall(r'(?:href|src)="(web/[^"]+)"', page.text):
                assert (await http.get(path)).status_code == 200
            assert (await http.get("web/vendor/Temml.woff2")).headers["content-type"] == "font/woff2"
            assert (await http.get("web/vendor/README.md")).status_code == 404
            assert (await http.get("v1/examples")).json() == {"object": "list", "data": []}

    talk(engine, student, conversation)


USER = {"role": "user", "content": "Hi"}
GOOD: dict[str, Any] = {"model": "tiny", "messages": [USER]}
WRONG_BODIES: list[tuple[bytes | dict[str, Any], int, str, str | None, str]] = [
    (b"", 400, "invalid_json", None, "the body is not JSON"),
    (b"{", 400, "invalid_json", None, "the body is not JSON"),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "invalid_json", None, "not JSON"),
    (b'{"model": "tiny\xff"}', 400, "invalid_json", None, "the body is not JSON"),
    (b"[" * 5000, 400, "invalid_json", None, "the body is not JSON"),
    (b"[]", 400, "invalid_value", None, "object"),
    (b"null", 400, "invalid_value", None, "object"),
    ({"messages": [USER]}, 400, "missing_required_parameter", "model", "model is missing"),
    ({"model": "tiny"}, 400, "missing_required_parameter", "messages", "messages is missing"),
    (GOOD | {"model": 7}, 400, "invalid_value", "model", "string"),
    (GOOD | {"model": "gpt-5"}, 404, "model_not_found", "model", "there is no model 'gpt-5' here"),
    (GOOD | {"messages": []}, 400, "invalid_value", "messages", "at least 1"),
    (GOOD | {"messages": "Hi"}, 400, "invalid_value", "messages", "array"),
    (GOOD | {"messages": [{"role": "user"}]}, 400, "missing_required_parameter", "messages[0].content", "is missing"),
    (GOOD | {"messages": [USER | {"role": "tool"}]}, 400, "invalid_value", "messages[0].role", "'user'"),
    (GOOD | {"messages": [USER, USER | {"role": "assistant"}]}, 400, "invalid_value", None, "must be the user's"),
    (
        GOOD | {"messages": [USER | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400, "invalid_value", "messages[0].content", "reads text only",
    ),
    (GOOD | {"temprature": 1}, 400, "unknown_parameter", "temprature", "did you mean temperature?"),
    (
        GOOD | {"thinking": {"max_tokns": 5}},
        400, "unknown_parameter", "thinking.max_tokns", "did you mean max_tokens?",
    ),
    (
        GOOD | {"thinking": {"min_token": 5}},
        400, "unknown_parameter", "thinking.min_token", "did you mean min_tokens?",
    ),
    (
        GOOD | {"stream": True, "stream_options": {"include_usge": True}},
        400, "unknown_parameter", "stream_options.include_usge", "did you mean include_usage?",
    ),
    (
        GOOD | {"messages": [USER | {"contents": "Hi"}]},
        400, "unknown_parameter", "messages[0].contents", "did you mean content?",
    ),
    (GOOD | {"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools", "only null"),
    (GOOD | {"stop": [7]}, 400, "invalid_value", "stop[0]", "string"),
    (GOOD | {"stop": 7}, 400, "invalid_value", "stop", "array"),
    (GOOD | {"stop": ["x"] * 65}, 400, "invalid_value", "stop", "at most 64"),
    (GOOD | {"n": 0}, 400, "invalid_value", "n", "greater than 0"),
    (GOOD | {"n": 9}, 400, "invalid_value", "n", "more than the 8 answers"),
    (GOOD | {"n": 2**31 - 1}, 400, "invalid_value", "n", "more than the 8 answers"),
    (GOOD | {"thinking": {"max_tokens": 2**31}}, 400, "invalid_value", "thinking.max_tokens", "less than"),
    (GOOD | {"max_tokens": 1e300}, 400, "invalid_value", "max_tokens", "less than"),
    (GOOD | {"logprobs": True}, 400, "unsupported_parameter", "logprobs", "True is not supported, only False"),
    (GOOD | {"presence_penalty": 0.5}, 400, "unsupported_parameter", "presence_penalty", "0.5 is not supported"),
    (GOOD | {"mirostat": 2}, 400, "unsupported_parameter", "mirostat", "only 0"),
    (GOOD | {"best_of": True}, 400, "unsupported_parameter", "best_of", "only 1"),
    (
        GOOD | {"chat_template_kwargs": {"preserve_thinking": True}},
        400, "invalid_value", None, "preserve_thinking has no effect",
    ),
    (GOOD | {"top_k": 40}, 400, "unsupported_parameter", "top_k", "only -1 or 0"),
    (
        GOOD | {"messages": [USER | {"tool_calls": [{"id": "c"}]}, USER]},
        400, "unsupported_parameter", "messages[0].tool_calls", "only null",
    ),
    (GOOD | {"temperature": "hot"}, 400, "invalid_value", "temperature", "number"),
    (GOOD | {"temperature": -1}, 400, "invalid_value", "temperature", "greater than or equal to 0"),
    (b'{"model": "tiny", "messages": [], "temperature": NaN}', 400, "invalid_value", "messages", "at least 1"),
    (GOOD | {"temperature": float("nan")}, 400, "invalid_value", "temperature", "finite"),
    (GOOD | {"top_p": 0}, 400, "invalid_value", "top_p", "greater than 0"),
    (GOOD | {"seed": 2**70}, 400, "invalid_value", "seed", "less than"),
    (GOOD | {"max_tokens": -2}, 400, "invalid_value", "max_tokens", "greater than 0"),
    (GOOD | {"repeat_penalty": 1.1}, 400, "unsupported_parameter", "repeat_penalty", "only 1"),
    (GOOD | {"n": 1.5}, 400, "invalid_value", "n", "integer"),
    (GOOD | {"max_tokens": 0}, 400, "invalid_value", "max_tokens", "greater than 0"),
    (GOOD | {"max_tokens": 1.5}, 400, "invalid_value", "max_tokens", "integer"),
    (GOOD | {"max_tokens": 90, "max_completion_tokens": 80}, 400, "invalid_value", None, "differ"),
    (GOOD | {"reasoning_effort": "extreme"}, 400, "invalid_value", "reasoning_effort", "'high'"),
    (GOOD | {"thinking": {"max_tokens": -1}}, 400, "invalid_value", "thinking.max_tokens", "greater than or equal"),
    (
        GOOD | {"thinking": {"early_exit": {"every_tokens": 0}}},
        400, "invalid_value", "thinking.early_exit.every_tokens", "greater than 0",
    ),
    (
        GOOD | {"thinking": {"early_exit": {"agree": 3}}},
        400, "invalid_value", "thinking.early_exit", "every_tokens and at = \"tokens\" belong together",
    ),
    (GOOD | {"thinking": {"budget": 9}}, 400, "unknown_parameter", "thinking.budget", "unknown"),
    (
        GOOD | {"thinking": {"max_tokens": 3, "min_tokens": 4}},
        400, "invalid_value", None, "4 thinking tokens exceeds the budget of 3",
    ),
    (GOOD | {"thinking": {"max_tokens": 9}, "reasoning_effort": "low"}, 400, "invalid_value", None, "one of them"),
    (GOOD | {"stream": "yes"}, 400, "invalid_value", "stream", "boolean"),
    (GOOD | {"thinking": {"type": "disabled", "max_tokens": 9}}, 400, "invalid_value", None, "one of them"),
    (GOOD | {"thinking_budget": 9, "enable_thinking": False}, 400, "invalid_value", None, "one of them"),
    (GOOD | {"messages": [USER | {"content": "x" * 1000}]}, 400, "context_length_exceeded", None, "too many for the"),
    (GOOD | {"max_tokens": 10**6, "thinking": {"max_tokens": 5}}, 400, "context_length_exceeded", None, "too many"),
    (GOOD | {"messages": [USER | {"content": "x" * 30_000}]}, 413, "request_too_large", None, "larger than 20,000"),
]  # fmt: skip


NEUTRAL_VALUES: list[dict[str, Any]] = [
    {"tools": None, "tool_choice": None, "parallel_tool_calls": False},
    {"tool_choice": "none", "logit_bias": {}, "functions": []},
    {"frequency_penalty": 0.0, "presence_penalty": 0, "logprobs": False, "top_logprobs": 0},
    {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0, "best_of": 1, "echo": False, "ignore_eos": False},
    {"n": 1, "stop": None, "stream_options": {"include_usage": True}, "stream": False},
    {"stop": "", "max_tokens": 100.0, "max_completion_tokens": None, "temperature": 0},
    {"stop": [], "response_format": {"type": "text"}, "service_tier": "flex", "user": 7, "metadata": None},
    {"messages": [USER, {"role": "assistant", "content": "4", "tool_calls": [], "annotations": [], "id": "x"}, USER]},
    {"thinking": {"type": "enabled"}, "reasoning": {"exclude": False}, "chat_template_kwargs": {}},
    {
        "xtc_probability": 0,
        "mirostat": 0,
        "num_beams": 1,
        "detokenize": True,
        "return_token_ids": False,
        "rid": "x",
        "repeat_penalty": 1.0,
        "repeat_last_n": 64,
        "typ_p": 1,
        "dry_base": 1.75,
        "id_slot": -1,
        "timings_per_token": True,
        "n": 1.0,
        "seed": 7.0,
        "max_tokens": -1,
        "thinking": {"type": "adaptive"},
        "result_format": "message",
    },
    {"messages": [USER, {"role": "assistant", "content": None, "reasoning": "4?", "prefix": False}, USER]},
    {"stream_options": {"include_usage": None}, "some_new_parameter": None},
]


def test_values_that_change_nothing_are_accepted(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(_: Client, server: Serving) -> None:
        async with httpx2.AsyncClient(base_url=server.url) as http:

            async def content(body: dict[str, Any]) -> str:
                response = await http.post("/v1/chat/completions", json=body)
                assert response.status_code == 200, (body, response.text)
                return str(response.json()["choices"][0]["message"])

            for more in NEUTRAL_VALUES:
                known = {name: more[name] for name in ("messages", "max_tokens") if name in more}
                assert await content(GOOD | more) == await content(GOOD | known)

    talk(engine, student, conversation)


NO_THINKING = Policy(thinking_tokens_max=0)
OTHER_NAMES = [
    ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Policy(thinking_tokens_max=9)),
    ({"thinking": {"type": "disabled"}}, NO_THINKING),
    ({"reasoning": {"effort": "low"}}, Policy(thinking_tokens_max=16)),
    ({"reasoning": {"max_tokens": 7}}, Policy(thinking_tokens_max=7)),
    ({"reasoning": {"enabled": False}}, NO_THINKING),
    ({"reasoning_effort": "xhigh"}, Policy(thinking_tokens_max=64)),
    ({"thinking_budget": 5}, Policy(thinking_tokens_max=5)),
    ({"thinking_token_budget": 5, "thinking": {"waits": 1}}, Policy(thinking_tokens_max=5, waits=1)),
    ({"enable_thinking": False}, NO_THINKING),
    ({"enable_thinking": True, "thinking_budget": 3}, Policy(thinking_tokens_max=3)),
    ({"enable_thinking": False, "reasoning_effort": "none"}, NO_THINKING),
    ({"chat_template_kwargs": {"enable_thinking": False}}, NO_THINKING),
    ({"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget": 3}, Policy(thinking_tokens_max=3)),
]


def test_the_budget_has_other_servers_names_too(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        for body, policy in OTHER_NAMES:
            assert extra(await ask(client, extra_body=body))["policy"] == policy.model_dump()

    talk(engine, student, conversation)


def test_a_stop_string_ends_the_answer(engine: HFEngine, student: ServedStudent) -> None:
    """At its first place in what the student writes, however the text is cut into pieces; no token is decoded after."""
    whole = generated(engine, Policy(thinking_tokens_max=64))
    written = whole.answer.removeprefix(SHORT.cue)
    assert len(set(written)) > 3, "an answer with something to stop at"

    async def conversation(client: Client, _: Serving) -> None:
        for stop in (written[2:5], written[-3:], [written[4:6], written[1:4]], [written[0]], [SHORT.cue, written[3:5]]):
            first = min(written.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in written)
            expected = whole.answer.removesuffix(written) + written[:first]
            done = await ask(client, stop=stop)
            assert (done.choices[0].message.content, done.choices[0].finish_reason) == (expected, "stop")
            assert done.choices[0].message.reasoning == whole.thinking, "thinking is not stopped"
            assert done.usage.completion_tokens <= len(whole.token_ids)
            chunks = [chunk async for chunk in await ask(client, stop=stop, stream=True)]
            assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected
            assert chunks[-1].choices[0].finish_reason == "stop"
        early = await ask(client, stop=written[0])
        assert early.usage.completion_tokens < len(whole.token_ids), "the row is free at once"
        never = await ask(client, stop=["a string that never comes", written[-1] + "more"])
        assert never.choices[0].message.content == whole.answer

    talk(engine, student, conversation)


def test_several_answers_of_one_request(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        alone = [(await ask(client, temperature=1.0, seed=5 + i)).choices[0].message.content for i in range(3)]
        done = await ask(client, temperature=1.0, seed=5, n=3)
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        assert [choice.message.content for choice in done.choices] == alone
        assert len(set(alone)) > 1, "each has a seed of its own"
        reports = done.model_extra["tenner"]
        assert done.usage.completion_tokens == sum(report["completion_tokens"] for report in reports)
        assert done.usage.prompt_tokens == reports[0]["prompt_tokens"]
        texts, ends, usage = ["", "", ""], [], None
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await ask(client, temperature=1.0, seed=5, n=3, **options):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                ends += [choice.index] * (choice.finish_reason is not None)
            usage = chunk.usage
        assert texts == alone
        assert sorted(ends) == [0, 1, 2]
        assert usage == done.usage
        greedy = await ask(client, n=8)
        assert len({choice.message.content for choice in greedy.choices}) == 1
        largest = await ask(client, n=2, seed=2**63 - 1, temperature=1.0)
        assert len(largest.choices) == 2
        assert server.queue.active == 0

    talk(engine, student, conversation)


STRANGERS = DATA / "strangers" / "requests.jsonl"
REFUSED = {
    "verbosity": "verbosity",  # it would change the answer, and the student knows none
    "assistant-null-content": "messages[1].tool_calls",  # a conversation with tools
    "null-content-user": "messages[0].content",
    "only-system": "last message",
    "prefill": "last message",
    "role-model": "messages[1].role",
    "store-true": "store",  # nothing is stored
    "keep_alive/options-ollama": "options",  # another context length would change the answer
    "extra_body-nested": "extra_body",
    "vllm-skip_special_tokens": "skip_special_tokens",  # the text would be another
    "max_tokens-str": "max_tokens",
}
"""Of the strangers' bodies, and the word by which each is refused."""


@pytest.mark.skipif(not STRANGERS.exists(), reason="the strangers' data are not here")
def test_what_strangers_clients_send(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(_: Client, server: Serving) -> None:
        async with httpx2.AsyncClient(base_url=server.url) as http:
            for row in map(json.loads, STRANGERS.read_text("utf-8").splitlines()):
                response = await http.post("/v1/chat/completions", json=row["body"] | {"model": "tiny"})
                if row["id"] in REFUSED:
                    assert REFUSED[row["id"]] in assert_form(response, 400)["message"], row["id"]
                else:
                    assert response.status_code == 200, (row["id"], response.text)

    talk(engine, student, conversation)


def assert_form(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The four fields of OpenAI's errors."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_every_wrong_body_is_refused_in_openais_form(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        async with httpx2.AsyncClient(base_url=server.url) as http:
            for body, status, code, param, words in WRONG_BODIES:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                response = await http.post(
                    "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
                )
                error = assert_form(response, status)
                assert (error["code"], error["param"]) == (code, param), error
                assert words in error["message"]
                assert error["type"] == "invalid_request_error"
            assert server.queue.active == 0
        assert (await ask(client)).choices, "it still answers"

    talk(engine, student, conversation)


def test_other_requests_are_refused_in_openais_form(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(_: Client, server: Serving) -> None:
        async with httpx2.AsyncClient(base_url=server.url) as http:
            assert_form(await http.get("/v1/nothing"), 404)
            wrong_method = await http.get("/v1/chat/completions")
            assert_form(wrong_method, 405)
            assert wrong_method.headers["allow"] == "POST"
            plain = {"Content-Type": "text/plain"}  # all that a form of another site can send
            assert_form(await http.post("/v1/chat/completions", content=json.dumps(GOOD).encode(), headers=plain), 415)
            for rebound in ("evil.example", "localhost.evil.example:80", "[::1", ""):
                refused = await http.get("/v1/models", headers={"Host": rebound})
                assert assert_form(refused, 403)["type"] == "permission_error"
            for name in ("localhost", "LOCALHOST:1", "127.0.0.1:x", "[::1]:80"):
                assert (await http.get("/health", headers={"Host": name})).status_code == 200
            squeezed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
            not_gzip = await http.post("/v1/chat/completions", content=b"{}", headers=squeezed)
            assert assert_form(not_gzip, 400)["code"] == "invalid_body"

    talk(engine, student, conversation)


def test_openais_client_raises_its_own_errors(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        with pytest.raises(openai.NotFoundError):
            await ask(client, model="other")
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, "x" * 1000)
        assert refused.value.code == "context_length_exceeded"
        with pytest.raises(openai.APIStatusError) as too_large:
            await ask(client, "x" * 30_000)
        assert too_large.value.status_code == 413

    talk(engine, student, conversation)


def test_the_key_is_required_and_never_shown(
    engine: HFEngine, student: ServedStudent, capfd: pytest.CaptureFixture[str]
) -> None:
    async def stranger(client: Client, server: Serving) -> None:
        wrong_keys = ("Bearer wrong", "Bearer", "", "Bearer sesame2", "Bearer s\u00e9same")
        for wrong in (*(key.encode() for key in wrong_keys), wrong_keys[-1].encode("latin-1")):
            async with httpx2.AsyncClient(base_url=server.url) as http:
                headers = {b"Authorization": wrong}
                response = await http.post("/v1/chat/completions", json=GOOD, headers=headers)
                assert assert_form(response, 401)["type"] == "authentication_error"
                assert "sesame" not in response.text
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        async with httpx2.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/health")).status_code == (await http.get("/")).status_code == 200

    async def friend(client: Client, _: Serving) -> None:
        assert (await ask(client)).choices

    talk(engine, student, stranger, api_key="sesame")
    talk(engine, student, friend, key="sesame", api_key="sesame")
    assert "sesame" not in "".join(capfd.readouterr())


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def raw_stream(server: Serving, **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream whose connection is cut when the block ends."""
    async with aiohttp.ClientSession() as http:
        response = await http.post(f"{server.url}/v1/chat/completions", json=GOOD | {"stream": True} | body)
        yield response
        response.close()


def test_a_server_for_other_machines_has_a_key(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(_: Client, server: Serving) -> None:
        async with httpx2.AsyncClient(base_url=server.url.replace("0.0.0.0", "127.0.0.1")) as http:
            named = {"Host": "tenner.example", "Authorization": "Bearer sesame"}
            assert (await http.get("/v1/models", headers=named)).status_code == 200

    for host in ("0.0.0.0", "::", "", "192.0.2.1"):
        with pytest.raises(TennerError, match="lets other machines use this server without a key"):
            talk(engine, student, conversation, host=host)
    talk(engine, student, conversation, host="0.0.0.0", api_key="sesame")


def test_a_client_that_disconnects_releases_its_request_and_row(endless: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        streams = server.queue.scheduler
        async with raw_stream(server, max_tokens=LONG) as response:
            assert await response.content.readline()
            assert server.queue.active == 1
        await until(lambda: server.queue.active == 0)
        await until(lambda: streams.streams == 0)
        waiting = asyncio.create_task(ask(client, max_tokens=LONG, stream=False))
        await until(lambda: server.queue.active == 1)
        waiting.cancel()  # the client closes its connection
        await until(lambda: server.queue.active == 0)
        await until(lambda: streams.streams == 0)
        assert (await ask(client)).choices[0].message.content == generated(endless, POLICIES[0][1]).answer

    talk(endless, student, conversation)


def test_requests_beyond_the_limit_are_refused_with_retry_after(endless: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        async with raw_stream(server, max_tokens=LONG), raw_stream(server, max_tokens=LONG):
            assert server.queue.active == 2
            with pytest.raises(openai.RateLimitError) as refused:
                await ask(client)
            assert refused.value.response.headers["retry-after"] == "1"
            assert refused.value.code == "rate_limit_exceeded"
            patient = client.with_options(max_retries=2)
            waiting = asyncio.create_task(ask(patient))
            await asyncio.sleep(0.05)
        assert (await waiting).choices, "it has retried"

    talk(endless, student, conversation, concurrency_max=2)


def test_the_machines_time_is_shared_out_exactly(engine: HFEngine, student: ServedStudent) -> None:
    async def conversation(client: Client, _: Serving) -> None:
        began = asyncio.get_running_loop().time()
        done = await asyncio.gather(*(ask(client, max_tokens=100 + 40 * i) for i in range(4)))
        passed = asyncio.get_running_loop().time() - began
        shares = [extra(c)["machine_seconds"] for c in done]
        assert 0 < sum(shares) <= passed

    talk(engine, student, conversation)


def test_a_server_that_stops_ends_its_streams_properly(endless: HFEngine, student: ServedStudent) -> None:
    async def conversation() -> tuple[bytes, Any]:
        async with aiohttp.ClientSession() as http:
            async with serving(endless, student, SETTINGS) as server:
                url, body = f"{server.url}/v1/chat/completions", GOOD | {"max_tokens": LONG}
                streamed = await http.post(url, json=body | {"stream": True})
                read = asyncio.create_task(streamed.read())
                whole = asyncio.create_task(http.post(url, json=body))
                await until(lambda: server.queue.active == 2)
                server.queue.stop_admitting()
                late = await http.post(url, json=body)
                assert late.status == 503
                assert (await late.json())["error"]["code"] == "server_stopping"
            refused = await whole
            return await read, (refused.status, (await refused.json())["error"]["code"])

    streamed, refused = asyncio.run(conversation())
    *_, error, done = (line.removeprefix(b"data: ") for line in streamed.split(b"\n\n") if line)
    assert json.loads(error)["error"]["code"] == "server_stopping"
    assert done == b"[DONE]"
    assert refused == (503, "server_stopping")


def test_an_engine_that_fails_fails_all_and_is_reported(
    endless: HFEngine, student: ServedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        async with raw_stream(server, max_tokens=LONG) as response:
            await response.content.readline()
            monkeypatch.setattr(endless._model, "forward", lambda **_: 1 / 0)
            last = (await response.read()).split(b"\n\n")[-3]
        assert json.loads(last.strip().removeprefix(b"data: "))["error"]["code"] == "engine_failed"
        with pytest.raises(openai.InternalServerError):
            await ask(client)
        assert isinstance(server.queue.failure.result(), ZeroDivisionError)
        async with httpx2.AsyncClient(base_url=server.url) as http:
            health = await http.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "failed")

    talk(endless, student, conversation)


def test_a_request_that_the_engine_cannot_decode_is_refused_alone(
    engine: HFEngine, student: ServedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def conversation(client: Client, server: Serving) -> None:
        prepare = engine.prepare

        def poisoned(request: Request) -> Job:
            job = prepare(request)
            if "~" in request.prompt.text:
                job.prompt_ids[-1] = 10**6  # beyond the embeddings
            return job

        monkeypatch.setattr(engine, "prepare", poisoned)
        others = [asyncio.create_task(ask(client)) for _ in range(3)]
        with pytest.raises(openai.InternalServerError, match="failed with IndexError; others are answered") as refused:
            await ask(client, "~")
        assert refused.value.code == "request_failed"
        async with raw_stream(server, messages=[USER | {"content": "~"}]) as response:
            last = (await response.read()).split(b"\n\n")[-3]
            assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "request_failed"
        expected = generated(engine, POLICIES[0][1]).answer
        assert [(await other).choices[0].message.content for other in others] == [expected] * 3
        async with httpx2.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/health")).json()["status"] == "ok"

    talk(engine, student, conversation)


@pytest.mark.slow
def test_64_concurrent_clients_each_get_their_own_policy(lively_model_dir: Path) -> None:
    """For 20 seconds; `python tests/support/load_generator.py` does it for longer."""
    command = [sys.executable, load_generator.__file__, "serve", str(lively_model_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        report = asyncio.run(load_generator.ask(url, lively_model_dir, psutil.Process(server.pid), seconds=20))
        server.terminate()
        assert server.wait(30) == 0
    assert (report.wrong, report.dropped) == (0, 0)
    assert report.answers > load_generator.CLIENTS
    assert report.left > 0
    assert report.rss_end_mib < 1.05 * report.rss_start_mib
