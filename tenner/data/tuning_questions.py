"""Questions that a run has neither trained on nor measures with: what is left of its pool, and newly generated ones."""

from collections.abc import Collection, Sequence

from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.records import Question
from tenner.core.seeds import derived
from tenner.data import overlap, puzzles, samplers

PURPOSE = "held out for tuning"
SPARE = 2
"""So many times as many questions are generated as are wanted: some overlap the benchmark."""


def draw(
    count: int, *, pool: Sequence[Question], trained_on: Collection[str], benchmark: Sequence[Question], recipe: Recipe
) -> list[Question]:
    """So many questions with reference answers, each of them clear of the benchmark by the rules of cleaning.

    `pool` is cleaned. Where the run generates questions, new ones of the held-out split take their share of it.
    Raises TennerError where there are not enough.
    """
    tables = [q for q in pool if not _is_generated(q)]
    share = 1 - len(tables) / len(pool) if pool else float(bool(recipe.gather.families))
    wanted = round(count * share)
    new = _generated(wanted, benchmark, recipe) if wanted else []
    left = [q for q in tables if q.answer is not None and q.id not in trained_on]
    left = _clear(left, benchmark, recipe)
    seed = derived(recipe.seed, PURPOSE)
    found = [*new, *samplers.stratified(left, count - len(new), seed)]
    if len(found) < count:
        raise TennerError(
            f"{len(found):,} questions are held out (not trained on, graded, clear of the benchmark), and {count:,} "
            "are needed",
            hint=f"--questions {len(found)}, or gather more in the next run",
        )
    return found


def _generated(count: int, benchmark: Sequence[Question], recipe: Recipe) -> list[Question]:
    """At most so many: fewer where the families have not as many that differ."""
    found = puzzles.generate(
        SPARE * count, families=recipe.gather.families, split="heldout", seed=derived(recipe.seed, PURPOSE),
        distinct=True, passes_over=True,
    )  # fmt: skip
    return _clear(list(found), benchmark, recipe)[:count]


def _clear(questions: Sequence[Question], benchmark: Sequence[Question], recipe: Recipe) -> list[Question]:
    """Those that do not overlap the benchmark."""
    hits = overlap.compare(questions, benchmark, recipe.clean)
    leaks = {hit.question_id for hit in hits if hit.kind != "boilerplate"}
    return [q for q in questions if q.id not in leaks]


def _is_generated(question: Question) -> bool:
    return question.source.startswith("puzzles:")
