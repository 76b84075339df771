"""The Gemini client against a server that speaks Gemini's REST protocol (see `gemini_server.py`)."""

import asyncio
import gzip
import json
import logging
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

import pytest
from gemini_server import BEHAVIOURS, KEY, GeminiServer, generation
from google.genai import types

from tenner.budget.ledger import Ledger
from tenner.clients import registry
from tenner.clients.billing import PaidReply
from tenner.clients.faults import Fault
from tenner.clients.gemini import GeminiClient, parse_generation
from tenner.clients.paid_calls import Limits, PaidCalls
from tenner.clients.protocol import Call, Response
from tenner.clients.retries import RetryRule
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import FailedCall, Question, Usage
from tenner.core.sections import PriceSection, TraceSection

ASKED = "Why is 1+1 two?"
PRICE = PriceSection(input_usd_per_mtok=1.0, cached_input_usd_per_mtok=0.25, output_usd_per_mtok=2.0)
"""A micro-dollar for a token in, a quarter for a cached one, two for one out."""
LIMITS = Limits(concurrency=8, deadline_seconds=5, retries=RetryRule(attempts_max=1, backoff_seconds=0.02))


@pytest.fixture(autouse=True)
def key_in_the_environment(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def section(url, **changes):
    fields = {"client": "gemini", "base_url": url, "model": "m", "price": PRICE, "output_tokens_max": 1000}
    return TraceSection(**fields | changes)


def call(text=ASKED):
    return Call(Question(id="q0", question=text, source="t"), 0)


def use(client, what):
    """The result of an async function of the client."""

    async def go():
        try:
            return await what(client)
        finally:
            await client.close()

    return asyncio.run(go())


async def attempt(client, asked):
    """The response, or the fault."""
    try:
        return await client.send(asked, client.request(asked))
    except Fault as fault:
        return fault


def send(url, **changes):
    """What comes of one attempt."""
    return use(GeminiClient(section(url, **changes)), lambda client: attempt(client, call()))


def nobody():
    """A URL where no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def named(behaviour):
    """The question to which the server behaves so: 40 characters, which are 40 tokens."""
    return behaviour.ljust(40, "?")


THOUGHT, SAID = "**Planning**\n\nI think about: {}", "It is: {}"  # the question goes in
OUTCOMES = {
    "good": ("complete", THOUGHT, SAID, "STOP", (40, None, 87, 80)),
    "several thoughts": ("complete", "One. Two.", "A and B.", "STOP", (40, None, 87, 80)),
    "cached": ("complete", THOUGHT, SAID, "STOP", (100, 64, 87, 80)),
    "truncated": ("truncated", "I never", "", "MAX_TOKENS", (40, None, 1000, 1000)),
    "truncated before a word": ("truncated", "", "", "MAX_TOKENS", (40, None, 87, 80)),
    "to be continued": ("truncated", THOUGHT, SAID, "CONTINUATION", (40, None, 87, 80)),
    "safety": ("content_filter", "", "", "SAFETY", (40, None, 80, 80)),
    "recitation": ("content_filter", "", "To be or", "RECITATION", (40, None, 87, 80)),
    "blocked": ("content_filter", "", "", "PROHIBITED_CONTENT", (40, None, 0, None)),
    "no thoughts": ("no_reasoning", "", "Just so.", "STOP", (40, None, 7, None)),
    "nothing said": ("empty", "", "", "STOP", (40, None, 87, 80)),
    "no candidates": ("empty", "", "", None, (40, None, 87, 80)),
    "no usage": ("complete", THOUGHT, SAID, "STOP", (None, None, None, None)),
    "invalid json": ("unreadable", "", "", None, (None, None, None, None)),
    "not utf-8": ("unreadable", "", "", None, (None, None, None, None)),
    "no generation": ("unreadable", "", "", None, (None, None, None, None)),
    "zeros": ("complete", "I add.", "3.", "STOP", (None, None, None, None)),
    "hidden thoughts": ("complete", "I add.", "3.", "STOP", (10, None, 905, None)),
}
FAULTS = {
    "rate limit": ("rate_limited", 17.0),
    "rate limit by header": ("rate_limited", 3.0),
    "no credits": ("billing", None),
    "no free tier": ("billing", None),
    "billing disabled": ("billing", None),
    "bad key": ("bad_key", None),
    "leaked key": ("bad_key", None),
    "suspended key": ("bad_key", None),
    "blocked service": ("bad_key", None),
    "forbidden": ("refused", None),
    "bad request": ("bad_request", None),
    "internal": ("server_error", None),
    "overloaded": ("overloaded", None),
    "gateway": ("server_error", None),
    "web page": ("not_json", None),
    "plain text": ("not_json", None),
    "empty body": ("interrupted", None),
    "error in a success": ("error_in_response", None),
    "quota of a day": ("quota_used_up", 31.0),
    "reset": ("interrupted", None),
    "hung up": ("interrupted", None),
    "elsewhere": ("redirected", None),  # not followed: the key would go along
}


@pytest.fixture(scope="module")
def came():
    """By behaviour: the response or the fault, the body that was sent, and how often the server was asked.

    All are asked for side by side, by one client.
    """
    behaviours = [*OUTCOMES, *FAULTS]
    with GeminiServer({named(b): [b, "good"] for b in behaviours}) as server:
        client = GeminiClient(section(server.url), key=KEY)

        async def everything(client):
            return await asyncio.gather(*(attempt(client, call(named(b))) for b in behaviours))

        results = dict(zip(behaviours, use(client, everything), strict=True))
        times = Counter(asked.body["contents"][0]["parts"][0]["text"] for asked in server.asked)
    return {b: (result, server.sent.get(named(b)), times[named(b)]) for b, result in results.items()}


@pytest.mark.parametrize("behaviour", OUTCOMES)
def test_every_success_comes_raw_and_has_a_name(behaviour, came):
    response, sent, times = came[behaviour]
    assert (response.body, times) == (sent, 1)
    reply = parse_generation(response)
    outcome, thinking, answer, finish_reason, counts = OUTCOMES[behaviour]
    question = named(behaviour)
    assert (reply.outcome, reply.finish_reason) == (outcome, finish_reason)
    assert (reply.thinking, reply.answer) == (thinking.format(question), answer.format(question))
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
    assert reply.usage == Usage(**dict(zip(names, counts, strict=True)))


def test_the_server_of_these_tests_says_nothing_that_google_does_not():
    for behaviour, (outcome, *_) in OUTCOMES.items():
        if outcome not in ("unreadable", "wrong_content_type"):
            fields = json.loads(BEHAVIOURS[behaviour](ASKED).body)
            types.GenerateContentResponse.model_validate(fields)  # which knows no other fields
    assert {reason for _, _, _, reason, _ in OUTCOMES.values() if reason} <= {
        r.value for r in (*types.FinishReason, *types.BlockedReason)
    }


@pytest.mark.parametrize("behaviour", FAULTS)
def test_every_failure_has_a_name_and_the_sdk_does_not_try_again(behaviour, came):
    fault, _, times = came[behaviour]
    assert (fault.kind, fault.retry_after_seconds, times) == (*FAULTS[behaviour], 1)
    assert fault.evidence


def test_a_body_beyond_its_bound_or_of_unknown_size_is_not_read(monkeypatch):
    whole = BEHAVIOURS["good"](ASKED)
    packed = whole._replace(body=gzip.compress(whole.body), headers={"content-encoding": "gzip"})
    monkeypatch.setitem(BEHAVIOURS, "packed", lambda _: packed)
    with GeminiServer({ASKED: ["packed", "good"]}) as server:
        for _ in range(2):
            fault = send(server.url)
            assert (fault.kind, fault.rule.maybe_charged, fault.rule.retried) == ("too_large", True, False)
            monkeypatch.setattr("tenner.clients.gemini.BODY_BYTES", 100)
        assert {asked.headers["accept-encoding"] for asked in server.asked} == {"identity"}


def test_a_server_that_is_not_there_is_unreachable():
    assert send(nobody()).kind == "unreachable"


def test_an_unknown_model_and_a_request_that_the_sdk_refuses():
    with GeminiServer() as server:
        fault = send(server.url, model="n")
        assert (fault.kind, "models/n is not found" in fault.evidence) == ("unknown_model", True)
        fault = send(server.url, parameters={"audio_timestamp": True})
        assert (fault.kind, "only supported in" in fault.evidence) == ("bad_request", True)
        assert len(server.asked) == 1


def test_what_goes_over_the_wire():
    parameters = {"temperature": 0.5, "thinking_config": {"thinking_budget": 512}}
    with GeminiServer() as server:
        texts = {"system_prompt": "Be brief.", "suffix": " Say why."}
        client = GeminiClient(section(server.url + "/", parameters=parameters, **texts))
        request = client.request(call())
        assert json.loads(json.dumps(request)) == request
        assert use(client, lambda t: t.send(call(), request)).body == server.sent[f"{ASKED} Say why."]
        (asked,) = server.asked
    assert asked.path == "/v1beta/models/m:generateContent"
    assert asked.headers["x-goog-api-key"] == KEY
    assert asked.body == {
        "contents": [{"role": "user", "parts": [{"text": f"{ASKED} Say why."}]}],
        "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "maxOutputTokens": 1000,
            "temperature": 0.5,
            "thinkingConfig": {
                "include_thoughts": True,
                "thinking_budget": 512,
            },  # protobuf's JSON takes both spellings
        },
    }
    worst = client.worst_case_usage(call(), request)
    assert worst.input_tokens is not None
    assert worst.input_tokens > len(f"{ASKED} Say why.Be brief.") + 256
    assert worst.output_tokens == 1000


def test_the_environment_of_the_sdk_changes_nothing(monkeypatch, caplog):
    for name, value in {
        "GOOGLE_API_KEY": "another", "GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_GENAI_API_VERSION": "v1",
        "GOOGLE_GEMINI_BASE_URL": nobody(),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with GeminiServer() as server:
        assert parse_generation(send(server.url)).outcome == "complete"
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == []  # such as "Using GOOGLE_API_KEY"


def test_parameters_that_cannot_be_sent_are_refused_before_anything_is():
    def refusal(**parameters):
        with pytest.raises(TennerError) as refused:
            GeminiClient(section("http://127.0.0.1:1", parameters=parameters))
        return str(refused.value), refused.value.hint

    assert refusal(temprature=1) == (
        "trace.parameters: gemini has no parameter temprature",
        "did you mean temperature?",
    )
    assert refusal(thinkingConfig={})[1] == "did you mean thinking_config?"
    assert refusal(max_output_tokens=5)[1] == "set trace.output_tokens_max"
    assert refusal(temperature="hot")[0].startswith("trace.parameters: temperature: Input should be a valid number")
    assert refusal(thinking_config=5)[0].startswith("trace.parameters: thinking_config: ")


def test_a_client_without_key_or_price_is_refused(monkeypatch):
    with pytest.raises(TennerError, match="the price of gemini/m is not known"):
        GeminiClient(section("http://127.0.0.1:1", price=None))
    with pytest.raises(TennerError, match="the environment variable MINE holds no key"):
        GeminiClient(section("http://127.0.0.1:1", api_key_env="MINE"))
    monkeypatch.setenv("MINE", KEY)
    monkeypatch.delenv("GEMINI_API_KEY")
    with GeminiServer() as server:
        assert send(server.url, api_key_env="MINE").body == server.sent[ASKED]
    with pytest.raises(TennerError, match="the environment variable GEMINI_API_KEY holds no key"):
        GeminiClient(section("http://127.0.0.1:1"))
    replayed = GeminiClient(section("http://127.0.0.1:1"), key="")  # whoever only reads old responses needs none
    asyncio.run(replayed.close())
    assert replayed.secret == ""


def test_without_the_sdk_there_is_a_hint():
    code = "import sys; sys.modules['google.genai'] = None; import tenner.clients.gemini"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("TennerError: the gemini client needs google-genai")


def check(url, **changes):
    use(GeminiClient(section(url, **changes)), lambda client: client.check())


@pytest.mark.parametrize("behaviour", ["good", "overloaded", "rate limit", "invalid json", "web page"])
def test_the_check_is_free_and_takes_a_busy_server_at_its_word(behaviour):
    with GeminiServer({"models/m": [behaviour]}) as server:
        check(server.url)
        assert [(a.method, a.path) for a in server.asked] == [("GET", "/v1beta/models/m")]


def test_the_check_finds_out_what_is_wrong(monkeypatch):
    with GeminiServer({"models/m": ["suspended key", "no free tier", "forbidden"]}) as server:
        with pytest.raises(TennerError, match=r"^gemini has no model n: HTTP 404: models/n is not found") as missing:
            check(server.url, model="n")
        assert missing.value.hint == "see https://ai.google.dev/gemini-api/docs/models"
        with pytest.raises(TennerError, match=r"^gemini: bad_key: HTTP 403: Consumer 'api_key:\[key\]'") as bad:
            check(server.url)
        assert bad.value.hint == "check the key in $GEMINI_API_KEY, and its project"
        with pytest.raises(TennerError, match=r"^gemini: billing: HTTP 400: User location"):
            check(server.url)
        with pytest.raises(TennerError, match=r"^gemini: refused: HTTP 403: The caller"):
            check(server.url)
        monkeypatch.setenv("GEMINI_API_KEY", "wrong")
        with pytest.raises(TennerError, match=r"^gemini: bad_key: HTTP 400: API key not valid"):
            check(server.url)
    with pytest.raises(TennerError, match=r"^no server answers at http://127\.0\.0\.1:\d+: ") as nowhere:
        check(nobody())
    assert nowhere.value.hint == "check the base URL, and that the server runs"


def variations():
    """Bodies that are nearly responses: every value of a good one is replaced by things that it cannot be."""
    good = generation(ASKED)
    for junk in (None, True, -1, 1.5, "x", [], ["x"], {}, {"text": 1}):
        yield junk
        for name in good:
            yield good | {name: junk}
        for name in good["usageMetadata"]:
            yield good | {"usageMetadata": good["usageMetadata"] | {name: junk}}
        for name in good["candidates"][0]:
            yield good | {"candidates": [good["candidates"][0] | {name: junk}]}
        for part in (junk, {"text": junk}, {"text": "x", "thought": junk}):
            yield good | {"candidates": [{"content": {"parts": [part]}}]}
        yield good | {"promptFeedback": {"blockReason": junk}}


def test_parsing_never_raises():
    bodies = [json.dumps(v).encode() for v in variations()]
    bodies += [b"", b"[" * 100_000, b"\xff", b'{"usageMetadata": {"promptTokenCount": NaN}}', b"1" * 10_000]
    assert len(bodies) > 140
    for body in bodies:
        reply = parse_generation(Response(body, "application/json"))
        assert (reply.outcome == "complete") <= bool(reply.thinking)


def test_what_is_claimed_is_read_whatever_the_rest_is():
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 9, "thoughtsTokenCount": 5000, "totalTokenCount": 4}
    for rest in ('"promptFeedback": {"blockReason": "SAFETY"}', '"candidates": []', '"candidates": [{}]'):
        body = f'{{{rest}, "usageMetadata": {json.dumps(usage)}}}'.encode()
        reply = parse_generation(Response(body, "application/json"))
        assert (reply.claimed.input_tokens, reply.claimed.output_tokens) == (5, 5009)


def buy(url, ledger, asked, *, limits=LIMITS, **changes):
    """The results by question id."""
    client = GeminiClient(section(url, **changes))
    results = {}

    def keep(result):
        results[result.call.question.id if isinstance(result, PaidReply) else result.question_id] = result

    calls = [Call(Question(id=f"q{i}", question=text, source="t"), 0) for i, text in enumerate(asked)]
    paid_calls = PaidCalls(client, ledger, stage="trace", limits=limits)
    use(client, lambda _: paid_calls.run(calls, keep, total=len(calls)))
    return results


def test_from_request_to_ledger_to_the_micro_dollar(tmp_path):
    texts = [f"What is {i}+{i}?" for i in range(20)]
    scripts = {
        texts[0]: ["cached"],
        texts[1]: ["invalid json"],
        texts[2]: ["repeats the key"],
        texts[3]: ["rate limit for a moment", "good"],
        texts[4]: ["reset"],
        texts[5]: ["hang"],
    }
    limits = LIMITS._replace(retries=LIMITS.retries._replace(attempts_max=2), deadline_seconds=1.5)
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger, GeminiServer(scripts) as server:
        results = buy(server.url, ledger, texts, limits=limits)
        client = GeminiClient(section(server.url))
        worst = {}
        for text in texts[:6]:
            usage = client.worst_case_usage(call(text), client.request(call(text)))
            assert usage.input_tokens is not None
            assert usage.output_tokens is not None
            worst[text] = usage.input_tokens + 2 * usage.output_tokens
        asyncio.run(client.close())
        good = sum(len(t) + 2 * (7 + 2 * len(t)) for t in [texts[2], texts[3], *texts[6:]])
        cached = (100 - 64) + 64 / 4 + 2 * (7 + 2 * len(texts[0]))
        lost = worst[texts[1]] + 2 * worst[texts[4]] + worst[texts[5]]  # twice: it was tried again
        assert round(ledger.spent_usd() * 1e6) == good + cached + lost
        (row,) = ledger.rows()
        assert (row.provider, row.model, ledger.reserved_usd()) == ("gemini", "m", 0)
        failed = {i: r.kind for i, r in results.items() if isinstance(r, FailedCall)}
        assert failed == {"q4": "interrupted", "q5": "deadline"}
        asked_times = len(server.asked)
        again = buy(server.url, ledger, [*texts[:4], *texts[6:]])
        assert all(r.reused for r in again.values())
        assert len(server.asked) == asked_times == 22
    with closing(sqlite3.connect(tmp_path / "run.db")) as db:
        stored = dict(db.execute("SELECT request, body FROM responses"))
    bodies = {json.loads(request)["contents"]: body for request, body in stored.items()}
    secret = KEY.encode()
    assert secret in server.sent[texts[2]]
    assert bodies == {text: body.replace(secret, b"[key]") for text, body in server.sent.items()}
    assert len(bodies) == 18
    assert all(secret not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_bad_key_stops_the_run_and_is_not_repeated(tmp_path):
    with (
        closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger,
        GeminiServer({ASKED: ["suspended key"]}) as server,
    ):
        with pytest.raises(TennerError, match=r"^bad_key: HTTP 403: Consumer 'api_key:\[key\]' has been suspended"):
            buy(server.url, ledger, [ASKED])
        assert (ledger.spent_usd(), ledger.reserved_usd()) == (0, 0)


def test_summaries_are_warned_of_before_anything_is_spent(capsys):
    with GeminiServer({}) as server:
        registry.check(section(server.url), Screen())
    assert "warning: gemini returns only summaries of its thinking; traces are marked so" in capsys.readouterr().err
