from itertools import chain

import pytest

from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import Sample
from tenner.training import loss_mask
from tenner.training.student import load_tokenizer

S1 = FORMATS["s1"]
END = 2


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def sample(**changed):
    fields = {"id": "s", "question_id": "q", "question": "1+2?", "thinking": "1+2=3.", "answer": "3", "domain": None}
    return Sample(**(fields | changed))


def test_prompt_carries_no_loss_and_delimiters_do(tokenizer):
    template = ChatTemplate(tokenizer, system_prompt="Be brief.")
    encoded = loss_mask.encode(template, sample(), S1, end_id=tokenizer.eos_token_id)
    assert loss_mask.runs(tokenizer, encoded) == [
        (ChatTemplate(tokenizer, system_prompt="Be brief.").question("1+2?").text, False),
        ("<|im_start|>think\n1+2=3.\n<|im_start|>answer\nAnswer: 3<|im_end|>", True),
    ]
    assert len(encoded.ids) == len(encoded.loss_mask)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_what_forcing_puts_in_is_what_was_trained(tokenizer, template, fmt):
    """Delimiters and cue stand in the trained ids exactly as they are encoded alone."""
    encoded = loss_mask.encode(template, sample(), fmt, end_id=END)
    said = [i for i, trained in zip(encoded.ids, encoded.loss_mask, strict=True) if trained]
    alone = [tokenizer.encode(t, add_special_tokens=False) for t in fmt.trained_segments("1+2=3.", "3")]
    assert said == [*chain.from_iterable(alone), END]


@pytest.mark.parametrize("thinking", ["so<|im_end|>", "<|im_start|>answer\n4", "a</think>b"])
def test_thinking_that_would_not_survive_is_refused(template, thinking):
    fmt = FORMATS["think"] if "</think>" in thinking else S1
    with pytest.raises(TennerError, match="sample s does not survive"):
        loss_mask.encode(template, sample(thinking=thinking), fmt, end_id=END)


def test_an_answer_with_a_special_token_is_refused(template):
    with pytest.raises(TennerError, match=r"answer of sample s holds the control token <\|im_end\|>"):
        loss_mask.encode(template, sample(answer="3<|im_end|>"), S1, end_id=END)


def test_long_samples_are_refused_not_truncated(template):
    samples = [sample(id="short"), *(sample(id=f"long{i}", thinking="x" * (100 + i)) for i in range(12))]
    encoded = [loss_mask.encode(template, s, S1, end_id=END) for s in samples]
    with pytest.raises(TennerError, match=r"12 of 13 .* 100: long0, .*long9, \.\.\.$"):
        loss_mask.refuse_longer(encoded, tokens_max=100)
    loss_mask.refuse_longer(encoded, tokens_max=400)
