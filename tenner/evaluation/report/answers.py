"""Answers to look at: completions decoded into stretches that tell thinking from answer and forced from sampled."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.policy_text import waits
from tenner.core.records import Completion, Policy, Question, Score
from tenner.evaluation.statistics.scores import policy_order

Part = Literal["thinking", "answer"]


class Segment(NamedTuple):
    """A stretch of a completion; `forced` was put in by the forcing machine and not chosen by the student."""

    text: str
    part: Part
    forced: bool


class Example(NamedTuple):
    """One completion to look at."""

    question: str
    reference: str
    segments: Sequence[Segment]
    verdict: str
    policy_label: str


class Answer(NamedTuple):
    """A student's first answer to a question under one policy."""

    policy: Policy
    verdict: str
    thinking_tokens: int
    thinking_cut: bool
    answer_cut: bool
    segments: Sequence[Segment]


class Answered(NamedTuple):
    """A benchmark question and what both students answered, each in the prompt form of the headline."""

    task: str
    question_id: str
    question: str
    reference: str
    domain: str | None
    before: Sequence[Answer]
    """The untrained student's, by policy."""
    after: Sequence[Answer]
    """The distilled student's, by policy."""


class Decoder:
    """Turns the token ids of completions into segments."""

    def __init__(self, tokenizer: Tokenizer, think_format: ThinkFormat) -> None:
        self._tokenizer = tokenizer
        self._close_tokens = len(tokenizer.encode(think_format.close, add_special_tokens=False))

    def segments(self, c: Completion) -> Iterator[Segment]:
        """The completion without its delimiters, in stretches of the same part and origin."""
        forced = {p for i in c.interventions for p in range(i.position, i.position + i.tokens)}
        thinking_start = sum(i.tokens for i in c.interventions if i.kind == "open")
        assert c.thinking_tokens is not None, "an engine counts"
        answer_start = thinking_start + c.thinking_tokens + self._close_tokens
        parts: dict[int, Part] = {}
        parts |= dict.fromkeys(range(thinking_start, thinking_start + c.thinking_tokens), "thinking")
        parts |= dict.fromkeys(range(answer_start, len(c.token_ids)), "answer")
        for (part, is_forced), run in groupby(sorted(parts), key=lambda p: (parts[p], p in forced)):
            text = self._tokenizer.decode([c.token_ids[p] for p in run], skip_special_tokens=False)
            yield Segment(text, part, is_forced)


def examples(
    questions: Mapping[str, Question], completions: Sequence[Completion], decoder: Decoder
) -> Iterator[Example]:
    """Up to three questions of different domains: one cut short, one that ended its thinking, one with a wait."""
    distilled = [c for c in completions if c.student == "distilled"]
    shown = [(c, [i.kind for i in c.interventions]) for c in distilled if c.thinking_tokens]
    wanted = (
        [c for c, kinds in shown if "cut" in kinds],
        [c for c, kinds in shown if not {"cut", "wait", "exit", "grace"} & set(kinds)],
        [c for c, kinds in shown if "wait" in kinds],
    )
    place = {question_id: i for i, question_id in enumerate(questions)}
    used: set[tuple[str, str | None]] = set()
    for candidates in wanted:
        # In the order of the benchmark: an example is not picked for its verdict.
        for c in sorted(candidates, key=lambda c: place[c.question_id]):
            question = questions[c.question_id]
            if (c.task, question.domain) not in used:
                used.add((c.task, question.domain))
                yield Example(
                    question=question.question,
                    reference=question.answer or "",
                    segments=list(decoder.segments(c)),
                    verdict=c.grade.verdict,
                    policy_label=f"at most {c.policy.thinking_tokens_max} tokens, {waits(c.policy)}",
                )
                break


def answered(
    questions: Sequence[Question],
    completions: Sequence[Completion],
    headlines: Sequence[tuple[Score, Score]],
    decoder: Decoder,
) -> list[Answered]:
    """The questions in the order of the benchmarks; `headlines` are each benchmark's scores before and after."""
    wanted = {(s.task, s.student, s.prompt) for pair in headlines for s in pair}
    given: dict[tuple[str, str, str], list[Completion]] = {}
    for c in completions:
        if (c.task, c.student, c.prompt) in wanted and c.sample_index == 0:
            given.setdefault((c.task, c.question_id, c.student), []).append(c)
    found = []
    for task in (before.task for before, _ in headlines):
        for q in questions:
            sides = [
                [_answer(c, decoder) for c in sorted(own, key=lambda c: policy_order(c.policy))]
                for own in (given.get((task, q.id, student), []) for student in ("base", "distilled"))
            ]
            if any(sides):
                found.append(Answered(task, q.id, q.question, q.answer or "", q.domain, *sides))
    return found


def _answer(c: Completion, decoder: Decoder) -> Answer:
    return Answer(
        policy=c.policy,
        verdict=c.grade.verdict,
        thinking_tokens=c.thinking_tokens or 0,
        thinking_cut=any(i.kind == "cut" for i in c.interventions),
        answer_cut=c.truncated,
        segments=list(decoder.segments(c)),
    )
