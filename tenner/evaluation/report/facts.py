"""Everything that the report says, read from the run folder: nothing is written, nothing computed twice."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Literal

from tenner.budget.ledger import read_spend
from tenner.core.formats import FORMATS, Tokenizer
from tenner.core.provenance import recorded
from tenner.core.recipe import Recipe
from tenner.core.records import (
    Completion,
    Counterfactual,
    Drop,
    Question,
    Sample,
    Score,
    Setting,
    SourceCount,
    TrainStep,
)
from tenner.core.run_folder import RunFolder
from tenner.evaluation.report import published
from tenner.evaluation.report.pages import Example, FunnelRow, RunFacts, Segment, SourceRow
from tenner.evaluation.report.score_tables import evaluation_usd
from tenner.evaluation.statistics.scores import before_and_after, compare
from tenner.evaluation.statistics.test_time_compute import answer_prices, sweeps, votes_at_equal_compute

ORIGINS_SHOWN = 8
FUNNEL = {"gather", "clean", "select", "trace", "verify"}


def collect(folder: RunFolder, recipe: Recipe, tokenizer: Tokenizer, *, stages: tuple[str, ...]) -> RunFacts:
    """The facts of a run whose evaluation is done; `tokenizer` is the student's, to show its tokens."""
    scores, completions = folder.read("scores", Score), folder.read("heldout", Completion)
    before, after = before_and_after(scores)
    spend = read_spend(folder.path / "run.db")
    machine_usd = evaluation_usd(spend)
    return RunFacts(
        title=recipe.name,
        base_model=recipe.student.base_model,
        license=recipe.student.license,
        think_format=FORMATS[recipe.student.format],
        system_prompt=recipe.student.system_prompt,
        recipe_toml=recipe.to_toml(),
        provenance=recorded(folder),
        funnel=[_funnel_row(folder, stage) for stage in recipe.stages if stage in FUNNEL],
        counterfactual=folder.read("counterfactual", Counterfactual)[0].sentence,
        sources=_sources(folder),
        spend=spend,
        budget_usd=recipe.budget_usd,
        seconds=sum(done.seconds for stage in stages if (done := folder.done(stage))),
        samples_count=len(folder.read("samples", Sample)),
        scores=scores,
        comparison=compare(completions, before, after),
        sweeps=sweeps(scores),
        answer_prices=answer_prices(completions, scores, machine_usd),
        votes=votes_at_equal_compute(completions),
        published=published.beside(
            folder.read("benchmark", Question), completions, samples=recipe.evaluate.samples, machine_usd=machine_usd
        ),
        settings=folder.read("settings", Setting),
        training=folder.read("training", TrainStep),
        examples=list(_examples(folder, recipe, completions, tokenizer)),
    )


def _funnel_row(folder: RunFolder, stage: str) -> FunnelRow:
    done = folder.done(stage)
    assert done is not None, f"the report comes after {stage}"
    reasons = Counter(drop.reason for drop in folder.read(f"dropped-{stage}", Drop))
    return FunnelRow(stage, done.items_in, done.items_out, reasons)


def _sources(folder: RunFolder) -> list[SourceRow]:
    """The sources with what of them is trained on, and its most frequent origins."""
    trained = {s.question_id for s in folder.stream("samples", Sample)}
    origins: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for q in folder.stream("questions", Question):
        if q.id in trained:
            is_generated = q.source.startswith("puzzles:")
            name = "puzzles" if is_generated else q.source
            origins[name][q.source.removeprefix("puzzles:") if is_generated else q.origin or "unknown"] += 1
    return [
        SourceRow(count, origins[count.source].total(), dict(origins[count.source].most_common(ORIGINS_SHOWN)))
        for count in folder.read("sources", SourceCount)
    ]


def _examples(
    folder: RunFolder, recipe: Recipe, completions: list[Completion], tokenizer: Tokenizer
) -> Iterator[Example]:
    """One held-out question of each of three domains: cut short, thinking freely, and made to think on."""
    asked = {q.id: q for q in folder.read("benchmark", Question)}
    distilled = [c for c in completions if c.student == "distilled"]
    shown = [(c, [i.kind for i in c.interventions]) for c in distilled if c.thinking_tokens]
    wanted = (
        [c for c, kinds in shown if "cut" in kinds],
        [c for c, kinds in shown if not {"cut", "wait"} & set(kinds)],
        [c for c, kinds in shown if "wait" in kinds],
    )
    place = {question_id: i for i, question_id in enumerate(asked)}
    close_tokens = len(tokenizer.encode(FORMATS[recipe.student.format].close, add_special_tokens=False))
    used: set[str | None] = set()
    for candidates in wanted:
        # In the order of the benchmark: an example is not picked for its verdict.
        for c in sorted(candidates, key=lambda c: place[c.question_id]):
            question = asked[c.question_id]
            if question.domain not in used:
                used.add(question.domain)
                yield Example(
                    question=question.question,
                    reference=question.answer or "",
                    segments=list(_segments(c, tokenizer, close_tokens)),
                    verdict=c.grade.verdict,
                    policy_label=f"at most {c.policy.thinking_tokens_max} tokens, {c.policy.waits} waits",
                )
                break


def _segments(c: Completion, tokenizer: Tokenizer, close_tokens: int) -> Iterator[Segment]:
    """The completion without its delimiters, in stretches of the same part and origin."""
    forced = {p for i in c.interventions for p in range(i.position, i.position + i.tokens)}
    thinking_start = sum(i.tokens for i in c.interventions if i.kind == "open")
    assert c.thinking_tokens is not None, "an engine counts"
    answer_start = thinking_start + c.thinking_tokens + close_tokens
    parts: dict[int, Literal["thinking", "answer"]] = {}
    parts |= dict.fromkeys(range(thinking_start, thinking_start + c.thinking_tokens), "thinking")
    parts |= dict.fromkeys(range(answer_start, len(c.token_ids)), "answer")
    for (part, is_forced), run in groupby(sorted(parts), key=lambda p: (parts[p], p in forced)):
        text = tokenizer.decode([c.token_ids[p] for p in run], skip_special_tokens=False)
        yield Segment(text, part, is_forced)
