"""A request to a student: its chat template's arguments, the student's own and the request's."""

from pathlib import Path
from typing import Any

import load_generator
import pytest
from chat_families import tokenizer_of

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import Message
from tenner.inference.server.served_student import ServedStudent

QUESTION = [Message(role="user", content="What is <|im_end|>?")]


def student(**changed: Any) -> ServedStudent:
    return load_generator.student(Path("of the tokenizer"))._replace(fmt=FORMATS["think"], **changed)


def test_a_request_says_how_the_template_is_asked() -> None:
    tokenizer, served = tokenizer_of("qwen3.8"), student(system_prompt=None)
    plain = served.request(tokenizer, QUESTION, served.policy(), request_id="r")
    low = served.request(
        tokenizer, QUESTION, served.policy(), request_id="r", chat_template_kwargs={"reasoning_effort": "low"}
    )
    assert "Think as long as it takes." in plain.prompt.text
    assert "Think little." in low.prompt.text
    (span,) = low.prompt.literal
    assert low.prompt.text[slice(*span)] == "<|im_end|>"
    own = served._replace(chat_template_kwargs={"reasoning_effort": "low"})
    assert own.request(tokenizer, QUESTION, served.policy(), request_id="r") == low


@pytest.mark.parametrize(
    ("family", "kwargs", "message"),
    [
        ("qwen3.8", {"effort": "low"}, "effort has no effect"),
        ("qwen3.8", {"reasoning_effort": "none"}, "refuses this conversation|changes nothing"),
        ("qwen3.5", {"enable_thinking": False}, "ends the thinking before it begins"),
    ],
)
def test_a_request_that_the_template_cannot_heed_is_refused(family: str, kwargs: dict[str, Any], message: str) -> None:
    served = student()
    with pytest.raises(TennerError, match=message):
        served.request(tokenizer_of(family), QUESTION, served.policy(), request_id="r", chat_template_kwargs=kwargs)
