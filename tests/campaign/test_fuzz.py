"""The fault campaign, inputs: odd texts, JSON, tables and settings at every door where strangers' data comes in.

    pytest -m slow -s tests/campaign/test_fuzz.py                       # 150 inputs at each door
    TENNER_CAMPAIGN=667 pytest -m slow -s tests/campaign/test_fuzz.py  # 100,000 at each, and the table
    TENNER_CAMPAIGN_SEED=1000 …                                         # others than those of 1,000 rounds from 0

An input is a good one with something wrong in it; Hypothesis draws what. A door may accept it, or refuse it in one line
by the exception that it documents; anything else is a failure, and so is to compute for longer than `CPU_SECONDS_MAX`.
Doors for models, services and options are in `test_fuzz_models.py`.
"""

import itertools
import json
import random
from contextlib import suppress
from typing import Any

import pytest
from damaged_replies import MESSAGES, body_of
from further_stated_answers import FURTHER_ROWS
from fuzzing import MARKS, ODD_TEXTS, SAYING, Door, Place, damaged, knock, odd_bytes, odd_json, odd_text
from grading_pairs import PAIRS
from stated_answers import ROWS

from tenner import tracing
from tenner.budget import machines, price_files, prices
from tenner.clients import faults, gemini, http, usage
from tenner.clients import openai as chat_client
from tenner.clients.chat_completion import parse_completion
from tenner.clients.faults import Fault
from tenner.clients.protocol import Response
from tenner.clients.thinking import find_thinking
from tenner.commands import grade
from tenner.core import model_folder, recipe
from tenner.core.chat_template import ChatTemplate, set_template
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import Message, Question, Trace, Usage
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Source
from tenner.data import sources
from tenner.distill import labels
from tenner.evaluation.grading.grader import check_reference, grade_after_cue, grade_trace
from tenner.evaluation.statistics import intervals, paired, pass_at_k, scaling
from tenner.inference.server import openai_schema
from tenner.inference.server.openai_schema import APIError
from tenner.inference.server.served_student import ServedStudent

pytestmark = pytest.mark.slow

# -- what is drawn -------------------------------------------------------------------------------------------------

LATEX = (
    r"\boxed{ } { ( ) [ ] \{ \} \left( \right) \frac{ \dfrac \sqrt{ \sqrt[3]{ ^ ^{ _ _{ \cdot \times \pm \div / ! % "
    r"\pi \infty \circ ^\circ \cup \cap \in \le \ge \ne < > = \approx \sin \log \ln \binom{ \overline{ \text{ \textbf{ "
    r"\mathrm{ \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} \\ & \quad \, \! \% \$ $ $$ \( \) \[ \] | , ; : "
    r"1 2 0 -1 12 1,000 0.5 .5 1e9 007 x y e i A B C D (A) a b k n 10^ 2^ ^2 10^{10^{10}} 99999999999 1/0 0^0 "
    r"cm km/h ^2 hours dollars percent million dozen base or and to from not is the answer ∞ √ π ½ ² − × ÷ ≤ ° € 一"  # noqa: RUF001
).split()
JINJA = [
    "{% for m in messages %}", "{% endfor %}", "{{ m['role'] }}", "{{ m['content'] }}", "{{ m.content }}", "{% if ",
    "{% endif %}",
    "add_generation_prompt", " %}", "{{ ", " }}", "messages", "[0]", "[-1]", "['content']", ".content", " + ", "'a'",
    "(", ")",
    "| trim ", "| tojson ", "| nosuch ", "| length ", "{% set x = ", "{% macro f(a) %}", "{% endmacro %}", "{{ f(1) }}",
    "{% generation %}", "{% endgeneration %}", "{% break %}", "{% block a %}", "{% endblock %}", "{% include 'a' %}",
    "namespace()",
    "raise_exception('no')", "strftime_now('%Y')", "range(10)", "loop.index0", "{#", "#}", "{%- ", " -%}", "1 / 0",
    "'a' * 10",
    "9" * 5000, "1e999", "not ", " is defined ", "<think>", "<|im_start|>", "<|im_end|>", "eos_token",
    "enable_thinking", "{% else %}",
]  # fmt: skip


# -- doors ---------------------------------------------------------------------------------------------------------


REFERENCES = {"choice": ["A", "(B)", "c", "J"], "integer": ["0", "-12", "1,000", r"\boxed{7}"], "text": ["no", "“Yes”"]}
"""Reference answers of a kind; others are refused before anything is graded."""


NUMERALS = [
    "7", "12", "0", "-3", "0.5", ".", "1,000", "9" * 20, "9" * 400, "9" * 5000, "1e9", "1e999999999", "٣", "²", "½",
    "二〇二四", "三" * 3000, "x", "x^2", r"\frac{1}{2}", "",
]  # fmt: skip
FORMS = [
    r"0.\overline{A}", "A_{B}", "A_B", "A°B'C\"", r"\frac{A}{B}", "AeB", "A:B", r"A \pmod{B}", r"\sqrt[A]{B}", "A!",
    r"\binom{A}{B}", "A' B\"", "A^{B^{C}}", "A%", "$A", "A cm^B", r"\begin{pmatrix}A&B\\C&A\end{pmatrix}", "(A, B)",
    "[A, B)", "x = A or B", "A million", r"\log_{A}{B}", r"A \cdot 10^{B}", "A/B/C", r"\{A, B\}", "A feet B inches",
    r"|A - B|", r"A \equiv B", "A < x < B", r"\sum_{i=A}^{B} i", "x^{A} + B", r"\lfloor A \rfloor", "Am/s^B", "0xA",
]  # fmt: skip
"""Ways of writing numbers, by each of which another part of the grader reads them."""


KNOWN: dict[str, list[tuple[str, str]]] = {"maths": [pair[:2] for pairs in PAIRS.values() for pair in pairs]}
"""Responses and references that the grader knows, by kind."""
for stated, known, known_kind, _verdict in itertools.chain(*ROWS.values(), *FURTHER_ROWS.values()):
    KNOWN.setdefault(known_kind, []).append((stated, known))


def written_number(draw: random.Random) -> str:
    """One of the forms with numerals in it."""
    text = draw.choice(FORMS)
    for place in "ABC":
        text = text.replace(place, draw.choice(NUMERALS))
    return text


def answers(draw: random.Random, kind: str = "maths") -> tuple[str, str]:
    """A response and a reference answer."""
    response, reference = odd_text(draw, [*LATEX, *LATEX, *SAYING]), odd_text(draw, LATEX, 6)
    if kind in KNOWN and draw.random() < 0.3:
        stated, known = draw.choice(KNOWN[kind])
        return damaged(draw, stated, [*LATEX, *NUMERALS]), damaged(draw, known, [*LATEX, *NUMERALS])
    if draw.random() < 0.3:
        response = written_number(draw)
        reference = draw.choice((reference, response, written_number(draw)))
    if draw.random() < 0.7:
        reference = draw.choice(REFERENCES.get(kind, [reference]))
    match draw.randint(0, 3):
        case 0:
            response = rf"\boxed{{{response}}}"
        case 1:
            response = f"The answer is {response}"
        case 2:
            response += reference
    return response, reference


def graded_as(kind: Any) -> Door:
    def read(given: tuple[str, str], _: Place) -> None:
        response, reference = given
        check_reference(reference, kind)
        grade_trace(response, Question(id="q", question="?", source="s", answer=reference, kind=kind))

    return Door(lambda draw: answers(draw, kind), read)


QUESTION = {"id": "q1", "question": "What is 1 + 1?", "answer": "2", "kind": "maths", "domain": "algebra"}
COLUMNS: list[dict[str, Any]] = [
    {"question": "question", "id": "id", "answer": "answer", "answer_after": "####"},
    {"question": "question", "id": "id", "choices": ["a.1", "domain"]},
]
SOURCE = {
    "name": "own", "file": "rows.jsonl", "where": [{"column": "a.0.b", "equals": 1}], "sample": 1,
    "without": [{"column": "id", "contains": "x"}, {"column": "n", "at_most": 0}], "stratify": ["domain"],
    "kind": "maths",
}  # fmt: skip
ROW = {**QUESTION, "n": 1, "a": [{"b": 1}, "x"]}
TRACE = {
    "id": "q1:0", "question_id": "q1", "sample_index": 0, "teacher": "p/m", "question": "?", "domain": None,
    "thinking": "t",
    "answer": "2", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}],
    "metered": True,
    "outcome": "complete", "reasoning_is_summary": False, "cost_usd": 0.1, "usage": {"input_tokens": 1,
    "output_tokens": 2},
    "grade": {"verdict": "correct", "extracted": "2"},
}  # fmt: skip


def lines_of(draw: random.Random, row: dict[str, Any]) -> bytes:
    end = draw.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\x0b", b"\xe2\x80\xa8"))
    return end.join(odd_json(draw, {**row, "id": f"q{i}"}) for i in range(draw.randint(1, 3))) + b"\n"


def table_of(draw: random.Random) -> bytes:
    """CSV."""
    names = [*QUESTION] if draw.random() < 0.8 else [draw.choice([*QUESTION, *ODD_TEXTS]) for _ in range(4)]
    cells = [[f"{i}", "What?", "2", "maths", "algebra"] for i in range(3)]
    cells[draw.randrange(3)][draw.randrange(5)] = odd_text(draw, [*ODD_TEXTS, '"', ",", "\n", "maths"], 4)
    return odd_bytes(draw, "\n".join(map(",".join, [names, *cells])).encode("utf-8", "surrogatepass"))


def gather(given: tuple[bytes, bytes], place: Place) -> None:
    source, rows = given
    place.write("rows.jsonl", rows)
    try:
        fields = json.loads(source)
        if isinstance(fields, dict) and fields.get("file") == "rows.jsonl":
            fields["file"] = str(place.folder / "rows.jsonl")
        table = Source.model_validate(fields)
    except (ValueError, RecursionError) as e:  # pydantic's among them
        raise TennerError("not a source") from e
    if table.dataset is None:
        sources.check([table])
        sources.gather([table], seed=0)


TOML_LINES = (recipe.built_in()["demo"] + recipe.built_in()["gsm8k-small"].partition("\n\n")[2]).splitlines()
TOML_VALUES = [
    "1", "0", "-1", "1e308", "inf", "-inf", "nan", "9" * 30, "9" * 5000, "1_0", "0x1", '""', '"\\u0000"', '"a"',
    "'''", '"""', "[]",
    "[[1]]", "[" * 300 + "]" * 300, "{}", "{a = 1}", "true", "1979-05-27", "07:32:00", "\\",
    "{a.b.c = 1, a.b.d = [2]}", '"~nobody/x"',
    "{a = " * 300, "0x" + "f" * 5000, "1e-320", "9223372036854775807", "9223372036854775808", '"\\ud800"', "# é",
]  # fmt: skip
RECIPES = [recipe.built_in()["demo"] for _ in range(len(recipe.built_in()))] + [*recipe.built_in().values()]
"""Half of what is drawn of them is the demo: the others' files are not here."""
SETTINGS = [
    "train.lr", "budget_usd", "seed", "name", "student.model", "evaluate.waits", "evaluate.benchmarks",
    "gather.sources", "trace",
    "trace.base_url", "trace.parameters", "trace.price.input_usd_per_mtok", "machine.card", "machine.count",
    "clean.filters", "a.b.c",
    "evaluate.sampling.temperature", "train.tinker.base_url", "student.chat_template", "select.samples", "..", "",
    "attempt.prompts.0",
]  # fmt: skip


def settings_of(draw: random.Random) -> tuple[str, list[str]]:
    """A recipe's text and overrides."""
    lines = draw.choice(RECIPES).splitlines()
    for _ in range(draw.randint(0, 3)):
        place = draw.randrange(len(lines))
        name, equals, _ = lines[place].partition("=")
        match draw.randint(0, 4):
            case 0:
                lines.insert(place, draw.choice(TOML_LINES))
            case 1:
                del lines[place]
            case 2:
                lines[place] = odd_text(
                    draw, [*TOML_VALUES, "[", "]", "=", ".", "a", "[[gather.sources]]", "[trace]", "\n"], 5
                )
            case _:
                lines[place] = f"{name}{equals or '='} {draw.choice(TOML_VALUES)}"
    overrides = [
        draw.choice(SETTINGS) + draw.choice(("=", "=", "=", "")) + draw.choice([*TOML_VALUES, *ODD_TEXTS])
        for _ in range(draw.randint(0, 2))
    ]
    return "\n".join(lines), overrides


def describe(given: tuple[str, list[str]], _: Place) -> None:
    text, overrides = given
    described = recipe.parse(text, where="recipe", overrides=overrides)
    assert recipe.parse(described.to_toml(), where="its copy") == described


CHAT: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text",
    "text": "Hi"}]}],
    "max_tokens": 300, "temperature": 0.7, "top_p": 0.9, "seed": 1, "n": 2, "stop": ["\n", "x"], "stream": True,
    "stream_options": {"include_usage": True},
    "chat_template_kwargs": {"enable_thinking": True},
    "logit_bias": {}, "top_k": 0, "response_format": {"type": "text"}, "tools": [],
}  # fmt: skip
BUDGETS: list[dict[str, Any]] = [
    {"thinking": {"max_tokens": 64, "min_tokens": 4, "waits": 1, "early_exit": {"every_tokens": 8, "agree": 2}}},
    {"reasoning": {"effort": "high", "max_tokens": 3, "enabled": True}}, {"thinking_budget": 5},
    {"enable_thinking": True}, {"reasoning_effort": "low"},
]  # fmt: skip


def ask(body: bytes, place: Place) -> None:
    chat = openai_schema.parse(body)
    chat.limits(
        ServedStudent("tiny", place.folder, FORMATS["s1"], None, "Wait", 256, 64, keeps_history=True),
        injected_tokens_max=7,
    )
    chat.samplings() if (chat.n or 1) < 100 else None
    template = ChatTemplate(place.tokenizer, kwargs=chat.template_kwargs(["enable_thinking"]))
    template.prompt(chat.conversation)


USAGES: list[dict[str, Any]] = [
    {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50,
    "completion_tokens_details": {"reasoning_tokens": 9},
     "prompt_tokens_details": {"cached_tokens": 3}, "cost": 0.1},
    {"input_tokens": 20, "output_tokens": 30, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0},
    {"inputTokens": 20, "outputTokens": 30, "totalTokens": 50, "cacheReadInputTokens": 1},
]  # fmt: skip
ERRORS: list[dict[str, Any]] = [
    {"error": {"message": "no", "type": "t", "code": "rate_limit_exceeded",
    "metadata": {"raw": "try again in 1m2.5s"}}},
    {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m", "details": [
        {"violations": [{"quotaId": "PerDay", "quotaMetric": "m"}]}, {"retryDelay": "9s",
        "reason": "API_KEY_INVALID"}]}},
    {"base_resp": {"status_code": 1008, "status_msg": "no"}}, {"detail": [{"msg": "no"}]}, {"code": "400",
    "message": "m"},
]  # fmt: skip
PRICE = prices.Price("p", "m", 1.0, 2.0, "s", price_files.utc_day(), cached_input_usd_per_mtok=0.5)
GENERATION = {
    "candidates": [{"content": {"parts": [{"text": "t", "thought": True}, {"text": "a"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 7, "totalTokenCount": 15},
    "promptFeedback": {"blockReason": ""},
}  # fmt: skip


def completion(draw: random.Random) -> bytes:
    """The body of a chat completion: whole, as a stream, or an error."""
    fields = json.loads(body_of(draw.choice(list(MESSAGES.values())), draw.choice(["stop", "length", "error", None])))
    fields["usage"] = draw.choice(USAGES)
    if draw.random() < 0.1:
        fields = draw.choice(ERRORS)
    if draw.random() < 0.6:
        return odd_json(draw, fields, MARKS)
    choice = fields.get("choices", [{}])[0]
    chunks = [{"choices": [{"index": 0, "delta": choice.get("message")}]} for _ in range(draw.randint(1, 3))]
    events = [odd_json(draw, chunk, MARKS) for chunk in [*chunks, fields]]
    return b"\n\n".join(b"data: " + event for event in [*events, b"[DONE]"][: draw.randint(1, 9)])


def receive(body: bytes, _: Place) -> None:
    response = http.checked(Response(body, "application/json"))
    cost(parse_completion(response).usage)


def cost(used: Usage) -> None:
    if used.input_tokens is not None and used.output_tokens is not None:
        assert PRICE.microusd(used) >= 0


def count(body: bytes, _: Place) -> None:
    fields = json.loads(body)
    if isinstance(fields, dict):
        cost(usage.chat_usage(fields, text_chars=100))
        cost(usage.claimed_usage(fields))
        usage.charged_usd(fields)


def fail(given: tuple[int, str, bytes], _: Place) -> None:
    status, header, body = given
    headers = {"retry-after": header, "location": header}
    raise faults.from_status(status, headers, body.decode("utf-8", "replace"))


RETRIES = [
    "1", "-1", "1e999", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 01 Jan 0001 00:00:00 +9999",
    "Mon, 99 Jan 99999 99:99:99 +" + "9" * 30,
    "https://a.b/c?k=1", "https://[", "//", "http://a:99999999/",
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
)


def ask_by_template(source: str, place: Place) -> None:
    path = place.write("template.jinja", source.encode("utf-8", "surrogatepass"))
    own = place.tokenizer.chat_template
    try:
        set_template(place.tokenizer, str(path))
        template = ChatTemplate(place.tokenizer, system_prompt="Be brief.", kwargs={"enable_thinking": True})
        with suppress(TennerError):
            template.check(*FORMATS.values())
        with suppress(TennerError):
            template.turn_end_id(frozenset({2}))
        template.prompt([Message(role="user", content="1 <|im_end|> 2")])
    finally:
        place.tokenizer.chat_template = own


PRICE_LINES = [
    "[[price]]", 'provider = "p"', 'model = "m"', "input_usd_per_mtok = 1.0", "output_usd_per_mtok = 2.0",
    'source = "s"',
    "checked = 2026-01-01", "[[machine]]", 'provider = "p"', 'card = "h100"', "low_usd_per_hour = 1.0",
    "high_usd_per_hour = 2.0",
    'source = "s"', "checked = 2026-01-01", "[card.mine]", 'name = "m"', 'device_name = "d"', "memory_gb = 1.0",
    "peak_tflops = 1.0",
    "bandwidth_gb_per_second = 1.0",
]  # fmt: skip
PRICE_EXTRAS = [
    "peak = {multiplier = 2.0, hours_utc = [[1, 4]], weekdays = [0]}",
    "long_prompt = {above_tokens = 5, multiplier = 2.0}",
    "until = 2026-12-31", "since = 2026-02-01", "batch_multiplier = 0.5",
    "peak = {multiplier = 2.0, hours_utc = [[], [1]], weekdays = [9]}",
]  # fmt: skip


def price_list(draw: random.Random) -> bytes:
    lines = list(PRICE_LINES)
    lines.insert(7, draw.choice(PRICE_EXTRAS))
    for _ in range(draw.randint(1, 2)):
        place = draw.randrange(len(lines))
        name, equals, _ = lines[place].partition("=")
        lines[place] = (
            f"{name}{equals or '='} {draw.choice(TOML_VALUES)}" if draw.random() < 0.8 else draw.choice(TOML_VALUES)
        )
    return odd_bytes(draw, "\n".join(lines).encode())


def look_up(data: bytes, _: Place) -> None:
    path = price_files.user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        prices.load_prices()
        machines.offers()
        prices.find("p", "m").microusd(Usage(input_tokens=9, output_tokens=9))
        machines.price_usd_per_hour("h100", 8)
    finally:
        path.unlink()


def numbers(draw: random.Random) -> list[float]:
    """Shares, counts and tokens, as evaluations of any size have them."""
    few = [0.0, 1.0, 0.5, 1 / 3, 2 / 3, 0.1 + 0.2, 1.0, draw.random()]
    return [draw.choice(few) for _ in range(draw.choice((0, 1, 2, 3, 5, 30)))]


def compute(given: tuple[list[float], list[float], int, int], _: Place) -> None:
    shares, others, k, n = given
    for statistic in (
        lambda: intervals.clustered(shares),
        lambda: intervals.wilson(sum(shares), n),
        lambda: paired.compare(
            {str(i): [s > 0.5] * (1 + k % 2) for i, s in enumerate(shares)},
            {str(i): [s > 0.6] for i, s in enumerate(others)},
        ),
        lambda: pass_at_k.pass_at(k, correct=sum(s > 0.5 for s in shares), n=n),
        lambda: pass_at_k.majority_at(k, [s or None for s in shares], 1.0),
        lambda: scaling.scaling([scaling.Point(t * 10**k, s) for t, s in zip(others, shares, strict=False)]),
        lambda: scaling.control([scaling.Bounded(t, 1) for t in others]),
    ):
        with suppress(ValueError):
            statistic()


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 100,
    "text_config": {"hidden_size": 64}, "layer_types": ["full_attention"], "head_dim": 16, "intermediate_size": 128,
}  # fmt: skip
RESULT = {
    "custom_id": "k",
    "response": {"status_code": 200, "body": json.loads(body_of(MESSAGES["reasoning"]))},
    "error": None,
}


def message_of(draw: random.Random) -> dict[str, Any]:
    message = dict(draw.choice(list(MESSAGES.values())))
    content = message.get("content")
    if isinstance(content, str) and draw.random() < 0.7:
        message["content"] = draw.choice((content, "")) + odd_text(draw, MARKS)
    found = json.loads(odd_json(draw, message, MARKS).decode("utf-8", "replace")) if draw.random() < 0.3 else message
    return found if isinstance(found, dict) else message


def _message(draw: random.Random) -> dict[str, Any]:
    while True:
        with suppress(ValueError):
            return message_of(draw)


DOORS: dict[str, Door] = {
    "grade: maths": graded_as("maths"),
    "grade: choice": graded_as("choice"),
    "grade: integer": graded_as("integer"),
    "grade: text": graded_as("text"),
    "grade: after a cue": Door(answers, lambda g, _: grade_after_cue(*g, cue="Answer:")),
    "grade: rows of a file": Door(
        lambda draw: lines_of(draw, {"id": "1", "response": "2", "answer": "2", "kind": "maths"}),
        lambda data, place: grade.read_rows(place.write("rows.jsonl", data)),
    ),
    "questions: JSONL": Door(
        lambda draw: lines_of(draw, QUESTION), lambda data, place: tracing.check_questions(place.write("q.jsonl", data))
    ),
    "questions: CSV": Door(table_of, lambda data, place: tracing.check_questions(place.write("q.csv", data))),
    "questions: a source": Door(
        lambda draw: (odd_json(draw, {**SOURCE, "columns": draw.choice(COLUMNS)}), lines_of(draw, ROW)), gather
    ),
    "traces": Door(
        lambda draw: lines_of(draw, TRACE),
        lambda data, place: RunFolder(place.write("traces.jsonl", data).parent).read("traces", Trace),
    ),
    "recipe and --set": Door(settings_of, describe),
    "chat request": Door(
        lambda draw: odd_json(draw, {**CHAT, **draw.choice(BUDGETS)}), ask, (TennerError, APIError)
    ),
    "reply: chat completion": Door(completion, receive, (Fault,)),
    "reply: Gemini": Door(
        lambda draw: odd_json(draw, GENERATION, MARKS),
        lambda body, _: cost(gemini.parse_generation(Response(body, "application/json")).usage),
    ),
    "reply: usage": Door(lambda draw: odd_json(draw, draw.choice(USAGES)), count, (ValueError, RecursionError)),
    "reply: error": Door(
        lambda draw: (draw.choice((302, 400, 401, 408, 429, 500, 503)), draw.choice(RETRIES), odd_json(draw,
        draw.choice(ERRORS))),
        fail, (Fault,),
    ),
    "reply: line of a batch": Door(
        lambda draw: odd_json(draw, RESULT, MARKS), lambda line, _: chat_client.read_result(line), (ValueError,)
    ),
    "reply: thinking": Door(_message, lambda message, _: find_thinking(message)),
    "reply: a label": Door(lambda draw: odd_text(draw, [*MARKS, "11", "03\n"]), lambda text, _: labels.parse(text)),
    "chat template": Door(
        lambda draw: draw.choice((TEMPLATE, "")) + odd_text(draw, JINJA) + draw.choice((TEMPLATE, "")), ask_by_template
    ),
    "price file": Door(price_list, look_up),
    "config.json": Door(
        lambda draw: odd_json(draw, CONFIG), lambda data, place: model_folder.check(place.write("config.json",
        data).parent)
    ),
    "statistics": Door(
        lambda draw: (numbers(draw), numbers(draw), draw.choice((0, 1, 2, 5, 30)), draw.choice((0, 1, 30, 10_000))),
        compute
    ),
}  # fmt: skip

# -- the campaign --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOORS)
def test_an_input_is_accepted_or_refused_in_one_line(name, place, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.folder / "config"))
    knock(name, DOORS[name], place)
