"""What a template that writes the date makes of a question stays the same on later days."""

from datetime import date

import pytest
from chat_families import LLAMA3, QWEN3, tokenizer_of

from tenner.core.template_date import with_date

DATED = "\n  {% if true %}{% endif %}" + LLAMA3.replace(
    "{%- for m in messages %}",
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{- 'Today: ' + date_string + strftime_now(\"%Y-%m-%d\") + '\n' }}{%- for m in messages %}",
    1,
)


def asked(source, **kwargs):
    question = [{"role": "user", "content": "Hi"}]
    return tokenizer_of("llama 3").apply_chat_template(
        question, chat_template=source, tokenize=False, add_generation_prompt=True, **kwargs
    )


def test_the_date_is_that_of_the_day():
    fixed = with_date(DATED, date(2024, 2, 29))
    written = DATED.replace("strftime_now('%d %b %Y')", "'29 Feb 2024'").replace(
        'strftime_now("%Y-%m-%d")', "'2024-02-29'"
    )
    assert asked(fixed).startswith("\n<|begin_of_text|>Today: 29 Feb 20242024-02-29\n")
    assert asked(fixed) == asked(written) != asked(DATED)
    assert asked(fixed, date_string="1 May ") == asked(written, date_string="1 May ")


@pytest.mark.parametrize(
    "source",
    [
        QWEN3, "{{ strftime_now(messages[0].content) }}", "{{ strftime_now is defined }}",
        "{{ strftime_now('\\ud800') }}",
    ],
)  # fmt: skip
def test_a_template_without_a_date_or_with_one_that_it_computes_is_left_alone(source):
    assert with_date(source, date(2024, 2, 29)) is None
