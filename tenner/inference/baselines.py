"""The baselines of s1's paper: conditional length control, rejection sampling, and majority vote.

Each spends test-time compute on the same student, runs on any Engine, and counts its tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from tenner.core.formats import ThinkFormat
from tenner.core.records import Policy, Sampling
from tenner.core.seeds import rng
from tenner.inference.engine import Engine, Generation
from tenner.inference.job import Prompt

SEED_BITS = 62
TOKENS_PER_STEP = 100
"""The paper's conversion between a limit in steps and one in tokens."""


class LengthInstruction(NamedTuple):
    """Conditional length control: the question states a limit that nothing enforces (section 3.2 of the paper)."""

    by: Literal["tokens", "steps", "class"]
    amount: int | Literal["short", "long"]

    @property
    def suffix(self) -> str:
        """The text appended to the question, in the paper's wording."""
        if self.amount == "short":
            return "\n\nAnswer after a short amount of thinking. Do not spend excessive time double-checking your work."
        if self.amount == "long":
            return (
                "\n\nAnswer after a long amount of thinking. If you feel like you are finished early, spend the extra "
                "time trying to double-check your work until you are absolutely sure that you have the correct answer."
            )
        return f"\n\nThink for up to {self.amount} {self.by}."

    @property
    def thinking_tokens_max(self) -> int | None:
        """The limit that control is measured against; None for a class, which is compared with no instruction."""
        if isinstance(self.amount, str):
            return None
        return self.amount * (TOKENS_PER_STEP if self.by == "steps" else 1)


class Rejection(NamedTuple):
    """The result of rejection sampling for one prompt."""

    prompt_id: str
    accepted: Generation | None
    """None: no sample kept within the limit."""
    tries: int
    tokens: int
    """Thinking and answer tokens of all samples, rejected ones included."""


def reject(
    engine: Engine,
    prompts: Sequence[Prompt],
    thinking_tokens_max: int,
    fmt: ThinkFormat,
    *,
    answer_tokens_max: int,
    sampling: Sampling,
    tries_max: int,
) -> Iterator[Rejection]:
    """Sample until the thinking ends by itself within the limit, at most `tries_max` times.

    A sample is rejected at the limit: tokens beyond it are not decoded.
    """
    assert sampling.temperature > 0, "greedy samples are all the same"
    policy = Policy(thinking_tokens_max=thinking_tokens_max)
    left, tokens = list(prompts), Counter[str]()
    for number in range(1, tries_max + 1):
        rejected = []
        generations = _sample(engine, left, policy, fmt, answer_tokens_max, sampling, f"try {number}")
        for prompt, generation in zip(left, generations, strict=True):
            tokens[prompt.id] += generation.thinking_tokens
            if any(i.kind == "cut" for i in generation.interventions):
                rejected.append(prompt)
            else:
                tokens[prompt.id] += generation.answer_tokens
                yield Rejection(prompt.id, generation, number, tokens[prompt.id])
        left = rejected
        if not left:
            return
    for prompt in left:
        yield Rejection(prompt.id, None, tries_max, tokens[prompt.id])


class Vote(NamedTuple):
    """The result of a majority vote for one prompt."""

    prompt_id: str
    answer: str | None
    """The most frequent answer, ties broken by the first; None where no sample has an answer."""
    votes: int
    samples: tuple[Generation, ...]

    @property
    def tokens(self) -> int:
        """Thinking and answer tokens of all samples."""
        return sum(g.thinking_tokens + g.answer_tokens for g in self.samples)


def vote(
    engine: Engine,
    prompts: Sequence[Prompt],
    thinking_tokens_max: int,
    fmt: ThinkFormat,
    *,
    answer_tokens_max: int,
    sampling: Sampling,
    samples: int,
    read: Callable[[str], str | None],
) -> Iterator[Vote]:
    """Majority vote at equal budget: `samples` share `thinking_tokens_max`, each gets an equal part.

    `read` extracts the answer of a text in comparable form, None where there is none.
    """
    assert sampling.temperature > 0 or samples == 1, "greedy samples are all the same"
    policy = Policy(thinking_tokens_max=thinking_tokens_max // samples)
    rounds = [
        _sample(engine, prompts, policy, fmt, answer_tokens_max, sampling, f"sample {number}")
        for number in range(samples)
    ]
    for prompt, *generations in zip(prompts, *rounds, strict=True):
        counts = Counter(answer for g in generations if (answer := read(g.answer)) is not None)
        answer, votes = counts.most_common(1)[0] if counts else (None, 0)
        yield Vote(prompt.id, answer, votes, tuple(generations))


def _sample(
    engine: Engine,
    prompts: Sequence[Prompt],
    policy: Policy,
    fmt: ThinkFormat,
    answer_tokens_max: int,
    sampling: Sampling,
    purpose: str,
) -> list[Generation]:
    """One sample of each prompt, in their order; each purpose has a seed of its own."""
    own = sampling.model_copy(update={"seed": rng(sampling.seed, purpose).getrandbits(SEED_BITS)})
    generations = engine.sweep(prompts, [policy], fmt, answer_tokens_max=answer_tokens_max, sampling=own)
    by_id = {generation.prompt_id: generation for generation in generations}
    return [by_id[prompt.id] for prompt in prompts]
