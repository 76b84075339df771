"""The data of the report's sample browser: a small index to filter by, and the texts in compressed chunks.

The page reads the index when it opens and unpacks a chunk when a row of it is opened or a word is searched for, so
thousands of samples open at once and stay in one file. Everything is data for the page's script, which shows it as
text: nothing of it is ever parsed as HTML.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tenner.core.policy_text import waits
from tenner.core.records import Policy
from tenner.evaluation.report.answers import Answer, Answered, Segment
from tenner.evaluation.report.facts import RunFacts
from tenner.evaluation.report.tables import NAMES, limit
from tenner.evaluation.statistics.scores import policy_order

BYTES_MAX = 12_000_000
"""The compressed texts' share of a page that stays under 15 MB."""
CHUNK_QUESTIONS = 25
EXCERPT_CHARACTERS = 160
CHARACTERS_MAX = (None, 20_000, 6_000, 2_000, 600)
"""Tried in turn: how much of a long stretch of text is kept, half from its beginning and half from its end."""
LEFT_OUT = -1
"""Stands in a text where its middle was left out, with the number of characters."""


class Browser(NamedTuple):
    """What the page embeds. `listing` and `chunks` are JSON that may stand in a script element."""

    listing: str
    chunks: str
    notes: Sequence[str]
    """What of the run's answers is not in it."""


def browser(facts: RunFacts, *, bytes_max: int = BYTES_MAX) -> Browser | None:
    """The browser's data; None for a run whose answers cannot be shown.

    Where the texts would be larger than `bytes_max`, the middle of long ones is left out, and in the end the last
    questions; `notes` say so.
    """
    shown = facts.answered
    if not shown:
        return None
    notes = []
    if any(s.samples > 1 for s in facts.scores):
        notes.append("Of several answers to a question the first is shown.")
    for characters_max in CHARACTERS_MAX:
        chunks = [_chunk(part, characters_max) for part in _parts(shown)]
        if sum(map(len, chunks)) <= bytes_max:
            break
    if characters_max is not None:
        notes.append(
            f"Stretches of more than {characters_max:,} characters are shortened in the middle; completions.jsonl in "
            "the run folder has them whole."
        )
    while sum(map(len, chunks)) > bytes_max:
        chunks.pop()
    if len(chunks) * CHUNK_QUESTIONS < len(shown):
        kept = len(chunks) * CHUNK_QUESTIONS
        notes.append(f"The first {kept:,} of {len(shown):,} questions are shown, since a page holds no more.")
        shown = shown[:kept]
    return Browser(script_json(_index(facts, shown)), script_json(chunks), notes)


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: ASCII only, and no character that could end the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _parts(shown: Sequence[Answered]) -> Iterable[Sequence[Answered]]:
    return (shown[i : i + CHUNK_QUESTIONS] for i in range(0, len(shown), CHUNK_QUESTIONS))


def _index(facts: RunFacts, shown: Sequence[Answered]) -> dict[str, Any]:
    """What the list shows and filters by: a row for each question, with numbers for benchmark, family and policy."""
    tasks = list(dict.fromkeys(q.task for q in shown))
    families = sorted({q.domain for q in shown if q.domain is not None})
    policies = sorted({a.policy for q in shown for a in (*q.before, *q.after)}, key=policy_order)
    number = {policy: i for i, policy in enumerate(policies)}
    headline = {b.name: [number.get(b.before.policy, -1), number.get(b.after.policy, -1)] for b in facts.benchmarks}
    return {
        "names": [NAMES["base"], NAMES["distilled"]],
        "tasks": tasks,
        "families": families,
        "policies": [_label(policy) for policy in policies],
        "headline": [headline[task] for task in tasks],
        "chunk": CHUNK_QUESTIONS,
        "rows": [
            [
                tasks.index(q.task),
                -1 if q.domain is None else families.index(q.domain),
                q.question_id,
                _excerpt(q.question),
                [[_facts(a, number) for a in side] for side in (q.before, q.after)],
            ]
            for q in shown
        ],
    }


def _label(policy: Policy) -> str:
    return f"{limit(policy)}, {waits(policy)}" if policy.waits else limit(policy)


def _excerpt(question: str) -> str:
    line = " ".join(question.split())
    return line if len(line) <= EXCERPT_CHARACTERS else f"{line[: EXCERPT_CHARACTERS - 1]}…"


def _facts(answer: Answer, number: dict[Policy, int]) -> list[Any]:
    cuts = answer.thinking_cut + 2 * answer.answer_cut
    return [number[answer.policy], answer.verdict, answer.thinking_tokens, cuts]


def _chunk(questions: Sequence[Answered], characters_max: int | None) -> str:
    """The texts of some questions, deflated and in base64: question, reference, and each answer as pairs of kind and
    text. A kind is 1 for forced tokens, plus 2 for those of the answer; `LEFT_OUT` for a number of characters.
    """
    rows = [
        [
            _shortened(q.question, characters_max),
            _shortened(q.reference, characters_max),
            [[_texts(a.segments, characters_max) for a in side] for side in (q.before, q.after)],
        ]
        for q in questions
    ]
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(json.dumps(rows, separators=(",", ":")).encode()) + deflate.flush()
    return b64encode(packed).decode()


def _texts(segments: Sequence[Segment], characters_max: int | None) -> list[list[Any]]:
    found = []
    for s in segments:
        kind = s.forced + 2 * (s.part == "answer")
        found += [pair if pair[0] == LEFT_OUT else [kind, pair[1]] for pair in _shortened(s.text, characters_max)]
    return found


def _shortened(text: str, characters_max: int | None) -> list[list[Any]]:
    """Pairs of kind and text: the text, or its two ends with the number of characters that lie between them."""
    if characters_max is None or len(text) <= characters_max:
        return [[0, text]]
    half = characters_max // 2
    return [[0, text[:half]], [LEFT_OUT, len(text) - 2 * half], [0, text[-half:]]]
