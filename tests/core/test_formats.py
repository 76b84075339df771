import pytest

from tenner.core.chat_template import ChatTemplate
from tenner.core.formats import FORMATS, answer_text


def test_s1_writes_its_delimiters_around_thinking_and_answer():
    assert "".join(FORMATS["s1"].trained_segments("2+2=4.", "4")) == (
        "<|im_start|>think\n2+2=4.\n<|im_start|>answer\nAnswer: 4"
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Answer: 4", "4"), ("Answer: 3 no\nAnswer: 4 ", "4"), ("so it is 4", "so it is 4"), ("", "")],
)
def test_the_answer_is_what_follows_the_last_cue(text, answer):
    assert answer_text(text, "\nAnswer:") == answer


def test_the_system_prompt_may_be_given_or_left_to_the_template(tiny_model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    asked = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert ChatTemplate(tokenizer, system_prompt=None).question("1+1?").text == asked
    assert (
        ChatTemplate(tokenizer, system_prompt="Hi").question("1+1?").text
        == f"<|im_start|>system\nHi<|im_end|>\n{asked}"
    )
