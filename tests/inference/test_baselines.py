"""The paper's baselines on a tiny random student: what they accept, count and append to the question."""

from pathlib import Path

import pytest
import torch
from test_sampling import HOT, SHORT, ending_model_dir  # noqa: F401 a fixture

from tenner.core.records import Policy, Sampling
from tenner.inference import baselines
from tenner.inference.baselines import LengthInstruction
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Prompt

WILD = Sampling(temperature=5.0)
PROMPTS = [Prompt(str(i), f"{i} + {i}") for i in range(6)]


@pytest.fixture(scope="module")
def engine(ending_model_dir: Path) -> HFEngine:  # noqa: F811
    return HFEngine.load(ending_model_dir, dtype=torch.float32)


def test_length_instructions_and_their_limits() -> None:
    assert LengthInstruction("tokens", 2048).suffix == "\n\nThink for up to 2048 tokens."
    assert LengthInstruction("steps", 64).suffix == "\n\nThink for up to 64 steps."
    assert LengthInstruction("tokens", 2048).thinking_tokens_max == 2048
    assert LengthInstruction("steps", 64).thinking_tokens_max == 6400
    assert LengthInstruction("class", "short").thinking_tokens_max is None
    assert "short" in LengthInstruction("class", "short").suffix
    assert "double-check" in LengthInstruction("class", "long").suffix


def test_rejection_accepts_only_ended_thinking_and_counts_rejected_tokens(engine: HFEngine) -> None:
    results = {
        r.prompt_id: r
        for r in baselines.reject(engine, PROMPTS, 12, SHORT, answer_tokens_max=3, sampling=WILD, tries_max=4)
    }
    assert set(results) == {p.id for p in PROMPTS}
    assert {r.accepted is None for r in results.values()} == {True, False}, "the model is lively enough"
    assert max(r.tries for r in results.values() if r.accepted) > 1
    for r in results.values():
        thrown = r.tries - (r.accepted is not None)
        own = 0 if r.accepted is None else r.accepted.thinking_tokens + r.accepted.answer_tokens
        assert r.tokens == 12 * thrown + own
        assert r.accepted is None or "cut" not in {i.kind for i in r.accepted.interventions}


def test_a_majority_shares_one_budget(engine: HFEngine) -> None:
    votes = list(
        baselines.vote(
            engine, PROMPTS, 20, SHORT, answer_tokens_max=2, sampling=HOT, samples=5, read=lambda text: text[:1] or None
        )
    )
    for prompt, v in zip(PROMPTS, votes, strict=True):
        assert v.prompt_id == prompt.id
        assert all(g.policy == Policy(thinking_tokens_max=4) for g in v.samples)
        assert len({g.token_ids for g in v.samples}) > 1, "each sample has a seed of its own"
        read = [g.answer[:1] for g in v.samples if g.answer]
        assert v.votes == max(map(read.count, read), default=0)
        assert v.answer is None or read.count(v.answer) == v.votes
        assert v.tokens <= 20 + 5 * 2
    unread = baselines.vote(
        engine, PROMPTS[:1], 20, SHORT, answer_tokens_max=2, sampling=HOT, samples=2, read=lambda _: None
    )
    assert [(v.answer, v.votes) for v in unread] == [(None, 0)]
