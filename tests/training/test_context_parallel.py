"""Rows that several processes share: how they are cut, what cannot share them, and the same training as by one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import assert_same_curve, random_qwen2, run, samples, trained
from torch.nn import functional
from transformers import AutoTokenizer

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training import context_parallel, loop, packing
from tenner.training.architecture import Architecture
from tenner.training.attention import packed_attention
from tenner.training.distributed import ContextGroup, check_rows_shared
from tenner.training.documents import Documents
from tenner.training.memory_plan import forecast
from tenner.training.plan import Machine, plan

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300,
}  # fmt: skip
SETTINGS = Train(epochs=1, lr=1e-5, tokens_per_step=100_000, tokens_max=20_480, precision="bf16")


# -- slices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 8, 200])
def test_slices_together_are_the_row(count):
    """200 processes have more places than the row has tokens."""
    row = packing.pack(samples(3))
    slices = [context_parallel.slice_of(row, index, count) for index in range(count)]
    assert len({len(s.ids) for s in slices}) == 1
    ids, positions = ([n for s in slices for n in getattr(s, name)] for name in ("ids", "positions"))
    tokens, padding = len(row.ids), -len(row.ids) % count
    assert (tuple(ids[:tokens]), tuple(positions[:tokens])) == (row.ids, row.positions)
    assert positions[tokens:] == list(range(padding))
    size = len(slices[0].ids)
    told = [(k * size + p, t) for k, s in enumerate(slices) for p, t in zip(s.predictors, s.targets, strict=True)]
    assert told == list(zip(row.predictors, row.targets, strict=True))
    assert {sum(s.lengths) for s in slices} == {tokens + padding}
    assert {s.lengths[: len(row.lengths)] for s in slices} == {row.lengths}


def test_the_first_token_of_a_slice_is_predicted_by_the_one_before():
    row = packing.pack(samples(1, longest=40))
    size = len(row.ids) // 2
    first, second = (context_parallel.slice_of(row, index, 2) for index in range(2))
    assert first.predictors[-1] == len(first.ids) - 1
    assert first.targets[-1] == second.ids[0]
    assert size <= len(first.ids) <= size + 1


# -- attention ---------------------------------------------------------------------------------------------------------


class Meeting:
    """Where threads exchange what processes would send one another."""

    def __init__(self, size):
        self.chunks: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=30)


class ThreadGroup(ContextGroup):
    def exchange(self, chunks):
        meeting: Any = self.processes
        meeting.chunks[self.rank] = chunks
        meeting.barrier.wait()
        received = torch.stack([theirs[self.rank] for theirs in meeting.chunks])
        meeting.barrier.wait()
        return received


@pytest.mark.parametrize(("heads", "key_heads", "count"), [(4, 2, 2), (4, 2, 4), (6, 3, 2), (8, 8, 4)])
@pytest.mark.parametrize("lengths", [(3, 8, 5), (7, 301, 12)])
def test_attention_over_a_shared_row_is_that_of_the_row(heads, key_heads, count, lengths):
    """Both ways, with keys repeated for processes that outnumber them or divide them unevenly."""
    torch.manual_seed(0)
    tokens, size = sum(lengths), 8
    parts = [torch.randn(1, n, tokens, size) for n in (heads, key_heads, key_heads)]
    grad = torch.randn(1, tokens, heads, size)
    module, cpu = torch.nn.Module(), torch.device("cpu")

    def attended(parts, grad, lengths, **how):
        leaves = query, key, value = [part.clone().requires_grad_() for part in parts]
        documents = Documents(lengths, torch.float32, cpu)
        out, _ = packed_attention(module, query, key, value, None, scaling=0.3, documents=documents, **how)
        out.backward(grad)
        return [out.detach(), *(leaf.grad.transpose(1, 2) for leaf in leaves)]

    def of_slice(rank):
        padded = [functional.pad(part, (0, 0, 0, padding)).chunk(count, dim=2)[rank] for part in parts]
        own_grad = functional.pad(grad, (0, 0, 0, 0, 0, padding)).chunk(count, dim=1)[rank]
        return attended(padded, own_grad, (*lengths, padding)[: len(lengths) + (padding > 0)], context=groups[rank])

    padding = -tokens % count
    meeting: Any = Meeting(count)
    groups = [ThreadGroup(rank, count, meeting) for rank in range(count)]
    with ThreadPoolExecutor(count) as threads:
        slices = list(threads.map(of_slice, range(count)))
    for shared, whole in zip(zip(*slices, strict=True), attended(parts, grad, lengths), strict=True):
        torch.testing.assert_close(torch.cat(shared, dim=1)[:, :tokens], whole)


# -- what cannot share rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "count", "why"),
    [
        ({}, 3, "has 8 heads"),
        ({"model_type": "mistral", "sliding_window": 4096}, 2, "layers see 4,096 tokens"),
        ({"model_type": "mamba2", "head_dim": 16, "num_heads": 8}, 2, "without attention"),
    ],
)
def test_models_that_cannot_share_rows_are_refused(changes, count, why):
    architecture = Architecture.of(LLAMA | changes)
    assert not context_parallel.possible(architecture, count, longest_tokens=20_480)
    with pytest.raises(TennerError, match=f"context_parallel = {count} cannot be.*{why}"):
        context_parallel.check(architecture, count, longest_tokens=20_480)
    shared = SETTINGS.model_copy(update={"context_parallel": count})
    with pytest.raises(TennerError, match=why):
        plan(architecture, shared, Machine(count, True, None), longest_tokens=20_480)


@pytest.mark.parametrize("changes", [{}, {"model_type": "mistral", "sliding_window": 32_768}])
def test_a_window_that_no_sample_fills_is_none(changes):
    context_parallel.check(Architecture.of(LLAMA | changes), 8, longest_tokens=20_480)


@pytest.mark.parametrize(("size", "message"), [(1, "one process cannot"), (6, "6 processes cannot")])
def test_a_number_of_processes_that_cannot_share_rows_is_refused(size, message, tiny_model_dir, tmp_path):
    with pytest.raises(TennerError, match=f"{message} share rows between 4 each"):
        check_rows_shared(size, 4)
    with pytest.raises(TennerError, match=f"{message.split()[0]}.* share rows"):
        plan(
            Architecture.of(LLAMA), SETTINGS.model_copy(update={"context_parallel": 4}), Machine(size, True, None),
            longest_tokens=100,
        )  # fmt: skip
    if size == 1:
        with pytest.raises(TennerError, match="one process cannot share rows"):
            run(tiny_model_dir, tmp_path, context_parallel=4)


def test_one_process_with_weights_in_four_bits_shares_no_rows():
    with pytest.raises(ValueError, match="context_parallel is for several processes"):
        Train(epochs=1, lr=1e-5, tokens_per_step=1, tokens_max=1, method="lora", quantization="nf4", context_parallel=2)


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_long_sample_takes_a_share_of_the_memory_where_it_is_shared():
    """The default row is shorter than the sample, so the sample is the row; keys are repeated for more than two."""

    def activations(count: int) -> float:
        shared = SETTINGS.model_copy(update={"context_parallel": count})
        return forecast(Architecture.of(LLAMA), shared, longest_tokens=20_480, ranks=8).items["activations"]

    alone = activations(1)
    assert activations(2) == pytest.approx(alone / 2, rel=1e-3)
    assert alone / 8 < activations(8) < alone / 6
    fewer = [activations(count) for count in (1, 2, 4, 8)]
    assert all(a > b for a, b in pairwise(fewer))


def test_the_plan_names_the_ranks_that_should_share_rows():
    config = LLAMA | {"hidden_size": 512, "intermediate_size": 2048}
    lengths = [2_000 + 700 * (i * 17 % 26) for i in range(104)]
    told = plan(Architecture.of(config), SETTINGS, Machine(16, True, None), longest_tokens=20_480, lengths=lengths)
    assert told.waiting is not None
    assert told.waiting.context_parallel is not None
    assert told.waiting.idle_share > 0.3
    assert f"with train.context_parallel = {told.waiting.context_parallel}, where so many share" in told.as_text()
    shared = SETTINGS.model_copy(update={"context_parallel": told.waiting.context_parallel})
    then = plan(Architecture.of(config), shared, Machine(16, True, None), longest_tokens=20_480, lengths=lengths)
    assert then.waiting is not None
    assert told.waiting.idle_share_shared is not None
    assert then.waiting.idle_share == told.waiting.idle_share_shared <= 0.1
    assert then.waiting.context_parallel is None


# -- the same training as by one process -------------------------------------------------------------------------------

LONG = 300
"""Tokens of the longest sample where documents are longer than the kernel of short ones takes."""
FULL = {"precision": "fp32", "epochs": 2}
LORA = {**FULL, "method": "lora", "lora_rank": 2, "lr": 1e-3}


@pytest.fixture(scope="module")
def model_dirs(tiny_model_dir, tmp_path_factory):
    """A Llama of four heads over two key heads; and a Qwen2 of six over three, which two processes do not divide."""
    folder = tmp_path_factory.mktemp("qwen") / "model"
    random_qwen2(folder, tiny_model_dir, heads=6, key_heads=3, positions=512)
    return {"llama": tiny_model_dir, "qwen2": folder}


def weights(student: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).state_dict())


def assert_same_training(model_dir, settings, rows, student, tmp_path, *, longest=80):
    reports: list[Any] = []
    work = tmp_path / "alone"
    alone = {name: value for name, value in settings.items() if name != "context_parallel"}
    result = run(model_dir, work, samples(longest=longest), on_step=reports.append, **alone)
    assert len(reports) >= 10
    assert_same_curve(rows, reports)
    loop.finish(result, model_dir, tmp_path / "student", work, base_model="tiny")
    theirs = weights(student)
    for name, tensor in weights(tmp_path / "student").items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-4, rtol=1e-3)


def shared_by(count, processes, trainings, folder, model_dirs, options=()):
    """name -> rows and the folder of the student, of trainings whose rows are shared by so many; one launch."""
    jobs = [
        (model_dirs[family], folder / name, settings | {"context_parallel": count})
        for name, (family, settings) in trainings.items()
    ]
    rows = trained(*jobs, processes=processes, options=("--save", *options))
    return {name: (r, Path(f"{folder / name}-student")) for name, r in zip(trainings, rows, strict=True)}


BY_TWO = {
    "full": ("llama", FULL),
    "lora": ("qwen2", LORA),
    "inputs": ("qwen2", FULL | {"activations": "inputs"}),
    "products": ("llama", FULL | {"activations": "products"}),
}


@pytest.fixture(scope="module")
def by_two(model_dirs, tmp_path_factory):
    return shared_by(2, 2, BY_TWO, tmp_path_factory.mktemp("two"), model_dirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_TWO)
def test_two_that_share_rows_train_as_one(by_two, model_dirs, tmp_path, name):
    """Rows of about 200 tokens and four documents, cut in their midst, often of an odd number of tokens."""
    (family, settings), (rows, student) = BY_TWO[name], by_two[name]
    assert_same_training(model_dirs[family], settings, rows, student, tmp_path)


@pytest.mark.slow
def test_a_training_with_shared_rows_goes_on_to_the_bit(by_two, tiny_model_dir, tmp_path):
    training = (tiny_model_dir, tmp_path / "work", FULL | {"context_parallel": 2})
    before, after = trained(training, training, options=("--stop-at", 3))
    assert len(before) == 4
    assert before + after == by_two["full"][0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "method"), [(2, "full"), (4, "lora")])
def test_four_processes_train_as_one(count, method, model_dirs, tmp_path):
    """Two pairs with a row each; and one row for all four, more than there are key heads."""
    cases = {method: ("llama", {"full": FULL, "lora": LORA}[method])}
    done = shared_by(count, 4, cases, tmp_path, model_dirs, ("--longest", LONG))
    for name, (family, settings) in cases.items():
        rows, student = done[name]
        (tmp_path / f"one-{name}").mkdir()
        assert_same_training(model_dirs[family], settings, rows, student, tmp_path / f"one-{name}", longest=LONG)


@pytest.mark.slow
def test_a_student_with_a_soft_cap_is_refused(model_dirs, tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=301, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=512, sliding_window=4096,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(model_dirs["llama"]).save_pretrained(tmp_path / "model")
    with pytest.raises(AssertionError, match=r"context_parallel = 2 cannot be: .*a soft cap"):
        trained((tmp_path / "model", tmp_path / "work", FULL | {"context_parallel": 2}))
