"""Draws against the distribution they are meant to have: chi-square over 20,000, and a naive mask that fails it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer
from wandering_model import wandering_copy

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat
from tenner.core.records import Policy, Sampling
from tenner.inference.engine import Generation, Piece
from tenner.inference.forced_tokens import ForcedRow
from tenner.inference.forcing import ForcingMachine
from tenner.inference.format_ids import FormatIds
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Job, Prompt, Request
from tenner.inference.rng import PositionalRNG
from tenner.inference.sampling import NUCLEUS_TOKENS, draw, measure
from tenner.inference.scheduler import Event, Scheduler

DRAWS = 20_000
OPEN = "<|im_start|>t"
SHORT = ThinkFormat("short", open=OPEN, close="e!", cue="=")
PROMPT = Prompt("p", "?")
IDS = [33, 1, 86]
"""The prompt and `open` by the tiny model's tokenizer."""
EOS, CLOSE = 2, 71
HOT = Sampling(temperature=0.8, top_p=0.9)


class Held(NamedTuple):
    """What the model says at a place where its end would be replaced; `replaced` is what must come of it."""

    logits: torch.Tensor
    ends: set[int]
    replaced: dict[int, float]
    format_ids: FormatIds


def drawn(logits: torch.Tensor, uniforms: list[float]) -> list[int]:
    """A token for each random number."""
    parts = [uniforms[i : i + 500] for i in range(0, len(uniforms), 500)]
    return [token for part in parts for token in draw(logits.expand(len(part), -1), [HOT] * len(part), part)]


def nucleus(logits: torch.Tensor, sampling: Sampling) -> dict[int, float]:
    """The distribution by the definition, in plain Python: the fewest tokens that reach top_p, renormalised."""
    weights = torch.softmax(logits.double() / sampling.temperature, dim=-1).tolist()
    kept, mass = [], 0.0
    for token in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        if mass >= sampling.top_p:
            break
        kept.append(token)
        mass += weights[token]
    return {token: weights[token] / mass for token in kept}


def p_value(seen: Counter[int], expected: dict[int, float]) -> float:
    if set(seen) - set(expected):
        return 0.0
    total = sum(seen.values())
    likely = [t for t, p in expected.items() if p * total >= 5]
    rare = [t for t in expected if t not in likely]
    counts = [seen[t] for t in likely] + ([sum(seen[t] for t in rare)] if rare else [])
    shares = [expected[t] for t in likely] + ([sum(expected[t] for t in rare)] if rare else [])
    return float(chisquare(counts, [s * total for s in shares]).pvalue)


@pytest.mark.parametrize(
    ("tokens", "sampling"),
    [(40, Sampling(temperature=1.3)), (40, Sampling(temperature=1.0, top_p=0.5)), (2 * NUCLEUS_TOKENS, HOT)],
)
def test_draws_have_the_distribution_of_the_definition(tokens: int, sampling: Sampling) -> None:
    logits = 1.5 * torch.randn(tokens, generator=torch.Generator().manual_seed(tokens))
    rng = PositionalRNG(sampling, [1, 2])
    seen: Counter[int] = Counter()
    for start in range(0, DRAWS, 500):
        uniforms = [rng.uniform(position) for position in range(start, start + 500)]
        seen.update(draw(logits.expand(500, -1), [sampling] * 500, uniforms))
    assert p_value(seen, nucleus(logits, sampling)) > 0.01


def test_a_row_is_drawn_as_if_it_were_alone() -> None:
    logits = 3 * torch.randn(30, 2 * NUCLEUS_TOKENS, generator=torch.Generator().manual_seed(0))
    logits[::3] = logits[::3].bfloat16().float()  # many ties
    flat = Sampling(temperature=50.0, top_p=0.95)
    samplings = [(Sampling(), HOT, Sampling(temperature=1.0), flat)[i % 4] for i in range(30)]
    uniforms = [PositionalRNG(s, [i]).uniform(0) for i, s in enumerate(samplings)]
    together = draw(logits, samplings, uniforms)
    assert together == [draw(logits[i : i + 1], samplings[i : i + 1], uniforms[i : i + 1])[0] for i in range(30)]
    assert together[::4] == logits[::4].argmax(-1).tolist()
    assert draw(logits, [Sampling(temperature=1e-4)] * 30, uniforms) == logits.argmax(-1).tolist(), (
        "the limit of greedy"
    )


@pytest.mark.parametrize("temperature", [5e-324, 1e-46, 1e-45, 1e-38, 1e-31, 1e-29, 1e-7])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 5e-324])
def test_a_temperature_near_0_draws_the_most_likely_token(temperature: float, top_p: float) -> None:
    """Though it is 0 in float32, or the logits divided by it are infinite there."""
    logits_RV = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)) * 40
    sampling = Sampling(temperature=temperature, top_p=top_p)
    assert draw(logits_RV, [sampling] * 4, [0.0, 0.3, 0.7, 0.999]) == logits_RV.argmax(dim=-1).tolist()


def test_the_ends_of_the_roll() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, 0.0, -torch.inf]])
    hot = Sampling(temperature=1.0)
    assert draw(logits, [hot], [0.0]) == [0]
    assert draw(logits, [hot], [1 - 2**-52]) == [3], "never a token that has no probability"
    for top_p, last in ((0.3, 0), (0.5, 1), (0.9, 3)):
        assert draw(logits, [Sampling(temperature=1.0, top_p=top_p)], [1 - 2**-52]) == [last]


@pytest.fixture(scope="module")
def ending_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights so large that its output wanders, and as ready for an end as for likely tokens."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    model = wandering_copy(tiny_model_dir, folder)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        likely = logits_after(model, IDS).topk(9).indices
        weight[EOS], weight[CLOSE] = 0.95 * weight[likely[2]], 0.95 * weight[likely[3]]
    model.save_pretrained(folder)
    return folder


def logits_after(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1]


@pytest.fixture(scope="module")
def held(ending_model_dir: Path) -> Held:
    """The first step of a held thinking, on a model whose distribution there is known."""
    tokenizer = AutoTokenizer.from_pretrained(ending_model_dir)
    assert tokenizer.encode(PROMPT.text + OPEN, add_special_tokens=False) == IDS
    logits = logits_after(AutoModelForCausalLM.from_pretrained(ending_model_dir, dtype=torch.float32), IDS)
    known, ends = nucleus(logits, HOT), {EOS, CLOSE}
    assert min(known[EOS], known[CLOSE]) > 0.02
    format_ids = FormatIds.resolve(tokenizer, SHORT, "~")
    (wait,) = format_ids.wait
    assert known.get(wait, 0) == 0, "so that a wait is always ours"
    replaced = {t: p for t, p in known.items() if t not in ends} | {wait: sum(known[t] for t in ends)}
    return Held(logits, ends, replaced, format_ids)


def start(held: Held, seed: int) -> tuple[ForcingMachine, PositionalRNG]:
    machine = ForcingMachine(held.format_ids, Policy(waits=1), answer_tokens_max=1, thinking_room=9)
    return machine, PositionalRNG(HOT.model_copy(update={"seed": seed}), IDS[:1])


def test_suppression_inside_an_engine_is_sample_then_replace_and_a_naive_mask_is_not(held: Held) -> None:
    """By the row that vLLM's processor runs."""
    rows = []
    for seed in range(DRAWS):
        machine, rng = start(held, seed)
        rows.append(ForcedRow(machine, rng, prompted=len(machine.ids)))
    tokens = drawn(held.logits, [row.uniform() for row in rows])
    counts = Counter(row.take(token) for row, token in zip(rows, tokens, strict=True))
    assert p_value(counts, held.replaced) > 0.01

    masked = held.logits.clone()
    masked[list(held.ends)] = -torch.inf
    naive = Counter(drawn(masked, [row.uniform() for row in rows]))
    assert p_value(naive, held.replaced) < 1e-6
    wait = held.format_ids.wait[0]
    rest = {t: p / (1 - held.replaced[wait]) for t, p in held.replaced.items() if t != wait}
    assert p_value(Counter({t: n for t, n in counts.items() if t != wait}), rest) > 0.01
    assert p_value(naive, rest) < 1e-6, "nor is it right of the others: top-p has reached for more of them"


@pytest.mark.slow
def test_the_embedded_engine_samples_then_replaces(held: Held, ending_model_dir: Path) -> None:
    engine, machines = HFEngine.load(ending_model_dir, dtype=torch.float32, rows=500), []
    for first in range(0, DRAWS, 500):  # one step for each, no more
        batch = engine.batch()
        for seed in range(first, first + 500):
            machine, rng = start(held, seed)
            machines.append(machine)
            batch.submit(Job(PROMPT, IDS[:1], rng, [machine]))
        batch.step()
    assert p_value(Counter(m.ids[m.thinking_start] for m in machines), held.replaced) > 0.01


POLICIES = [Policy(thinking_tokens_max=b, waits=w) for b in (3, 8, 20, 40) for w in (0, 1)]


@pytest.mark.slow
def test_a_sampled_sweep_is_each_policy_alone_in_any_company(ending_model_dir: Path) -> None:
    prompts = [Prompt(str(i), f"{i} + {i}") for i in range(4)]
    swept = {}
    for rows in (2, 64):
        engine = HFEngine.load(ending_model_dir, dtype=torch.float32, rows=rows)
        generations = engine.sweep(prompts, POLICIES, SHORT, answer_tokens_max=6, sampling=HOT)
        swept[rows] = {(g.prompt_id, g.policy): g for g in generations}
    assert swept[2] == swept[64]
    for policy in POLICIES:
        alone = engine.sweep(prompts, [policy], SHORT, answer_tokens_max=6, sampling=HOT)
        assert all(g == swept[2][g.prompt_id, policy] for g in alone)
    text = {g.thinking for g in swept[2].values()}
    other = engine.sweep(prompts, POLICIES, SHORT, answer_tokens_max=6, sampling=HOT.model_copy(update={"seed": 1}))
    assert not text & {g.thinking for g in other if g.thinking_tokens > 3}, "another seed says something else"


def test_streams_of_many_threads_are_one_batch_and_each_its_own_generation(ending_model_dir: Path) -> None:
    engine = HFEngine.load(ending_model_dir, dtype=torch.float32, rows=8)
    requests = [
        Request(Prompt(str(i), f"{i % 5} + {i}"), POLICIES[i % 8], SHORT, 6, HOT.model_copy(update={"seed": i}))
        for i in range(16)
    ]

    def ask(scheduler: Scheduler, request: Request) -> tuple[str, Generation | None]:
        stream = scheduler.submit(request)
        text = "".join(piece.text for piece in stream)
        return text, stream.generation

    with Scheduler(engine) as scheduler, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(partial(ask, scheduler), requests))
        assert scheduler.streams == 0
    for (text, generation), r in zip(answers, requests, strict=True):
        (alone,) = engine.sweep([r.prompt], [r.policy], SHORT, answer_tokens_max=6, sampling=r.sampling)
        assert generation == alone
        assert text == alone.thinking + alone.answer


def test_a_cancelled_stream_ends_and_frees_its_row(ending_model_dir: Path) -> None:
    engine = HFEngine.load(ending_model_dir, dtype=torch.float32, rows=1)
    endless = Request(PROMPT, Policy(thinking_tokens_min=900), SHORT, 6)
    with Scheduler(engine) as scheduler:
        first = scheduler.submit(endless)
        pieces = iter(first)
        next(pieces)
        waiting = scheduler.submit(Request(PROMPT, Policy(thinking_tokens_max=3), SHORT, 6))
        first.cancel()
        assert list(waiting)
        assert waiting.generation is not None
        list(pieces)
        assert first.generation is None

        events: SimpleQueue[Event] = SimpleQueue()
        scheduler.submit(endless, listener=events.put)
        assert isinstance(events.get(), Piece)
        with pytest.raises(TennerError, match="too many for the context"):
            scheduler.submit(Request(Prompt("long", "x" * 2000), Policy(), SHORT, 6))
    last = events.get()
    while isinstance(last, Piece):
        last = events.get()
    assert last is None, "leaving the block cancels"


def test_what_the_engine_raises_ends_every_stream(ending_model_dir: Path) -> None:
    engine = HFEngine.load(ending_model_dir, dtype=torch.float32, rows=4)
    request = Request(PROMPT, Policy(thinking_tokens_min=900), SHORT, 6)
    with Scheduler(engine) as scheduler:
        streams = [scheduler.submit(request) for _ in range(3)]
        next(iter(streams[0]))
        engine._model.set_output_embeddings(torch.nn.Linear(3, 3))
        for stream in streams:
            with pytest.raises(RuntimeError, match="shape"):
                list(stream)
        with pytest.raises(RuntimeError, match="shape"):
            scheduler.submit(request)


@pytest.mark.slow  # 7 s
def test_what_one_request_raises_ends_that_one_only(
    ending_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a step of the batch, for a prompt that the model cannot be fed; and where its text is written."""
    engine = HFEngine.load(ending_model_dir, dtype=torch.float32, rows=4)
    requests = [Request(Prompt(str(i), f"{i} + {i}"), Policy(thinking_tokens_min=60), SHORT, 6) for i in range(6)]
    swept = engine.sweep([r.prompt for r in requests], [requests[0].policy], SHORT, answer_tokens_max=6)
    alone = {g.prompt_id: g for g in swept}
    said = {token for g in alone.values() for token in g.token_ids}
    poison = next(i for i in range(40, 97) if i not in said)
    poisoned_prompt = Prompt("poisoned", engine.tokenizer.decode([poison]))

    def refuse(_: Any, inputs: tuple[torch.Tensor]) -> None:
        if (inputs[0] == poison).any():
            raise IndexError("a poisoned id")

    hook = engine._model.get_input_embeddings().register_forward_pre_hook(refuse)
    with Scheduler(engine) as scheduler:
        streams = [scheduler.submit(request) for request in requests]
        monkeypatch.setattr(streams[5]._transcript, "fresh", lambda: 1 // 0)
        next(iter(streams[0]))
        for _ in range(2):
            poisoned = scheduler.submit(Request(poisoned_prompt, Policy(), SHORT, 6))
            with pytest.raises(IndexError, match="poisoned"):
                list(poisoned)
        with pytest.raises(ZeroDivisionError):
            list(streams[5])
        for stream in streams[:5]:
            list(stream)
        assert scheduler.fault is None
        assert scheduler.streams == 0
    hook.remove()
    assert [stream.generation for stream in streams[:5]] == [alone[str(i)] for i in range(5)]
    assert capsys.readouterr().err.count("request poisoned ended by IndexError: a poisoned id\n") == 2


def test_what_is_measured_is_of_the_own_distribution_and_counts_what_is_likelier_than_the_likeliest_end() -> None:
    logits_RV = torch.tensor([[0.0, 1.0, 2.0, 3.0], [5.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    found = measure(logits_RV, [3, 1, 2], [{0, 1}, {3}, {0}])
    expected = torch.log_softmax(logits_RV, dim=-1)[[0, 1, 2], [3, 1, 2]]
    assert [m.log_probability for m in found] == pytest.approx(expected.tolist())
    assert [m.end_rank for m in found] == [2, 1, 0]
