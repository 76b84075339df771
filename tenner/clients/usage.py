"""The tokens that a response is billed for, from the usage fields of all providers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tenner.clients.json_fields import count, mapping
from tenner.core.records import Usage

CHARS_PER_TOKEN_MAX = 16
"""Over a whole response. Text of any language has fewer than 8; what has more was not counted."""
CHARGED_USD_MAX = 1e6
UNMETERED = Usage()

INPUT_NAMES = ("prompt_tokens", "input_tokens", "inputTokens", "promptTokens")
OUTPUT_NAMES = ("completion_tokens", "output_tokens", "outputTokens", "completionTokens")
REASONING_NAMES = ("reasoning_tokens", "thinking_tokens", "reasoningTokens")
TOTAL_NAMES = ("total_tokens", "totalTokens")
CACHED_NAMES = ("prompt_cache_hit_tokens", "cached_tokens", "cacheReadInputTokens")
INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")


class Counts(NamedTuple):
    """The counts of a usage, by whatever names they go; None where they are missing or no counts."""

    prompt: int | None
    cached: int | None
    completion: int | None
    reasoning: int | None
    total: int | None


def chat_usage(fields: Mapping[str, Any], *, text_chars: int) -> Usage:
    """The usage of a chat completion with `text_chars` characters of thinking and answer.

    All of it is None where the fields are missing, contradict one another, or are too small for the text: the call
    is then unmetered. Providers agree on the names, not on the sums: OpenAI's and DeepSeek's `completion_tokens`
    include reasoning, xAI's and those of Gemini's compatible endpoint do not, and the latter may give no
    `reasoning_tokens` either. See `billed_output`.
    """
    counts, misses = _counts(fields), count(fields.get("prompt_cache_miss_tokens"))
    if _writes_cache(fields):
        return UNMETERED
    if misses is not None and (counts.cached or 0) + misses > (counts.prompt or 0):
        return UNMETERED
    output = billed_output(counts.prompt, counts.completion, counts.reasoning, counts.total)
    return checked_usage(counts.prompt, counts.cached, output, counts.reasoning, text_chars=text_chars)


def claimed_usage(fields: Mapping[str, Any]) -> Usage:
    """The most tokens that any of the fields speaks of, whatever the others say: for replies that are unmetered."""
    counts = _counts(fields)
    written, thought = counts.completion or 0, counts.reasoning or 0
    named = written + thought if thought > written else written
    return Usage(input_tokens=counts.prompt or 0, output_tokens=max(named, (counts.total or 0) - (counts.prompt or 0)))


def _counts(fields: Mapping[str, Any]) -> Counts:
    prompt, completion, total = (_largest(fields, names) for names in (INPUT_NAMES, OUTPUT_NAMES, TOTAL_NAMES))
    cached = _largest(fields, CACHED_NAMES)
    if cached is None:
        cached = next((count(mapping(fields.get(name)).get("cached_tokens")) for name in INPUT_DETAILS
                       if isinstance(fields.get(name), dict)), None)  # fmt: skip
    places = (fields, *(mapping(fields.get(name)) for name in OUTPUT_DETAILS))
    found = (_largest(place, REASONING_NAMES) for place in places)
    reasoning = max((thought for thought in found if thought is not None), default=None)
    if prompt is not None and count(fields.get("prompt_tokens")) is None:
        # Anthropic's names: what was read from its cache is not part of `input_tokens`.
        read = count(fields.get("cache_read_input_tokens"))
        prompt += read or 0
        cached = read if cached is None else cached
    return Counts(prompt, cached, completion, reasoning, total)


def billed_output(prompt: int | None, completion: int | None, reasoning: int | None, total: int | None) -> int | None:
    """The most output tokens that the fields allow, taken together; None where they allow none.

    Reasoning of more tokens than the completion cannot be part of it, and is added. What the total has beyond the
    prompt was generated, whatever name it goes by.
    """
    thought = reasoning or 0
    written = completion or 0
    least = written + thought if thought > written else written
    if prompt is None or total is None:
        return None if completion is None else least
    return total - prompt if total - prompt >= least else None


def checked_usage(
    prompt: int | None, cached: int | None, output: int | None, reasoning: int | None, *, text_chars: int
) -> Usage:
    """The usage, or `UNMETERED` where it cannot be true: no prompt is empty, and text has its tokens."""
    if not prompt or output is None or output * CHARS_PER_TOKEN_MAX < text_chars or (cached or 0) > prompt:
        return UNMETERED
    return Usage(
        input_tokens=prompt, cached_input_tokens=cached, output_tokens=output, reasoning_tokens=reasoning
    )  # fmt: skip


def charged_usd(fields: Mapping[str, Any]) -> float | None:
    """What the provider says that the call cost, in dollars, as OpenRouter does in `cost`; None where it does not.

    An amount beyond any call is no statement, either.
    """
    cost = fields.get("cost")
    if not isinstance(cost, int | float) or isinstance(cost, bool):
        return None
    return float(cost) if 0 <= cost <= CHARGED_USD_MAX else None


def _writes_cache(fields: Mapping[str, Any]) -> bool:
    """Whether a part of the prompt was written to a cache, which has a price of its own.

    Anthropic and routers tell so. OpenRouter tells the whole cost as well, which is enough.
    """
    writes = [fields.get("cache_creation_input_tokens"), *mapping(fields.get("cache_creation")).values()]
    if charged_usd(fields) is None:
        writes += [mapping(fields.get(name)).get("cache_write_tokens") for name in INPUT_DETAILS]
    return any(map(count, writes))


def _largest(fields: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The largest of the counts that go by one of these names: gateways send one of two names as zero."""
    return max((found for name in names if (found := count(fields.get(name))) is not None), default=None)
