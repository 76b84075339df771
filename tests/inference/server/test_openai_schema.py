"""What clients of OpenAI's protocol send: what changes nothing is accepted, all else is refused by its name."""

import json
from typing import Any

import pytest

from tenner.inference.server.openai_schema import APIError, parse

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
EARLIER: dict[str, Any] = {"role": "assistant", "content": "4"}
ACCEPTED: list[dict[str, Any]] = [
    {"stop": None}, {"stop": "x"}, {"stop": ["x", "y"]}, {"stop": []}, {"stop": [""]}, {"stop_token_ids": []},
    {"stop": "\n\n"}, {"stop": ["</s>", "<|im_end|>"]}, {"n": 1}, {"n": None}, {"n": 2.0}, {"logprobs": False},
    {"logprobs": None, "top_logprobs": None}, {"top_logprobs": 0}, {"response_format": {"type": "text"}},
    {"response_format": None}, {"guided_json": None},
    {"guided_regex": None, "guided_choice": None, "guided_grammar": None, "guided_decoding_backend": None},
    {"structured_outputs": None}, {"grammar": ""}, {"json_schema": None}, {"logits_processors": None},
    {"logits_processors": []}, {"stream": False}, {"stream": None}, {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True, "stream_options": {}},
    {"stream": False, "stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"metadata": {"a": "b"}}, {"store": False}, {"store": None}, {"service_tier": "priority"},
    {"service_tier": "auto"}, {"user": "u"}, {"user": None}, {"safety_identifier": "x"}, {"prompt_cache_key": "k"},
    {"prompt_cache_retention": "24h"}, {"parallel_tool_calls": True}, {"parallel_tool_calls": False}, {"seed": None},
    {"seed": 0}, {"seed": 1.0}, {"reasoning": {"effort": "medium"}}, {"reasoning": {"effort": None}},
    {"reasoning": None}, {"reasoning": {}}, {"reasoning": {"effort": "minimal", "summary": "auto"}},
    {"reasoning": {"effort": "none"}}, {"reasoning": {"effort": "high", "exclude": False}},
    {"reasoning_effort": "high"}, {"reasoning_effort": None},
    {"reasoning_effort": "medium", "reasoning": {"effort": "medium"}}, {"thinking": {"type": "enabled"}},
    {"thinking": {"type": "enabled", "budget_tokens": 100, "display": "summarized"}},
    {"thinking": {"type": "adaptive"}}, {"think": False}, {"think": True}, {"enable_thinking": True},
    {"enable_thinking": None}, {"thinking_budget": 100.0}, {"thinking_budget": -1},
    {"thinking": {"max_tokens": 10.0}}, {"chat_template_kwargs": {}}, {"chat_template_kwargs": None},
    {"chat_template_kwargs": {"thinking": False}}, {"extra_body": {}}, {"extra_body": None}, {"extra_headers": None},
    {"timeout": 30}, {"timeout": None}, {"verbosity": "medium"}, {"verbosity": None},
    {"text": {"format": {"type": "text"}}}, {"temperature": 0}, {"temperature": 1.0}, {"temperature": None},
    {"top_p": 1}, {"top_p": None}, {"top_k": -1}, {"top_k": None}, {"min_p": 0.0},
    {"frequency_penalty": 0.0, "presence_penalty": 0}, {"repetition_penalty": 1.0}, {"logit_bias": {}},
    {"tools": []}, {"tool_choice": "auto"}, {"max_tool_calls": None}, {"functions": []},
    {"max_tokens": 64, "max_completion_tokens": 64}, {"min_tokens": 0},
    {"length_penalty": 1.0, "early_stopping": False}, {"use_beam_search": False, "best_of": 1},
    {"instructions": None}, {"suffix": None}, {"models": []}, {"provider": None}, {"provider": {"order": ["x"]}},
    {"transforms": []}, {"route": "fallback"}, {"plugins": []}, {"include": []}, {"background": False},
    {"truncation": "disabled"}, {"previous_response_id": None}, {"moderation": None}, {"cache": None},
    {"caching": False}, {"mm_processor_kwargs": None}, {"documents": None}, {"chat_template": None},
    {"allowed_token_ids": None}, {"bad_words": []}, {"vllm_xargs": None}, {"kv_transfer_params": None},
    {"lora_path": None}, {"regex": None, "ebnf": None}, {"format": None}, {"options": {}}, {"slot_id": -1},
    {"cache_prompt": True}, {"prompt_mode": None}, {"search_parameters": None}, {"deferred": False},
    {
        "logprobs": None, "n": 1, "stop": None, "stream": False, "temperature": 0.7, "top_p": 0.95, "max_tokens": 100,
        "frequency_penalty": 0, "presence_penalty": 0, "user": "x", "seed": 7,
    },
]  # fmt: skip
ACCEPTED_MESSAGES: list[list[dict[str, Any]]] = [
    [USER | {"name": "alice"}], [USER | {"name": None}], [{"role": "system", "content": "s", "name": "sys"}, USER],
    [USER, EARLIER | {"name": "bot"}, USER],
    [USER, EARLIER | {"refusal": None, "audio": None, "function_call": None, "tool_calls": None, "name": None}, USER],
    [USER, EARLIER | {"reasoning_content": "t"}, USER], [USER, EARLIER | {"reasoning": "t"}, USER],
    [USER, EARLIER | {"thinking": "t"}, USER],
    [USER, EARLIER | {"thinking_blocks": [{"type": "thinking", "thinking": "t"}]}, USER],
    [USER, EARLIER | {"provider_specific_fields": {"x": 1}}, USER],
    [USER, EARLIER | {"reasoning_details": [{"type": "reasoning.text", "text": "t"}]}, USER],
    [USER, EARLIER | {"tenner": {"thinking_tokens": 3}}, USER], [USER, EARLIER | {"phase": "final_answer"}, USER],
    [USER, EARLIER | {"finish_reason": "stop"}, USER],
    [USER, {"role": "assistant", "content": [{"type": "text", "text": "4"}]}, USER],
    [{"role": "system", "content": [{"type": "text", "text": "s"}]}, USER],
    [{"role": "developer", "content": "s"}, USER],
    [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}],
    [{"role": "user", "content": [{"type": "text", "text": "a", "annotations": []}]}],
    [{"role": "user", "content": [{"type": "text", "text": ""}]}], [USER | {"images": []}],
]  # fmt: skip
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stop": ["x", None]}, "stop"), ({"stop": [["x"]]}, "stop"), ({"stop": {"a": 1}}, "stop"),
    ({"stop_token_ids": [2]}, "stop_token_ids"), ({"stop_sequences": ["x"]}, "stop"), ({"n": "1"}, "n"),
    ({"n": True}, "n"), ({"logprobs": True, "top_logprobs": 5}, "logprobs"), ({"logprobs": 0}, "logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "response_format"),
    ({"guided_json": {"type": "object"}}, "guided_json"),
    ({"structured_outputs": {"json": {}}}, "structured_outputs"), ({"stream": "true"}, "stream"),
    ({"store": True}, "store"), ({"seed": "1"}, "seed"), ({"seed": 9223372036854775808}, "seed"),
    ({"reasoning": {"exclude": True}}, "exclude"), ({"reasoning": {"effort": "super"}}, "effort"),
    ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "both"), ({"thinking": True}, "thinking"),
    ({"thinking": {"type": "on"}}, "type"), ({"thinking_config": {"thinking_budget": 10}}, "thinking_config"),
    ({"output_config": {"effort": "low"}}, "output_config"), ({"text": {"verbosity": "low"}}, "text"),
    ({"modalities": ["text", "audio"]}, "modalities"), ({"audio": {"voice": "x"}}, "audio"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"), ({"temperature": "0"}, "temperature"),
    ({"top_k": 50}, "top_k"), ({"min_p": 0.1}, "min_p"), ({"frequency_penalty": 0.1}, "frequency_penalty"),
    ({"repetition_penalty": 1.05}, "repetition_penalty"), ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"tool_choice": "required"}, "tool_choice"), ({"max_output_tokens": 64}, "max_output_tokens"),
    ({"max_new_tokens": 64}, "max_new_tokens"), ({"ignore_eos": True}, "ignore_eos"), ({"echo": True}, "echo"),
    ({"prompt": "x"}, "prompt"), ({"input": "x"}, "input"), ({"num_ctx": 4096}, "num_ctx"),
    ({"format": "json"}, "format"), ({"samplers": ["top_k"]}, "samplers"), ({"random_seed": 1}, "random_seed"),
]  # fmt: skip
REFUSED_MESSAGES: list[tuple[list[dict[str, Any]], str]] = [
    ([USER, {"role": "assistant", "content": "", "refusal": "I cannot"}, USER], "refusal"),
    ([USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER], "content"),
    ([{"role": "user", "content": [{"text": "a"}]}], "content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], "text only"),
    ([{"role": "user", "content": [{"type": "text", "text": 7}]}], "content"),
    ([{"role": "user", "content": {"type": "text", "text": "a"}}], "content"),
    ([{"role": "user", "content": 7}], "content"),
    ([{"role": "function", "name": "f", "content": "4"}, USER], "role"),
    ([{"role": "tool", "tool_call_id": "c", "content": "4"}, USER], "role"),
    ([{"role": "User", "content": "a"}], "role"), ([{"content": "a"}], "role"),
    ([USER | {"timestamp": 123}], "timestamp"), ([USER | {"weight": 1}], "weight"),
]  # fmt: skip


def read(messages: list[dict[str, Any]], **more: Any) -> Any:
    return parse(json.dumps({"model": "m", "messages": messages} | more).encode())


def test_what_changes_nothing_is_accepted() -> None:
    for more in ACCEPTED:
        assert read([USER], **more).model == "m"
    for messages in ACCEPTED_MESSAGES:
        assert len(read(messages).messages) == len(messages)


def test_what_would_change_the_answer_is_refused_by_its_name() -> None:
    for more, name in REFUSED:
        with pytest.raises(APIError) as refused:
            read([USER], **more)
        assert name in str(refused.value), more
        assert refused.value.status == 400
    for messages, name in REFUSED_MESSAGES:
        with pytest.raises(APIError) as refused:
            read(messages)
        assert name in str(refused.value), messages


def test_an_earlier_answers_thinking_is_not_read_again() -> None:
    parts = [{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "4"}]
    request = read([USER, {"role": "assistant", "content": parts}, USER])
    assert [m.content for m in request.conversation] == ["Hi", "4", "Hi"]
    with pytest.raises(APIError, match="reads text only"):
        read([{"role": "user", "content": parts}])


def test_ollamas_word_for_thinking_sets_the_budget() -> None:
    budgets = [read([USER], think=think)._budgets() for think in (False, True, "low", "none")]
    assert budgets == [{"think": 0}, {}, {"think": "low"}, {"think": 0}]
    with pytest.raises(APIError, match="give one of them"):
        read([USER], think=False, thinking_budget=9)
    assert read([USER], think=False, enable_thinking=False)._budgets() == {"think": 0, "enable_thinking": 0}
