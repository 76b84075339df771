"""Which tokens a response is billed for, by the sums that providers make."""

import json
import random
from typing import Any

import pytest

from tenner.clients.chat_completion import parse_completion
from tenner.clients.protocol import Response
from tenner.clients.usage import CHARS_PER_TOKEN_MAX, UNMETERED, billed_output, charged_usd, chat_usage


@pytest.mark.parametrize(
    ("prompt", "completion", "reasoning", "total", "output"),
    [
        (20, 300, None, 320, 300),
        (20, 300, 250, 320, 300),
        (20, 300, 250, None, 300),
        (20, 5, 900, 925, 905),  # xAI: reasoning is not part of the completion
        (20, 5, None, 925, 905),  # and is not told of
        (20, 5, 900, None, 905),
        (20, 500, 400, 920, 900),
        (20, None, None, 925, 905),
        (20, None, 900, 925, 905),
        (None, 300, None, 320, 300),
        (20, 300, None, 319, None),
        (20, 5, 900, 25, None),
        (20, None, 900, 25, None),
        (20, 300, None, 0, None),
        (20, None, None, None, None),
        (20, None, 900, None, None),
    ],
)
def test_the_largest_output_that_the_fields_allow(prompt, completion, reasoning, total, output):
    assert billed_output(prompt, completion, reasoning, total) == output


def test_whatever_the_convention_the_bill_is_covered_or_unmetered():
    draw, metered = random.Random(0), 0
    for _ in range(2000):
        prompt, answer, thought = draw.randint(1, 500), draw.randint(0, 300), draw.randint(0, 3000)
        apart = draw.random() < 0.5  # reasoning is not part of completion_tokens
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": answer if apart else answer + thought}
        if draw.random() < 0.8:
            usage["total_tokens"] = prompt + answer + thought
        if draw.random() < 0.8 or (apart and "total_tokens" not in usage):
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        if apart and "total_tokens" not in usage and thought <= answer:
            continue  # nothing tells it from a completion that includes them
        billed = chat_usage(usage, text_chars=4 * (answer + thought))
        if billed != UNMETERED:
            metered += 1
            assert billed.output_tokens is not None
            assert billed.output_tokens >= answer + thought
            assert billed.input_tokens == prompt
    assert metered > 1500


def test_anthropics_cache_is_not_part_of_its_input_tokens():
    usage = {"input_tokens": 20, "output_tokens": 300, "cache_read_input_tokens": 1000}
    billed = chat_usage(usage, text_chars=100)
    assert (billed.input_tokens, billed.cached_input_tokens, billed.output_tokens) == (1020, 1000, 300)
    assert chat_usage({**usage, "cache_creation_input_tokens": 0}, text_chars=100) == billed
    litellm = {"prompt_tokens": 1020, "completion_tokens": 300, "total_tokens": 1320, "cache_read_input_tokens": 1000}
    assert chat_usage(litellm, text_chars=100).input_tokens == 1020


@pytest.mark.parametrize(
    "written",
    [
        {"cache_creation_input_tokens": 100},
        {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100}},
        {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100}},
    ],
)
def test_writing_to_a_cache_has_a_price_of_its_own(written):
    usage = {"prompt_tokens": 120, "completion_tokens": 300, "total_tokens": 420}
    assert chat_usage(usage | written, text_chars=100) == UNMETERED
    none = {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}
    assert chat_usage(usage | none, text_chars=100).input_tokens == 120


def test_a_router_that_tells_the_cost_counts_what_it_wrote_to_a_cache():
    usage = {"prompt_tokens": 120, "completion_tokens": 300, "cost": 0.01}
    assert chat_usage(usage | {"prompt_tokens_details": {"cache_write_tokens": 100}}, text_chars=0).input_tokens == 120


@pytest.mark.parametrize(
    "usage",
    [
        {"promptTokens": 20, "completionTokens": 300, "totalTokens": 320},
        {"prompt_tokens": 20.0, "completion_tokens": 300.0},
        {"prompt_tokens": 20, "completion_tokens": 5, "completion_tokens_details": {"thinking_tokens": 295}},
    ],
)
def test_other_names_and_numbers_of_the_same_usage(usage):
    billed = chat_usage(usage, text_chars=100)
    assert (billed.input_tokens, billed.output_tokens) == (20, 300)


def test_hits_and_misses_that_are_more_than_the_prompt_are_unmetered():
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "prompt_cache_hit_tokens": 64}
    assert chat_usage({**usage, "prompt_cache_miss_tokens": 36}, text_chars=0).cached_input_tokens == 64
    assert chat_usage({**usage, "prompt_cache_miss_tokens": 80}, text_chars=0) == UNMETERED


def test_text_has_its_tokens():
    usage = {"prompt_tokens": 20, "completion_tokens": 10}
    assert chat_usage(usage, text_chars=10 * CHARS_PER_TOKEN_MAX).output_tokens == 10
    assert chat_usage(usage, text_chars=10 * CHARS_PER_TOKEN_MAX + 1) == UNMETERED
    assert chat_usage({"prompt_tokens": 20, "completion_tokens": 0}, text_chars=0).output_tokens == 0


@pytest.mark.parametrize("cost", [None, "0.1", True, -1, float("inf"), float("nan"), {"total": 1}])
def test_a_cost_that_is_no_amount_is_none(cost):
    assert charged_usd({"cost": cost}) is None
    assert charged_usd({"cost": 0.25}) == 0.25


@pytest.mark.parametrize("cost", [1e308, float("inf"), float("nan"), 10**400, -1, True, "1"])
def test_a_cost_that_is_no_amount_is_not_a_statement(cost):
    assert charged_usd({"cost": cost}) is None


@pytest.mark.parametrize("choices", [[], None, [{"finish_reason": "stop"}], [{"message": {"content": "7"}}]])
def test_what_was_charged_and_claimed_is_read_whatever_the_rest_is(choices):
    usage = {"prompt_tokens": 5, "completion_tokens": 5000, "total_tokens": 4, "cost": 0.25}
    body = json.dumps({"choices": choices, "usage": usage}).encode()
    reply = parse_completion(Response(body, "application/json"))
    assert (reply.charged_usd, reply.claimed.input_tokens, reply.claimed.output_tokens) == (0.25, 5, 5000)
    assert reply.usage == UNMETERED
