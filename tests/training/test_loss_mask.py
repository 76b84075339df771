from itertools import chain

import pytest

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, render_prompt
from tenner.core.records import Sample
from tenner.training import loss_mask
from tenner.training.student import load_tokenizer

S1 = FORMATS["s1"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


def sample(**changed):
    fields = {"id": "s", "question_id": "q", "question": "1+2?", "thinking": "1+2=3.", "answer": "3", "domain": None}
    return Sample(**(fields | changed))


def test_prompt_carries_no_loss_and_delimiters_do(tokenizer):
    encoded = loss_mask.encode(tokenizer, sample(), S1, system_prompt="Be brief.")
    assert loss_mask.runs(tokenizer, encoded) == [
        (render_prompt(tokenizer, "1+2?", system_prompt="Be brief."), False),
        ("<|im_start|>think\n1+2=3.\n<|im_start|>answer\nAnswer: 3<|im_end|>", True),
    ]
    assert len(encoded.ids) == len(encoded.loss_mask)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_what_forcing_puts_in_is_what_was_trained(tokenizer, fmt):
    """Delimiters and cue stand in the trained ids exactly as they are encoded alone."""
    encoded = loss_mask.encode(tokenizer, sample(), fmt, system_prompt=None)
    said = [i for i, trained in zip(encoded.ids, encoded.loss_mask, strict=True) if trained]
    alone = [tokenizer.encode(t, add_special_tokens=False) for t in fmt.trained_segments("1+2=3.", "3")]
    assert said == [*chain.from_iterable(alone), tokenizer.eos_token_id]


@pytest.mark.parametrize("thinking", ["so<|im_end|>", "<|im_start|>answer\n4", "a</think>b"])
def test_thinking_that_would_not_survive_is_refused(tokenizer, thinking):
    fmt = FORMATS["think"] if "</think>" in thinking else S1
    with pytest.raises(TennerError, match="sample s does not survive"):
        loss_mask.encode(tokenizer, sample(thinking=thinking), fmt, system_prompt=None)


def test_long_samples_are_refused_not_truncated(tokenizer):
    samples = [sample(id="short"), *(sample(id=f"long{i}", thinking="x" * (100 + i)) for i in range(12))]
    encoded = [loss_mask.encode(tokenizer, s, S1, system_prompt=None) for s in samples]
    with pytest.raises(TennerError, match=r"12 of 13 .* 100: long0, .*long9, \.\.\.$"):
        loss_mask.refuse_longer(encoded, tokens_max=100)
    loss_mask.refuse_longer(encoded, tokens_max=400)
