"""What a policy that `tenner tune` would choose saves on other questions, and what early exit saves of a full budget.

    tenner run demo && scripts/install_vllm.sh DIR
    python bench/early_exit.py runs/demo [--vllm-python DIR/bin/python] [--seed N] [--questions N] [--margin POINTS]

The student of a finished run of generated questions answers in the embedded engine, and in vLLM where it is given; the
run folder is only read. First all policies of `tenner tune` are tried on half as many held-out questions, and one is
chosen by its rule. Then fresh questions, in groups, are answered under four policies that take turns: the budget as the
student uses it, the chosen policy, the budget used in full (as s1 forces it: every end is replaced by "Wait" until the
budget is used up), and the same ended before the first "Wait" whose trial answer has a probability of 0.9 (DEER's
rule). Tokens are thinking tokens, those of trial answers counted; differences are paired, with 95 % intervals. Seconds
are those of decoding a group under one policy alone: wall, and of the processor, which other programs disturb less.

Prints a line for each policy and comparison, and at the end one JSON object. Exits with 1 where early exit saves less
than 30 % of the full budget's tokens or 20 % of the time of an engine, or loses more than one point.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from evidence import machine, versions
from policies_in_turns import Decoded, in_turns, in_vllm

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
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.engine import Generation, LocalEngine
from tenner.inference.job import Prompt

PROBABILITY = 0.9
TOKENS_SAVED_MIN, SECONDS_SAVED_MIN, POINTS_LOST_MAX = 0.3, 0.2, 1.0


class Bench(NamedTuple):
    """A student that answers, and how it is asked."""

    recipe: Recipe
    engine: LocalEngine

    def prompts(self, questions: Sequence[Question]) -> list[Prompt]:
        """As the student is asked."""
        form = self.recipe.student.form
        return [Prompt(q.id, *render(self.engine.tokenizer, q, form, self.recipe)) for q in questions]

    def answer(self, questions: Sequence[Question], policies: Sequence[Policy]) -> list[Completion]:
        """Every question under every policy, graded."""
        fmt, answer_max = FORMATS[self.recipe.student.format], self.recipe.evaluate.answer_tokens_max
        swept = self.engine.sweep(self.prompts(questions), policies, fmt, answer_tokens_max=answer_max)
        return self.graded(list(swept), questions)

    def graded(self, generations: Sequence[Generation], questions: Sequence[Question]) -> list[Completion]:
        """What was generated for these questions."""
        by_id, section = {q.id: q for q in questions}, self.recipe.student
        found = []
        for g in generations:
            fields = {name: value for name, value in g._asdict().items() if name != "prompt_id"}
            grade: Grade = grade_after_cue(g.answer, by_id[g.prompt_id].answer or "", cue=FORMATS[section.format].cue)
            named = {"question_id": g.prompt_id, "task": "bench", "student": "distilled", "prompt": section.form.name}
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

    @classmethod
    def of(cls, bench: Bench, decoded: Decoded, questions: Sequence[Question]) -> "Side":
        """The same, graded."""
        return cls(bench.graded(decoded.generations, questions), decoded.wall_seconds, decoded.processor_seconds)

    @property
    def tokens(self) -> float:
        """Mean thinking tokens, trial answers counted."""
        return fmean((c.thinking_tokens or 0) + c.trial_tokens for c in self.completions)

    @property
    def accuracy(self) -> float:
        return fmean(c.grade.verdict == "correct" for c in self.completions)


def compared(name: str, before: Side, after: Side) -> dict[str, Any]:
    """The later policy against the earlier one, printed and as it is stored."""
    difference = paired.difference(scores.verdicts(before.completions), scores.verdicts(after.completions))
    saved = 1 - after.tokens / before.tokens
    wall = 1 - after.wall_seconds / before.wall_seconds
    processor = 1 - after.processor_seconds / before.processor_seconds
    tokens = f"{_less(saved, 'fewer')} thinking tokens ({before.tokens:.1f} to {after.tokens:.1f})"
    seconds = f"{_less(wall)} time, {_less(processor)} of the processor's"
    print(f"{name}: {tokens}, {_points(difference)}, {seconds}, n = {difference.n}")
    return {
        "tokens_saved": round(saved, 4), "points": round(100 * difference.mean, 2),
        "points_ci": [round(100 * bound, 2) for bound in difference.ci], "p": round(difference.p_value, 4),
        "wall_saved": round(wall, 4), "processor_saved": round(processor, 4), "n": difference.n,
    }  # fmt: skip


def _less(saved: float, word: str = "less") -> str:
    return f"{abs(saved):.1%} {word if saved >= 0 else 'more'}"


def _points(difference: paired.Difference) -> str:
    low, high = (100 * bound for bound in difference.ci)
    return f"{100 * difference.mean:+.1f} points ({low:+.1f} to {high:+.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--vllm-python", help="where scripts/install_vllm.sh has put vLLM; left out: not tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--margin", type=float, default=tuning.TuneOptions().margin_points)
    args = parser.parse_args()
    recipe = recipes.load(str(args.run / "recipe.toml"))
    rows, answer_max = recipe.evaluate.rows, recipe.evaluate.answer_tokens_max
    engine = engine_registry.load("hf", args.run / "student", rows=rows, wait_text=WAIT_TEXT)
    set_template(engine.tokenizer, template_to_ask_with(RunFolder(args.run), recipe.student))
    bench, margin = Bench(recipe, engine), args.margin / 100
    seed, for_choice = derived(args.seed, "early exit"), args.questions // 2
    made = puzzles.generate(
        for_choice + args.questions, families=recipe.gather.families, split="heldout", seed=seed, distinct=True,
        passes_over=True,
    )  # fmt: skip
    questions = list(made)
    known, fresh = questions[:for_choice], questions[for_choice:]
    # 1. Chosen on questions that are not asked again.
    full = tuning.full_budget(recipe.evaluate)
    chosen = tried(bench, known, margin).policy
    # 2. The policies that are compared.
    used_up = full.model_copy(update={"waits": full.thinking_tokens_max})
    rule = EarlyExit(at="wait", agree=1, probability=PROBABILITY, trial_tokens=answer_max)
    stopped = used_up.model_copy(update={"early_exit": rule})
    policies = list(dict.fromkeys([full, chosen, used_up, stopped]))
    # 3. Answered in every engine.
    prompts = bench.prompts(fresh)
    asked: dict[str, Any] = {"fmt": recipe.student.format, "rows": rows, "answer_tokens_max": answer_max}
    decoded = {"hf": in_turns(engine, prompts, policies, **asked)}
    if args.vllm_python:
        dtype = engine.info.precision or "float32"
        decoded["vllm"] = in_vllm(args.vllm_python, args.run / "student", prompts, policies, dtype=dtype, **asked)
    # 4. What is saved and lost.
    result: dict[str, Any] = {
        "bench": "early_exit", "run": args.run.name, "seed": args.seed, "questions": args.questions,
        "margin_points": args.margin, "chosen": chosen.model_dump(exclude_defaults=True), "engines": {},
    }  # fmt: skip
    promises: dict[str, bool] = {}
    for name, of_engine in decoded.items():
        sides = {p: Side.of(bench, d, fresh) for p, d in zip(policies, of_engine, strict=True)}
        print(f"\n{name}")
        for policy, side in sides.items():
            print(f"{100 * side.accuracy:.1f} % at {side.tokens:.1f} tokens, {side.wall_seconds:.1f} s: "
                  f"{policy_text.words(policy)}")  # fmt: skip
        result["engines"][name] = found = {
            "accuracy": {policy_text.name(policy): round(side.accuracy, 4) for policy, side in sides.items()},
            "tokens": {policy_text.name(policy): round(side.tokens, 2) for policy, side in sides.items()},
            "exit_against_used_up": compared("early exit against the budget used up", sides[used_up], sides[stopped]),
            "exit_against_full": compared("early exit against the student's own end", sides[full], sides[stopped]),
            "used_up_against_full": compared("the budget used up against the student's own end",
                                             sides[full], sides[used_up]),
            "chosen_against_full": compared("chosen against the student's own end", sides[full], sides[chosen]),
        }  # fmt: skip
        promises |= kept(name, found["exit_against_used_up"])
    print()
    for promise, holds in promises.items():
        print(f"{'holds ' if holds else 'MISSED'}  {promise}")
    about = {"precision": engine.info.precision, "machine": machine(), "versions": versions("tenner", "torch")}
    print(json.dumps(result | about | {"promises": promises}))
    return 0 if all(promises.values()) else 1


def kept(engine: str, saved: dict[str, Any]) -> dict[str, bool]:
    """Which promises hold, by what they say."""
    tokens, seconds, points = saved["tokens_saved"], saved["wall_saved"], saved["points"]
    return {
        f"{engine}: at least {TOKENS_SAVED_MIN:.0%} fewer thinking tokens: {tokens:.1%}": tokens >= TOKENS_SAVED_MIN,
        f"{engine}: at most {POINTS_LOST_MAX:g} point lost: {points:+.1f}": points >= -POINTS_LOST_MAX,
        f"{engine}: at least {SECONDS_SAVED_MIN:.0%} less time: {seconds:.1%}": seconds >= SECONDS_SAVED_MIN,
    }


if __name__ == "__main__":
    sys.exit(main())
