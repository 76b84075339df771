"""The template of a saved student renders, for whoever loads it, what training rendered."""

from typing import Any

import pytest
from chat_families import FAMILIES, GEMMA2, tokenizer_of

from tenner.core.chat_template import ChatTemplate, detected_format
from tenner.core.formats import FORMATS
from tenner.core.records import Sample
from tenner.core.saved_template import trained_template
from tenner.training import loss_mask

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
SAMPLE = Sample(id="s", question_id="q", question="What is 2 + 2?", thinking="Two and two.", answer="4", domain=None)
TURN = {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Puts in a system prompt of its own, as that of the demo's student does."""


def saved(name, *, system_prompt=None, template=None, fmt=None, kwargs=None):
    """The family's template as training asks with it, and the one that is saved, on the same tokenizer."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    if template is not None:
        tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)
    trained = ChatTemplate(tokenizer, system_prompt=system_prompt, kwargs=family.kwargs if kwargs is None else kwargs)
    end_id: Any = tokenizer.convert_tokens_to_ids(family.ends[0])
    fmt = FORMATS[fmt or family.format]
    source = trained_template(trained, fmt, end_id)
    assert source is not None
    return tokenizer, trained, fmt, end_id, source


def rendered(tokenizer, source, messages, **kwargs):
    return tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **kwargs)


@pytest.mark.parametrize("system_prompt", [None, "", 'Say "so" {{ x }}\n🙂'])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_saved_template_says_what_training_said(name, system_prompt):
    """The prompt with the opening, and a chat with `reasoning_content`: text and ids are the training's."""
    tokenizer, trained, fmt, end_id, source = saved(name, system_prompt=system_prompt)
    prompt = trained.question(SAMPLE.question).text
    opening = fmt.after(prompt).open
    assert rendered(tokenizer, source, [QUESTION], add_generation_prompt=True) == prompt + opening
    encoded = loss_mask.encode(trained, SAMPLE, fmt, end_id=end_id)
    whole = rendered(tokenizer, source, [QUESTION, TURN])
    assert whole == tokenizer.decode(encoded.ids)
    in_content = "".join(fmt.trained_segments(SAMPLE.thinking, SAMPLE.answer))  # as `tenner export --format sft`
    assert rendered(tokenizer, source, [QUESTION, {"role": "assistant", "content": in_content}]) == whole


@pytest.mark.parametrize("name", ["qwen3", "qwen3.5", "smollm3"])
def test_what_is_trained_is_marked_as_generation(name):
    tokenizer, trained, fmt, end_id, source = saved(name)
    made = tokenizer.apply_chat_template(
        [QUESTION, TURN], chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = loss_mask.encode(trained, SAMPLE, fmt, end_id=end_id)
    assert made["assistant_masks"] == [int(is_trained) for is_trained in encoded.loss_mask]


def test_no_foreign_system_prompt_comes_in_and_a_callers_own_stays():
    tokenizer, *_, source = saved("qwen3", system_prompt="", template=SMOLLM2, fmt="s1", kwargs={})
    assert rendered(tokenizer, source, [QUESTION], add_generation_prompt=True) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n<|im_start|>think\n"
    )
    own = [{"role": "system", "content": "Be brief."}, QUESTION]
    assert "<|im_start|>system\nBe brief.<|im_end|>" in rendered(tokenizer, source, own, add_generation_prompt=True)


def test_a_template_without_a_system_role_has_the_prompt_before_the_question():
    tokenizer, trained, _, _, source = saved("gemma 3", system_prompt="Be brief.", template=GEMMA2, fmt="think")
    assert trained.notes
    asked = rendered(tokenizer, source, [QUESTION], add_generation_prompt=True)
    assert "user\nBe brief.\n\nWhat is 2 + 2?" in asked


def test_earlier_turns_an_answer_alone_and_a_repeated_cue():
    tokenizer, *_, source = saved("qwen3")
    answer = {"role": "assistant", "content": "4"}
    chat = rendered(tokenizer, source, [QUESTION, TURN, QUESTION], add_generation_prompt=True)
    assert chat.count("<think>") == 1
    assert chat.endswith("assistant\n<think>\n")
    assert rendered(tokenizer, source, [QUESTION, answer]).endswith("<think>\n</think>\n\n4<|im_end|>")
    led_in = TURN | {"content": "Answer: 4"}
    assert rendered(tokenizer, source, [QUESTION, led_in]) == rendered(tokenizer, source, [QUESTION, TURN])


def test_the_think_format_can_be_read_off_it():
    tokenizer, *_, source = saved("qwen3", template=SMOLLM2, fmt="s1", kwargs={})
    tokenizer.chat_template = source
    assert detected_format(tokenizer) == FORMATS["s1"]
