"""What is reserved covers whatever tokenizers, templates and servers make of a request."""

import json
import unicodedata

import pytest
from paid import PRICE, questions

from tenner.clients.gemini import GeminiClient
from tenner.clients.openai import OpenAIClient
from tenner.clients.protocol import Call
from tenner.clients.worst_case import TEMPLATE_TOKENS_MAX, input_tokens_max, normalized_bytes_max
from tenner.core.errors import TennerError
from tenner.core.sections import TraceSection

TOOLS = [{"type": "function", "function": {"name": f"f{i}", "description": "d" * 1000}} for i in range(100)]


def reserved(question, **changes):
    section = TraceSection(client="openai", base_url="http://h/v1", model="m", price=PRICE, **changes)
    client, (asked,) = OpenAIClient(section), questions(question)
    return client.worst_case_usage(Call(asked, 0), client.request(Call(asked, 0))).input_tokens


@pytest.mark.parametrize("text", ["\ufdfa" * 50, "\u1fbe\u0390" * 9, "한국어", "é" * 30, "ﬀ¼㎑", "e\u0301", "\ud800?"])
def test_the_longest_normal_form_counts(text):
    longest = max(len(unicodedata.normalize(f, text).encode("utf-8", "surrogatepass")) for f in ("NFC", "NFKC", "NFKD"))
    assert normalized_bytes_max(text) >= max(longest, len(text.encode("utf-8", "surrogatepass")))


def test_ordinary_text_is_reserved_by_its_bytes():
    assert reserved("What is 1+1?") == len("What is 1+1?") + TEMPLATE_TOKENS_MAX
    assert input_tokens_max(["1+1?"], {}) == 260
    assert input_tokens_max([], {"a": 1}) == 256 + len('{\n    "a": 1\n}')
    assert reserved("计算一加一等于几") == len("计算一加一等于几".encode()) + TEMPLATE_TOKENS_MAX


def test_all_that_is_sent_counts():
    assert reserved("1+1?", parameters={"tools": TOOLS}) > len(json.dumps(TOOLS)) + TEMPLATE_TOKENS_MAX
    assert reserved("1+1?", parameters={"a": "é" * 100}) >= 6 * 100  # as \u00e9
    assert reserved("1+1?", system_prompt="\ufdfa" * 10) >= 18 * 10
    assert reserved("1+1?", suffix="\ufdfa" * 10) >= 18 * 10
    nested = {"a": {"b": {"c": [[[{"d": 1}] * 50]]}}}
    assert input_tokens_max([], nested) >= len(json.dumps(nested, indent=4))


def test_gemini_counts_the_same():
    section = TraceSection(client="gemini", model="m", price=PRICE, system_prompt="\ufdfa" * 10)
    client, (asked,) = GeminiClient(section, key="k"), questions("\ufdfa" * 10)
    usage = client.worst_case_usage(Call(asked, 0), client.request(Call(asked, 0)))
    assert (usage.input_tokens or 0) >= 2 * len(unicodedata.normalize("NFKC", "\ufdfa" * 10).encode())


@pytest.mark.parametrize("name", ["best_of", "models", "plugins", "web_search_options", "enable_search"])
def test_parameters_without_a_bound_are_refused(name):
    with pytest.raises(TennerError, match=f"parameters: {name} could cross the cap"):
        reserved("1+1?", parameters={name: ["x"]})
    assert reserved("1+1?", parameters={name: False}) < 1000


def test_a_dearer_tier_needs_a_price_of_its_own():
    tier = {"service_tier": "priority"}
    assert reserved("1+1?", parameters=tier) < 1000
    section = TraceSection(client="openai", preset="deepseek", model="deepseek-flash", parameters=tier)
    with pytest.raises(TennerError, match="service_tier could cross the cap"):
        OpenAIClient(section, key="")


@pytest.mark.parametrize("tier", ["priority", "PRIORITY"])
def test_a_dearer_tier_of_gemini_needs_a_price_of_its_own(tier):
    section = TraceSection(client="gemini", model="gemini-3.8-flash", parameters={"service_tier": tier})
    with pytest.raises(
        TennerError, match=r"trace\.parameters: service_tier could cross the cap: its price is not that"
    ):
        GeminiClient(section, key="k")
    GeminiClient(section.model_copy(update={"price": PRICE}), key="k")
    GeminiClient(section.model_copy(update={"parameters": {"service_tier": "flex"}}), key="k")


@pytest.mark.parametrize("tools", [[{"type": "web_search"}], [*TOOLS, {"type": "openrouter:web_search"}], ["search"]])
def test_tools_that_the_server_runs_are_refused(tools):
    with pytest.raises(TennerError, match="parameters: tools could cross the cap: what a tool of the server adds"):
        reserved("1+1?", parameters={"tools": tools})


def test_a_model_that_searches_is_refused():
    section = TraceSection(client="openai", preset="openrouter", model="a/b:online", price=PRICE)
    with pytest.raises(TennerError, match=r"trace\.model: a/b:online could cross the cap: what a search adds"):
        OpenAIClient(section, key="")


def test_a_limit_of_thinking_of_its_own_is_reserved_beside_that_of_the_output():
    section = TraceSection(client="openai", base_url="http://h/v1", model="m", price=PRICE, output_tokens_max=100,
                           parameters={"thinking_budget": 700})  # fmt: skip
    client, (asked,) = OpenAIClient(section), questions("1+1?")
    assert client.worst_case_usage(Call(asked, 0), client.request(Call(asked, 0))).output_tokens == 800
