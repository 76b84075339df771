"""Finish reasons: the words by which providers say why a reply ended, and what each of them means."""

from typing import Literal

Ending = Literal["complete", "cut", "refused", "failed", "tool_call", "unknown"]
"""How a reply ended: `complete`, the model ended it; `cut`, at a limit of tokens; `refused`, a filter withheld it or
the model declined; `failed`, the provider broke it off; `tool_call`, the model waits for the result of a tool;
`unknown`, by a word that is not in the table, or by none."""

_WORDS: dict[Ending, tuple[str, ...]] = {
    "complete": (
        "stop",  # OpenAI, and Gemini's STOP
        "end_turn", "stop_sequence",  # Anthropic, Bedrock
        "eos", "eos_token", "end_of_sequence",  # Together, TGI, watsonx
        "complete", "completed",  # Cohere, the responses protocol
        "eosfound", "stopstringfound",  # LM Studio
        "normal",  # Qianfan
        "end", "done", "word", "end_of_text", "end_of_turn", "stop_token", "stop_string",  # llama.cpp, gateways
    ),
    "cut": (
        "length",  # OpenAI
        "max_tokens", "max_output_tokens", "max_completion_tokens",  # Anthropic, Gemini's MAX_TOKENS, Cohere
        "max_new_tokens",  # TGI
        "max_length", "max_len", "token_limit", "limit", "max_output",  # xAI, watsonx, llama.cpp, MiniMax
        "model_length", "context_length", "context_length_exceeded", "context_window_exceeded",  # Mistral
        "model_context_window_exceeded",  # Anthropic, GLM
        "maxpredictedtokensreached", "contextlengthreached",  # LM Studio
        "max_tokens_reached", "token_limit_reached", "context_limit", "max_context_length",  # gateways
        "repetition",  # vLLM ended a loop
        "continuation",  # Gemini: the limit of one request, not of the model
    ),
    "refused": (
        "content_filter", "content_filtered", "guardrail_intervened",  # OpenAI, Bedrock
        "sensitive",  # GLM, Hunyuan
        "refusal", "refused",  # Anthropic
        "safety", "recitation", "language", "blocklist", "prohibited_content", "spii", "image_safety",  # Gemini
        "image_prohibited_content", "image_recitation", "model_armor",
        "error_toxic", "blocked", "moderation", "filtered", "policy_violation",  # Cohere, gateways
    ),
    "failed": (
        "error", "network_error", "server_error", "internal_error", "engine_error", "upstream_error",  # GLM, OpenRouter
        "insufficient_system_resource",  # DeepSeek
        "abort", "aborted", "cancel", "cancelled", "canceled", "user_cancel", "userstopped",  # vLLM, SGLang, Cohere
        "timeout", "time_limit", "not_finished", "incomplete", "interrupted", "failed",  # Cohere, watsonx
        "user_stop", "preempted", "engine_overloaded",  # gateways
        "error_limit", "modelunloaded", "load", "unload",  # LM Studio, Ollama
        "other", "malformed_response", "malformed_model_output", "missing_thought_signature",  # Gemini, Bedrock
        "no_image", "image_other",
    ),
    "tool_call": (
        "tool_calls", "tool_call", "function_call", "tool_use", "toolcalls",
        "malformed_function_call", "unexpected_tool_call", "too_many_tool_calls", "malformed_tool_use",  # Gemini
        "pause_turn",  # Anthropic: a tool of the server is at work
    ),
}  # fmt: skip
ENDINGS: dict[str, Ending] = {word: ending for ending, words in _WORDS.items() for word in words}
"""What each known word means, in lower case."""
PREFIXES = ("finishreason.", "finish_reason_", "reason_", "stopreason.")
"""How some gateways write the name of the enumeration before its value."""


def ending_of(finish_reason: str | None) -> Ending:
    """How a reply with this finish reason ended."""
    if finish_reason is None:
        return "unknown"
    word = finish_reason.strip().lower().replace("-", "_")
    for prefix in PREFIXES:
        word = word.removeprefix(prefix)
    return ENDINGS.get(word, "unknown")
