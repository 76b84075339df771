"""Turns the rows of sources into questions: conditions, columns, samples and counts."""

import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tenner.core.errors import TennerError
from tenner.core.records import Drop, Question, SourceCount
from tenner.core.references import is_reference, reference_text
from tenner.core.sections import Condition, Source, Table
from tenner.core.seeds import digest, rng
from tenner.data import rows
from tenner.data.rows import NoColumn, Row, value_of

WORDS_SHOWN = 4
IDS_HINT = 'give every question an id of its own, or set columns.id = "" for ids made of the questions'
ID_CHARS = 16  # of the SHA-256 of the question, as s1 has it


class Gathered(NamedTuple):
    """The pool, the rows that were dropped, and the counts by source."""

    questions: list[Question]
    dropped: list[Drop]
    counts: list[SourceCount]
    notes: list[str]
    """Of each source with an answer column: how many of its questions have no reference answer, and what they have."""


def check(sources: Sequence[Table]) -> None:
    """Check, before anything is read, that all sources can be read. Raises TennerError if not."""
    for source in sources:
        rows.check(source)


def gather(sources: Sequence[Table], *, seed: int) -> Gathered:
    """Read all sources. Of questions with the same id the first stays.

    Raises:
        TennerError: a source cannot be read, lacks a column, or has another number of questions than expected.
    """
    questions: dict[str, Question] = {}
    dropped: list[Drop] = []
    counts: list[SourceCount] = []
    notes: list[str] = []
    for source in sources:
        without: Counter[str] = Counter()
        found, read = _questions(source, seed, dropped, without)
        if source.expect is not None and len(found) != source.expect:
            raise TennerError(
                f"source {source.name}: {len(found):,} questions, where {source.expect:,} are expected",
                hint="pin its revision, or change expect",
            )
        for q in found:
            if q.id in questions:
                owner = questions[q.id].source
                if _has_own_id(source, q):
                    raise TennerError(
                        f"source {source.name}: the id {q.id} is that of a question of {owner}, too", hint=IDS_HINT
                    )
                dropped.append(
                    Drop(id=q.id, reason="id taken", evidence=f"{q.source}: {owner} has a question of this id")
                )
            else:
                questions[q.id] = q
        if without:
            words = ", ".join(f"{said} {count:,}" for said, count in without.most_common(WORDS_SHOWN))
            more = ", …" if len(without) > WORDS_SHOWN else ""
            total = f"{without.total():,} of {read:,} rows have no reference answer"
            notes.append(f"source {source.name}: {total}: {words}{more}")
        where = source.file or f"{source.dataset}" + (f"@{source.revision}" if source.revision else "")
        counts.append(
            SourceCount(
                source=source.name, where=where, license=source.license, rows=read, questions=len(found),
                published=source.published, without_reference=without.total(),
            )
        )  # fmt: skip
    return Gathered(list(questions.values()), dropped, counts, notes)


def _questions(source: Table, seed: int, dropped: list[Drop], without: Counter[str]) -> tuple[list[Question], int]:
    """The questions of a source, and its number of rows. `without` counts what stands in place of a reference."""
    found: list[tuple[Question, tuple[str, ...]]] = []
    number, places = 0, dict[str, int]()
    for number, row in enumerate(rows.read(source), 1):
        try:
            if not all(_holds(source, row, c) for c in source.where) or any(
                _holds(source, row, c) for c in source.without
            ):
                continue
            text = _text(source, row)
            if not text.strip():
                evidence = f"{source.name}, row {number} has no question"
                dropped.append(Drop(id=digest(source.name, number)[:ID_CHARS], reason="no question", evidence=evidence))
                continue
            stratum = tuple(str(value_of(source, row, column)) for column in source.stratify)
            question = _question(source, row, text, seed, without)
        except NoColumn as e:
            if not found:  # all of its rows lack it, as far as one can see
                raise
            raise TennerError(
                f"source {source.name}: row {number:,} has no column {e.column}, which others have", hint=e.hint
            ) from e
        if _has_own_id(source, question):
            _refuse_repeated(source, question.id, number, places)
        found.append((question, stratum))
    if source.sample is None:
        return [q for q, _ in found], number
    return list(_sample(found, source, seed)), number


def _sample(found: list[tuple[Question, tuple[str, ...]]], source: Table, seed: int) -> Iterator[Question]:
    """A sample by seeded hash, in proportion to the strata; rounding is by largest remainders."""
    assert source.sample is not None
    if source.sample > len(found):
        raise TennerError(f"source {source.name}: {len(found):,} questions are fewer than sample = {source.sample:,}")
    strata: dict[tuple[str, ...], list[Question]] = defaultdict(list)
    for q, stratum in sorted(found, key=lambda pair: digest(seed, "sample", source.name, pair[0].id)):
        strata[stratum].append(q)
    shares = {name: len(of) * source.sample / len(found) for name, of in sorted(strata.items())}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: source.sample - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        yield from strata[name][:count]


def _question(source: Table, row: Row, text: str, seed: int, without: Counter[str]) -> Question:
    columns = source.columns

    def optional(column: str | None) -> str | None:
        return None if column is None else _as_text(source, value_of(source, row, column), column)

    answer, kind = _reference(source, row), source.kind
    if answer is not None and columns.answer_after is not None:
        answer = answer.rpartition(columns.answer_after)[2].strip()
    missing = "empty"
    if columns.choices:
        text, answer, missing = _with_choices(source, row, text, seed)
        kind = kind or "choice"
    if (columns.choices or columns.answer is not None) and not is_reference(answer, kind):
        without[missing if answer is None or not answer.strip() else repr(answer)] += 1
        answer = None
    id_ = optional(_id_column(source, row))
    return Question(
        id=id_ or digest(text)[:ID_CHARS],
        question=text,
        answer=answer,
        kind=kind,
        domain=source.domain or optional(columns.domain),
        source=source.name,
        solution=optional(columns.solution),
        origin=source.origin or optional(columns.origin),
        license=source.license,
    )


def _id_column(source: Table, row: Row) -> str | None:
    """The column of the ids. A file of one's own has them in `id`, without a word in the recipe."""
    if source.columns.id is None and _is_own_file(source) and "id" in row:
        return "id"
    return source.columns.id or None


def _has_own_id(source: Table, question: Question) -> bool:
    """Whether its id stands in a file of one's own, and is not made of its text."""
    return _is_own_file(source) and question.id != digest(question.question)[:ID_CHARS]


def _is_own_file(source: Table) -> bool:
    """Whether it is a source of questions to learn from, in a file on this machine."""
    return isinstance(source, Source) and source.file is not None and not rows.is_url(source.file)


def _refuse_repeated(source: Table, id_: str, number: int, places: dict[str, int]) -> None:
    """Raise TennerError for an id that an earlier row of the file has; `places` holds the number of each id's row."""
    if id_ in places:
        raise TennerError(
            f"source {source.name}: rows {places[id_]:,} and {number:,} of {source.file} have the same id {id_}",
            hint=IDS_HINT,
        )
    places[id_] = number


def _reference(source: Table, row: Row) -> str | None:
    """The reference answer as text, which may be none (see `references.is_reference`)."""
    column = source.columns.answer
    if column is None:
        return None
    value = value_of(source, row, column)
    try:
        return reference_text(value)
    except ValueError:
        return _as_text(source, value, column)


def _text(source: Table, row: Row) -> str:
    """The text of the question: a column, or several columns in a template."""
    if source.columns.question is not None:
        return _as_text(source, value_of(source, row, source.columns.question), source.columns.question) or ""
    assert source.template is not None, "validated in the recipe"
    parts = []
    for literal, column, _, _ in string.Formatter().parse(source.template):
        parts.append(literal)
        if column is not None:
            parts.append(_as_text(source, value_of(source, row, column), column) or "")
    return "".join(parts).strip()


def _with_choices(source: Table, row: Row, text: str, seed: int) -> tuple[str, str | None, str]:
    """The question with its choices appended in a seeded order, as in s1, and the letter of the first; None where that
    would tell nothing, and why.
    """
    of_columns = [_as_text(source, value_of(source, row, column), column) or "" for column in source.columns.choices]
    choices = {i: stripped for i, choice in enumerate(of_columns) if (stripped := choice.strip())}
    order = list(choices)
    rng(seed, "choices", digest(text)).shuffle(order)
    letters = dict(zip(order, string.ascii_uppercase, strict=False))
    lines = [f"({letter}) {choices[i]}" for i, letter in letters.items()]
    text = f"{text}\nAnswer Choices:\n" + "\n".join(lines)

    right = choices.pop(0, None)
    if right is None:
        return text, None, "empty"
    if not choices:
        return text, None, "no other choice"
    if right in choices.values():
        return text, None, "right choice repeated"
    return text, letters[0], ""


def _as_text(source: Table, value: Any, column: str) -> str | None:
    """Text as it is, a number as text, a list of texts as lines."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    raise TennerError(
        f"source {source.name}: column {column} holds a {type(value).__name__}, which is not text",
        hint=f"name an element of it, such as {column}.{next(iter(value), 0) if isinstance(value, dict) else 0}"
        if isinstance(value, list | dict)
        else "convert it to text",
    )


def _holds(source: Table, row: Row, condition: Condition) -> bool:
    value = value_of(source, row, condition.column)
    if condition.is_null is not None:
        return (value is None) == condition.is_null
    if condition.equals is not None:
        return bool(value == condition.equals)
    if condition.one_of is not None:
        return value in condition.one_of
    if condition.contains is not None:
        return isinstance(value, str | list) and condition.contains in value
    assert condition.at_most is not None
    return isinstance(value, int | float) and value <= condition.at_most
