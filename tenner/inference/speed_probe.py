"""Measure how fast an engine decodes, by a few steps of a full batch."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from tenner.core.formats import FORMATS
from tenner.core.records import Policy
from tenner.inference.engine import LocalEngine
from tenner.inference.job import Job, Prompt, Request

PROMPT_TOKENS = 12
"""The length of each prompt, short enough that prefill takes no longer than a few steps."""
STEPS = 4
FEW_ROWS_SHARE, FEW_ROWS_MAX = 4, 16
LONG_PROMPT_TOKENS = 100
"""Of a few rows, whose steps show what the tokens before a row cost."""


class DecodingSpeed(NamedTuple):
    """The cost model: a step of `rows` rows of so much context takes
    step_seconds + rows * (row_seconds + context_tokens * context_token_seconds).
    """

    step_seconds: float
    row_seconds: float
    prompt_token_seconds: float
    context_token_seconds: float = 0.0

    def seconds(self, *, rows: int, steps: float, prompt_tokens: float, context_tokens: float = 0.0) -> float:
        """The seconds of prefilling `prompt_tokens` and decoding `steps` steps of `rows` rows."""
        row_seconds = self.row_seconds + context_tokens * self.context_token_seconds
        return prompt_tokens * self.prompt_token_seconds + steps * (self.step_seconds + rows * row_seconds)


def decoding_speed(engine: LocalEngine, text: str, *, rows: int) -> DecodingSpeed:
    """Time steps of `rows` rows, of a few of them, and of as few with longer prompts, which are made of `text`."""
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    short, long = (_repeated(ids, count) for count in (PROMPT_TOKENS, LONG_PROMPT_TOKENS))
    # A budget beyond the timed steps, so that every row is still thinking at the last one.
    policy = Policy(thinking_tokens_max=4 * STEPS, thinking_tokens_min=4 * STEPS)
    few_rows = max(1, min(rows // FEW_ROWS_SHARE, FEW_ROWS_MAX))
    batch = engine.batch()

    def submitted(prompt: str, count: int) -> list[Job]:
        requests = [Request(Prompt(str(i), prompt), policy, FORMATS["plain"], 1) for i in range(count)]
        jobs = [engine.prepare(request) for request in requests]
        for job in jobs:
            batch.submit(job)
        return jobs

    def step_seconds() -> float:
        began = time.perf_counter()
        batch.step()
        return time.perf_counter() - began

    def median_step() -> float:
        return statistics.median(step_seconds() for _ in range(STEPS))

    def cancel(some: Sequence[Job]) -> None:
        for job in some:
            batch.cancel(job)

    jobs = submitted(engine.tokenizer.decode(short), rows)
    try:
        fed = step_seconds()
        full = median_step()
        cancel(jobs[few_rows:])
        few = median_step() if few_rows < rows else full
        cancel(jobs)
        jobs = submitted(engine.tokenizer.decode(long), few_rows)
        step_seconds()
        few_long = median_step()
    finally:
        cancel(jobs)
    row_seconds = max(0.0, (full - few) / max(1, rows - few_rows))
    step = max(0.0, full - rows * row_seconds)
    context_token_seconds = max(0.0, (few_long - few) / (few_rows * (len(long) - len(short))))
    return DecodingSpeed(
        step, max(0.0, row_seconds - len(short) * context_token_seconds), fed / (rows * len(short)),
        context_token_seconds,
    )  # fmt: skip


def _repeated(ids: Sequence[int], count: int) -> list[int]:
    """So many ids: those of `ids` over and over."""
    return [ids[i % len(ids)] for i in range(count)]
