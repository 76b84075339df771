"""A chat template that writes today's date, made to write that of one day: a run asks alike however long it takes."""

import json
from datetime import date

import jinja2.nodes

from tenner.core.chat_template import parsed

FUNCTION = "strftime_now"
"""What transformers gives to templates, and those of Llama 3, gpt-oss and SmolLM3 call."""


def with_date(source: str, day: date) -> str | None:
    """The template with its dates fixed; None where it writes none, or in a format that it computes or that is none."""
    calls = [call for call in parsed(source).find_all(jinja2.nodes.Call) if _is_named(call.node)]
    formats = [a.value for call in calls for a in call.args if isinstance(a, jinja2.nodes.Const)]
    if not formats or len(formats) != len(calls) or not all(isinstance(wanted, str) for wanted in formats):
        return None
    try:
        dates = json.dumps({wanted: day.strftime(wanted) for wanted in formats}, ensure_ascii=False)
    except ValueError:  # half a character in it, or a letter that this system does not know
        return None
    # The end of the line goes with the tag before it, and the template begins on a line of its own, as it did.
    return f"{{%- macro {FUNCTION}(format) %}}{{{{- ({dates})[format] }}}}{{%- endmacro %}}\n{source}"


def _is_named(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, jinja2.nodes.Name) and node.name == FUNCTION
