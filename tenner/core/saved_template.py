"""The chat template that a trained student is saved with: it says by itself what the student was trained on."""

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Literal

import jinja2

from tenner.core.chat_template import PROBE, PROMPT_PROBE, ChatTemplate, source_of
from tenner.core.formats import ThinkFormat, rendered

GENERATION_TAG = re.compile(r"\{%([-+]?) *(end)?generation *([-+]?)%\}")

SystemPlace = Literal["none", "system", "user"]
"""Where the training's system prompt stands: nowhere, in a turn of its own, or before the first question."""


def trained_template(template: ChatTemplate, fmt: ThinkFormat, end_id: int) -> str | None:
    """A chat template around the one of the training, for whoever loads the saved folder.

    - A conversation without a system message has the training's system prompt, and arguments that are not given have
      the training's values.
    - The generation prompt opens the thinking, if the tokenizer then gives the ids of training.
    - An assistant's turn at the end is what training makes of its `reasoning_content` and `content`, and it alone
      stands between `{% generation %}` and `{% endgeneration %}`. A `content` with the thinking inside stays as it is.

    None where no such template gives the text of training. `end_id` is the token that ends an assistant's turn.
    """
    tokenizer, prompt = template.tokenizer, template.question(PROMPT_PROBE).text
    opened = fmt.after(prompt)
    end_text = tokenizer.decode([end_id], skip_special_tokens=False)
    question = {"role": "user", "content": PROMPT_PROBE}
    answer: dict[str, str] = {"role": "assistant", "content": PROMPT_PROBE, "reasoning_content": PROBE}
    said = prompt + "".join(opened.trained_segments(PROBE, PROMPT_PROBE)) + end_text
    places: tuple[SystemPlace, ...] = ("none",) if template.system_prompt is None else ("system", "user", "none")
    openings = (opened.open, "") if _opens_exactly(template, prompt, opened.open) else ("",)
    for place, opening in product(places, openings):
        source = "".join(_parts(template, fmt, opened, end_text, place=place, opening=opening))
        if _renders(template, source, [question], prompt + opening, add_generation_prompt=True) and _renders(
            template, source, [question, answer], said, add_generation_prompt=False
        ):
            return source
    return None


def _parts(
    template: ChatTemplate, fmt: ThinkFormat, opened: ThinkFormat, end_text: str, *, place: SystemPlace, opening: str
) -> Iterator[str]:
    """The template's text: that of the training as a macro, and around it what the training adds to it."""
    for name, value in template.kwargs.items():
        yield f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
    own = GENERATION_TAG.sub(_plain_block, source_of(template.tokenizer).removesuffix("\n"))
    yield f"{{%- macro asked(messages, add_generation_prompt) %}}{own}{{% endmacro %}}"
    yield "{%- set turns = messages %}"
    system = template.system_prompt or ""
    if place == "system":
        own_turn = f"[{{'role': 'system', 'content': {_literal(system)}}}]"
        yield f"{{%- if turns[0].role != 'system' %}}{{%- set turns = {own_turn} + turns %}}{{%- endif %}}"
    elif place == "user":
        first = f"{{'role': 'user', 'content': {_literal(system)} + '\\n\\n' + turns[0].content}}"
        yield f"{{%- if turns[0].role == 'user' %}}{{%- set turns = [{first}] + turns[1:] %}}{{%- endif %}}"
    yield "{%- if turns[-1].role == 'assistant' and not add_generation_prompt %}"
    yield from _last_turn(fmt, opened)
    yield "{{- asked(turns[:-1], true) }}"
    yield f"{{%- generation %}}{{{{- said + {_literal(end_text)} }}}}{{%- endgeneration %}}"
    yield "{%- else %}{{- asked(turns, add_generation_prompt) }}"
    if opening:
        yield f"{{%- if add_generation_prompt %}}{{{{- {_literal(opening)} }}}}{{%- endif %}}"
    yield "{%- endif %}"


def _last_turn(fmt: ThinkFormat, opened: ThinkFormat) -> Iterator[str]:
    """What sets `said` to the text of the assistant's turn at the end, without the token that ends it."""
    cue, lead = fmt.cue.strip(), fmt.cue[: len(fmt.cue) - len(fmt.cue.lstrip())]
    yield "{%- set said = turns[-1].content %}{%- if turns[-1].reasoning_content is string %}"
    yield f"{{%- set answer = said if said.startswith({_literal(cue)}) else {_literal(cue + ' ')} + said %}}"
    before, between = _literal(opened.open), _literal(fmt.thinking_end + fmt.close + lead)
    yield f"{{%- set said = {before} + turns[-1].reasoning_content + {between} + answer %}}"
    if fmt.close:
        yield f"{{%- elif {_literal(fmt.close.strip())} not in said %}}"
        yield f"{{%- set said = {_literal(opened.open + fmt.close)} + said %}}"
        yield f"{{%- elif said.startswith({_literal(fmt.open)}) %}}"
        yield f"{{%- set said = {before} + said[{len(fmt.open)}:] %}}"
    yield "{%- endif %}"


def _renders(
    template: ChatTemplate, source: str, messages: list[dict[str, str]], wanted: str, *, add_generation_prompt: bool
) -> bool:
    """Whether a template makes the wanted text of a conversation."""
    try:
        text = rendered(
            template.tokenizer, messages, add_generation_prompt=add_generation_prompt, chat_template=source
        )  # fmt: skip
    except (jinja2.TemplateError, TypeError):
        return False
    return text == wanted


def _opens_exactly(template: ChatTemplate, prompt: str, opening: str) -> bool:
    """Whether prompt and opening have the ids together that they have one by one, as training encodes them."""

    def ids(text: str) -> list[int]:
        return template.tokenizer.encode(text, add_special_tokens=False)

    return ids(prompt + opening) == ids(prompt) + ids(opening)


def _plain_block(found: re.Match[str]) -> str:
    """A tag of the template's own generation block as one without effect, with the same control of whitespace."""
    before, end, after = found.groups()
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


def _literal(value: object) -> str:
    """A value as Jinja reads it."""
    return json.dumps(value, ensure_ascii=False)
