"""Replies as servers send them whose parsers fail: what is said where, and what must be made of it.

`MESSAGES` are good ones, with thinking "7 and 4." and answer "It is 11."; `DAMAGED` have an outcome of their own.
"""

import json
from typing import Any

from chat_server import BEHAVIOURS, Answer

THINKING, ANSWER = "7 and 4.", "It is 11."
T, A = THINKING, ANSWER
DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"

MESSAGES: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": T, "content": A},
    "reasoning": {"reasoning": T, "content": A},
    "details with text": {"reasoning_details": [{"type": "reasoning.text", "text": T}], "content": A},
    "raw beside a summary": {
        "reasoning": T, "reasoning_details": [{"type": "reasoning.summary", "summary": "sums"}], "content": A},
    "raw details beside a summary": {
        "reasoning": "sums", "reasoning_details": [{"type": "reasoning.text", "text": T}], "content": A},
    "an encrypted detail": {
        "reasoning_content": T, "reasoning_details": [{"type": "reasoning.encrypted", "data": "gAAA"}], "content": A},
    "thinking parts": {"content": [{"type": "thinking", "thinking": T, "signature": "s"}, {"type": "text", "text": A}]},
    "Mistral's parts": {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": T}]}, {"type": "text", "text": A}]},
    "reasoning parts": {"content": [{"type": "reasoning", "text": T}, {"type": "text", "text": A}]},
    "Bedrock's parts": {"content": [{"reasoningContent": {"reasoningText": {"text": T}}}, {"text": A}]},
    "redacted parts": {
        "content": [{"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": T},
                    {"type": "text", "text": A}]},
    "thinking_blocks": {"thinking_blocks": [{"type": "thinking", "thinking": T}], "content": A},
    "provider fields": {"provider_specific_fields": {"reasoning_content": T}, "content": A},
    "blocks in provider fields": {
        "provider_specific_fields": {"thinking_blocks": [{"type": "thinking", "thinking": T}]}, "content": A},
    "Ollama's field": {"thinking": T, "content": A},
    "an object": {"reasoning": {"text": T}, "content": A},
    "<think>": {"content": f"<think>\n{T}\n</think>\n\n{A}"},
    "<thinking>": {"content": f"<thinking>{T}</thinking>{A}"},
    "<thought>": {"content": f"<thought>\n{T}\n</thought>\n{A}"},
    "<Reasoning>": {"content": f"<Reasoning>\n{T}\n</Reasoning>\n{A}"},
    "a tag with attributes": {"content": f'<think time="3">{T}</think >{A}'},
    "<analysis>": {"content": f"<analysis>\n{T}\n</analysis>\n{A}"},
    "<scratchpad>": {"content": f"<scratchpad>{T}</scratchpad>{A}"},
    "MedGemma's tokens": {"content": f"<unused94>thought\n{T}<unused95>{A}"},
    "Apertus' tokens": {"content": f"<|inner_prefix|>{T}<|inner_suffix|>{A}"},
    "Open WebUI's details": {
        "content": f'<details type="reasoning" done="true">\n<summary>Thought</summary>\n{T}\n</details>\n{A}'},
    "<answer>": {"content": f"<think>\n{T}\n</think>\n<answer>\n{A}\n</answer>"},
    "<response>": {"reasoning_content": T, "content": f"<response>\n{A}\n</response>\n"},
    "thinking_content": {"thinking_content": T, "content": A},
    "<seed:think>": {"content": f"<seed:think>\n{T}\n</seed:think>{A}<seed:eos>"},
    "[THINK]": {"content": f"[THINK]{T}[/THINK]{A}</s>"},
    "Kimi's marks": {"content": f"◁think▷{T}◁/think▷{A}"},
    "begin_of_thought": {
        "content": f"<|begin_of_thought|>\n{T}\n<|end_of_thought|>\n\n<|begin_of_solution|>\n{A}\n<|end_of_solution|>"},
    "START_THINKING": {
        "content": f"<|START_THINKING|>{T}<|END_THINKING|><|START_RESPONSE|>{A}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"},
    "Granite's words": {"content": f"Here is my thought process: {T}\n\nHere is my response: {A}"},
    "only </think>": {"content": f"{T}\n</think>\n\n{A}"},
    "only </thinking>": {"content": f"{T}</thinking>{A}"},
    "harmony": {
        "content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant"
                   f"<|channel|>final<|message|>{A}<|return|>"},
    "harmony after the start": {
        "content": f"<|start|>assistant<|channel|>analysis<|message|>{T}<|end|>\n"
                   f"<|start|>assistant<|channel|>final<|message|>{A}"},
    "harmony without its tokens": {"content": f"analysis{T}assistantfinal{A}"},
    "Gemma's channel": {"content": f"<|channel>thought\n{T}<channel|>{A}<turn|>"},
    "twice": {"reasoning_content": T, "content": f"<think>\n{T}\n</think>\n\n{A}"},
    "an empty block": {"reasoning_content": T, "content": f"<think>\n\n</think>\n\n{A}"},
    "a closing tag first": {"reasoning_content": T, "content": f"</think>\n\n{A}"},
    "tags in the field": {"reasoning_content": f"<think>\n{T}\n</think>", "content": A},
    "all in the field": {"reasoning_content": f"{T}\n</think>\n\n{A}", "content": None},
    "only the final channel": {"reasoning": T, "content": f"<|channel|>final<|message|>{A}"},
    "<|im_end|>": {"reasoning_content": T, "content": f"{A}<|im_end|>\n"},
    "several end tokens": {"reasoning_content": f"{T}<|im_end|>", "content": f"{A} <|eot_id|><|end_of_text|>"},
    "DeepSeek's end": {"reasoning_content": f"{T}{DEEPSEEK_END}", "content": f"{A}{DEEPSEEK_END}"},
    "Gemma's end": {"reasoning_content": T, "content": f"{A}<end_of_turn>\n<eos>"},
    "GLM's end": {"reasoning_content": T, "content": f"{A}<|user|>"},
    "EXAONE's end": {"reasoning_content": T, "content": f"{A}[|endofturn|]"},
    "Nemotron's end": {"reasoning_content": f"{T}<SPECIAL_12>", "content": f"{A}<SPECIAL_12>\n"},
    "a list of texts": {"reasoning": [T], "content": [A]},
    "a part as the field": {"reasoning": {"type": "thinking", "thinking": T}, "content": A},
    "<mm:think>": {"content": f"<mm:think>\n{T}\n</mm:think>\n{A}"},
    "<longcat_think>": {"content": f"<longcat_think>\n{T}\n</longcat_think>\n{A}"},
    "<think:opensource>": {"content": f"<think:opensource>{T}</think:opensource>{A}"},
    "a doubled tag": {"content": f"<think>\n<think>\n{T}\n</think>\n</think>\n{A}"},
    "half a tag": {"content": f"think>\n{T}\n</think>\n{A}"},
    "a byte order mark first": {"content": f"\ufeff<think>{T}</think>{A}"},
    "a header before the block": {"content": f"<|im_start|>assistant\n<think>{T}</think>{A}"},
    "DeepSeek's header": {"content": f"<\uff5cAssistant\uff5c><think>{T}</think>{A}"},
    "<final_answer>": {"content": f"<think>{T}</think><final_answer>{A}</final_answer>"},
    "Apriel's words": {
        "content": f"Here are my reasoning steps:\n{T}\n[BEGIN FINAL RESPONSE]\n{A}\n[END FINAL RESPONSE]\n<|end|>"},
    "s1's marks": {"content": f"<|im_start|>think\n{T}\n<|im_start|>answer\n{A}<|im_end|>"},
    "a format in the final channel": {
        "content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>final <|constrain|>text"
                   f"<|message|>{A}<|return|>"},
    "a channel in the field": {"reasoning_content": f"<|channel|>analysis<|message|>{T}<|end|>", "content": A},
    "Step's end": {"reasoning_content": T, "content": f"{A}<|EOT|>"},
    "Ling's end": {"reasoning_content": T, "content": f"{A}<|role_end|>"},
    "padding": {"reasoning_content": T, "content": f"{A}<pad><pad>"},
}  # fmt: skip

DAMAGED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "</think> in the answer": ({"reasoning_content": T, "content": f"11.\n</think>\n{A}"}, "stop", "damaged"),
    "a second block": ({"content": f"<think>{T}</think>Hm. <think>8?</think>{A}"}, "stop", "damaged"),
    "another block": ({"reasoning_content": T, "content": f"<think>8?</think>{A}"}, "stop", "damaged"),
    "text before the block": ({"content": f"Sure! <think>{T}</think>{A}"}, "stop", "damaged"),
    "a turn too many": (
        {"reasoning_content": T, "content": f"{A}<|im_end|>\n<|im_start|>user\nThanks"}, "stop", "damaged"),
    "a header": (
        {"reasoning_content": T, "content": f"<|start_header_id|>assistant<|end_header_id|>{A}"}, "stop", "damaged"),
    "DeepSeek's user": ({"reasoning_content": T, "content": f"{A}<\uff5cUser\uff5c>Thanks"}, "stop", "damaged"),
    "a token in the thinking": ({"reasoning_content": "7<|im_start|> and 4", "content": A}, "stop", "damaged"),
    "a block in the thinking": ({"reasoning_content": "7 <think> and 4", "content": A}, "stop", "damaged"),
    "a call in harmony": (
        {"content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>commentary to=python"
                    "<|message|>1+1<|call|>"}, "stop", "damaged"),
    "a call in analysis": (
        {"content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>analysis to=python code"
                    f"<|message|>7+4<|end|><|start|>assistant<|channel|>final<|message|>{A}"}, "stop", "damaged"),
    "a call by its role": (
        {"content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant to=functions.add<|channel|>commentary"
                    "<|message|>{}"}, "stop", "damaged"),
    "a call with its format": (
        {"content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>commentary to=functions.add "
                    "<|constrain|>json<|message|>{}"}, "stop", "damaged"),
    "a preamble before the answer": (
        {"content": f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>commentary<|message|>I add."
                    f"<|end|><|start|>assistant<|channel|>final<|message|>{A}"}, "stop", "damaged"),
    "a preamble alone": (
        {"reasoning": T, "content": "<|channel|>commentary<|message|>I will add them."}, "stop", "damaged"),
    "commentary without its tokens": (
        {"content": f"analysis{T}assistantcommentaryI add.assistantfinal{A}"}, "stop", "no_reasoning"),
    "a call in words": ({"reasoning_content": T, "content": "<function=add>{}</function>"}, "stop", "damaged"),
    "Mistral's call": ({"reasoning_content": T, "content": '[TOOL_CALLS]add{"a": 7}'}, "stop", "damaged"),
    "DeepSeek's call": (
        {"reasoning_content": T, "content": "<\uff5cDSML\uff5cfunction_calls>"}, "stop", "damaged"),
    "MiniMax's call": (
        {"reasoning_content": T, "content": '<minimax:tool_call><invoke name="add">'}, "stop", "damaged"),
    "a closing <mm:think>": ({"reasoning_content": T, "content": f"Hm </mm:think> {A}"}, "stop", "damaged"),
    "a token in capitals": ({"reasoning_content": T, "content": f"11<|EOT|>{A}"}, "stop", "damaged"),
    "a header in words": ({"reasoning_content": T, "content": f"{A}assistant\n\nThanks"}, "stop", "damaged"),
    "an unknown token": ({"reasoning_content": T, "content": "It is <unk> 11."}, "stop", "damaged"),
    "only invisible characters": ({"reasoning_content": T, "content": "\u200b\u00a0\n"}, "stop", "empty"),
    "only dots": ({"reasoning_content": T, "content": "..."}, "stop", "empty"),
    "an empty box": ({"reasoning_content": T, "content": "$\\boxed{ }$"}, "stop", "empty"),
    "no answer": ({"reasoning_content": T, "content": None}, "stop", "empty"),
    "only an end token": ({"reasoning_content": T, "content": "<|im_end|>"}, "stop", "empty"),
    "an open block": ({"content": f"<think>\n{T} And"}, "stop", "empty"),
    "a cut block": ({"content": f"<think>\n{T} And"}, "length", "truncated"),
    "a tool call": ({"reasoning_content": T, "content": "Let me compute.", "tool_calls": [{}]}, "tool_calls", "empty"),
    "a refusal": ({"refusal": "I cannot help", "content": None}, "stop", "content_filter"),
    "no thinking": ({"content": A}, "stop", "no_reasoning"),
    "an unknown word": ({"reasoning_content": T, "content": A}, "paused", "unknown_finish"),
    "null": ({"reasoning_content": T, "content": A}, None, "unknown_finish"),
    "another foreign word for cut": ({"reasoning_content": T, "content": A}, "max-new-tokens", "truncated"),
    "a foreign word for cut": ({"reasoning_content": T, "content": A}, "MAX_TOKENS", "truncated"),
    "a foreign word for refused": ({"reasoning_content": T, "content": A}, "PROHIBITED_CONTENT", "content_filter"),
}  # fmt: skip


def body_of(message: dict, finish_reason: str | None = "stop") -> bytes:
    """A chat completion with this message."""
    usage = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant"} | message}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def _answer(body: bytes):
    return lambda _: Answer(200, body)


BEHAVIOURS |= {f"message: {name}": _answer(body_of(message)) for name, message in MESSAGES.items()}
BEHAVIOURS |= {f"damaged: {name}": _answer(body_of(*parts[:2])) for name, parts in DAMAGED.items()}
