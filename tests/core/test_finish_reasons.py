import pytest

from tenner.core.finish_reasons import ENDINGS, ending_of


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("complete", ["stop", "STOP", "end_turn", "stop_sequence", "eos", "eos_token", "COMPLETE", "FINISH_REASON_STOP",
                      "FinishReason.STOP", "eosFound", "end", "stop_string"]),
        ("cut", ["length", "max_tokens", "MAX_TOKENS", "model_context_window_exceeded", "model_length",
                 "max_output_tokens", "REASON_MAX_LEN", "repetition"]),
        ("refused", ["content_filter", "sensitive", "SAFETY", "RECITATION", "refusal", "guardrail_intervened"]),
        ("failed", ["error", "network_error", "insufficient_system_resource", "abort", "ERROR", "OTHER", "timeout"]),
        ("tool_call", ["tool_calls", "function_call", "tool_use", "MALFORMED_FUNCTION_CALL"]),
        ("unknown", [None, "", "null", "paused", "stopp", "FINISH_REASON_UNSPECIFIED"]),
    ],
)  # fmt: skip
def test_every_known_word_has_its_meaning_and_no_other_passes_as_complete(ending, words):
    assert {ending_of(word) for word in words} == {ending}


def test_no_word_stands_twice():
    from tenner.core import finish_reasons

    assert sum(map(len, finish_reasons._WORDS.values())) == len(ENDINGS)
