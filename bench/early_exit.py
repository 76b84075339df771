"""What a policy that `tenner tune` would choose saves on other questions, and what early exit saves of waits.

    tenner run demo
    python bench/early_exit.py runs/demo [--seed N] [--questions N] [--margin POINTS]

The student of a finished run of generated questions answers in the embedded engine; the run folder is only read. First
all policies of `tenner tune` are tried on half as many held-out questions, and one is chosen by its rule. Then fresh
questions, in groups, are answered under four policies that take turns: the full budget, the chosen policy, two waits at
the full budget, and the same ended before a wait where the trial answer has a probability of 0.9 (DEER's rule). Tokens
are thinking tokens, those of trial answers counted; differences are paired, with 95 % intervals. Seconds are those of
decoding a group under one policy alone: wall, and of the processor, which other programs disturb less.

Prints a line for each policy and comparison, and at the end one JSON object.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from evidence import machine, versions

from tenner import tuning
from tenner.core import policy_text
from tenner.core import recipe as recipes
from tenner.core.chat_template import set_template
from tenner.core.formats import FORMATS
from tenner.core.recipe import Recipe
from tenner.core.records import Completion, EarlyExit, Grade, Policy, Question
from tenner.core.run import render, template_to_ask_with
from tenner.core.run_folder import RunFolder
from tenner.core.seeds import derived
from tenner.data import puzzles
from tenner.evaluation.grading.grader import grade_after_cue
from tenner.evaluation.statistics import paired, policy_choice, scores
from tenner.inference import engine_registry
from tenner.inference.engine import LocalEngine
from tenner.inference.job import Prompt

WAITS, PROBABILITY = 2, 0.9


class Bench(NamedTuple):
    """A student that answers, and how it is asked."""

    recipe: Recipe
    engine: LocalEngine

    def answer(self, questions: Sequence[Question], policies: Sequence[Policy]) -> list[Completion]:
        """Every question under every policy, graded."""
        fmt, by_id = FORMATS[self.recipe.student.format], {q.id: q for q in questions}
        form = self.recipe.student.form
        prompts = [Prompt(q.id, *render(self.engine.tokenizer, q, form, self.recipe)) for q in questions]
        found = []
        for g in self.engine.sweep(prompts, policies, fmt, answer_tokens_max=self.recipe.evaluate.answer_tokens_max):
            fields = {name: value for name, value in g._asdict().items() if name != "prompt_id"}
            grade: Grade = grade_after_cue(g.answer, by_id[g.prompt_id].answer or "", cue=fmt.cue)
            named = {"question_id": g.prompt_id, "task": "bench", "student": "distilled", "prompt": form.name}
            found.append(Completion.model_validate(fields | named | {"grade": grade}))
        return found


def tried(bench: Bench, questions: Sequence[Question], margin: float) -> policy_choice.Candidate:
    """The policy that `tenner tune` would choose on these questions."""
    full = tuning.full_budget(bench.recipe.evaluate)
    policies, rows = [full, *tuning.usual_policies(bench.recipe.evaluate)], bench.recipe.evaluate.rows
    done: list[Completion] = []
    for first in range(0, len(questions), rows):
        done += bench.answer(questions[first : first + rows], policies)
    found = policy_choice.candidates(done, full, margin)
    for c in sorted(found, key=lambda c: c.tokens):
        within = "within" if c.is_no_worse else "not within"
        print(f"tried: {100 * c.accuracy:5.1f} % at {c.tokens:5.1f} tokens, {_points(c.difference)}, "
              f"{within} {100 * margin:g}: {policy_text.words(c.policy)}", flush=True)  # fmt: skip
    return policy_choice.choose(found, full)


class Side(NamedTuple):
    """One policy's answers to the fresh questions, and how long they took."""

    completions: list[Completion]
    wall_seconds: float
    processor_seconds: float

    @property
    def tokens(self) -> float:
        """Mean thinking tokens, trial answers counted."""
        return fmean((c.thinking_tokens or 0) + c.trial_tokens for c in self.completions)

    @property
    def accuracy(self) -> float:
        return fmean(c.grade.verdict == "correct" for c in self.completions)


def in_turns(bench: Bench, questions: Sequence[Question], policies: Sequence[Policy]) -> dict[Policy, Side]:
    """Each group of questions under each policy alone; which policy is first moves on with every group."""
    rows = bench.recipe.evaluate.rows
    done: defaultdict[Policy, list[Completion]] = defaultdict(list)
    wall, processor = defaultdict[Policy, float](float), defaultdict[Policy, float](float)
    bench.answer(questions[:rows], policies[:1])  # not counted: what is done once
    for number, first in enumerate(range(0, len(questions), rows)):
        turn = number % len(policies)
        for policy in [*policies[turn:], *policies[:turn]]:
            began, began_processor = time.perf_counter(), time.process_time()
            done[policy] += bench.answer(questions[first : first + rows], [policy])
            wall[policy] += time.perf_counter() - began
            processor[policy] += time.process_time() - began_processor
    return {policy: Side(done[policy], wall[policy], processor[policy]) for policy in policies}


def compared(name: str, before: Side, after: Side) -> dict[str, Any]:
    """The later policy against the earlier one, printed and as it is stored."""
    difference = paired.difference(scores.verdicts(before.completions), scores.verdicts(after.completions))
    saved = 1 - after.tokens / before.tokens
    wall = 1 - after.wall_seconds / before.wall_seconds
    processor = 1 - after.processor_seconds / before.processor_seconds
    tokens = f"{saved:.1%} fewer thinking tokens ({before.tokens:.1f} to {after.tokens:.1f})"
    seconds = f"{wall:.1%} less time, {processor:.1%} less of the processor's"
    print(f"{name}: {tokens}, {_points(difference)}, {seconds}, n = {difference.n}")
    return {
        "tokens_saved": round(saved, 4), "points": round(100 * difference.mean, 2),
        "points_ci": [round(100 * bound, 2) for bound in difference.ci], "p": round(difference.p_value, 4),
        "wall_saved": round(wall, 4), "processor_saved": round(processor, 4), "n": difference.n,
    }  # fmt: skip


def _points(difference: paired.Difference) -> str:
    low, high = (100 * bound for bound in difference.ci)
    return f"{100 * difference.mean:+.1f} points ({low:+.1f} to {high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--margin", type=float, default=tuning.TuneOptions().margin_points)
    args = parser.parse_args()
    recipe = recipes.load(str(args.run / "recipe.toml"))
    engine = engine_registry.load("hf", args.run / "student", rows=recipe.evaluate.rows, wait_text="Wait")
    set_template(engine.tokenizer, template_to_ask_with(RunFolder(args.run), recipe.student))
    bench, margin = Bench(recipe, engine), args.margin / 100
    seed, for_choice = derived(args.seed, "early exit"), args.questions // 2
    made = puzzles.generate(
        for_choice + args.questions, families=recipe.gather.families, split="heldout", seed=seed, distinct=True
    )
    questions = list(made)
    known, fresh = questions[:for_choice], questions[for_choice:]
    chosen = tried(bench, known, margin).policy
    full = tuning.full_budget(recipe.evaluate)
    waits = full.model_copy(update={"waits": WAITS})
    rule = EarlyExit(at="wait", agree=1, probability=PROBABILITY, trial_tokens=recipe.evaluate.answer_tokens_max)
    unsure = waits.model_copy(update={"early_exit": rule})
    sides = in_turns(bench, fresh, list(dict.fromkeys([full, chosen, waits, unsure])))
    for policy, side in sides.items():
        print(f"{100 * side.accuracy:.1f} % at {side.tokens:.1f} tokens, {side.wall_seconds:.1f} s: "
              f"{policy_text.words(policy)}")  # fmt: skip
    result = {
        "bench": "early_exit", "run": args.run.name, "seed": args.seed, "questions": args.questions,
        "margin_points": args.margin, "chosen": chosen.model_dump(exclude_defaults=True),
        "accuracy": {policy_text.name(policy): round(side.accuracy, 4) for policy, side in sides.items()},
        "tokens": {policy_text.name(policy): round(side.tokens, 2) for policy, side in sides.items()},
        "chosen_against_full": compared("chosen against the full budget", sides[full], sides[chosen]),
        "exit_against_waits": compared("two waits only where unsure, against two waits", sides[waits], sides[unsure]),
        "exit_against_full": compared("two waits only where unsure, against none", sides[full], sides[unsure]),
        "waits_against_full": compared("two waits against none", sides[full], sides[waits]),
        "precision": engine.info.precision, "machine": machine(), "versions": versions("tenner", "torch"),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
