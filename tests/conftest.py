"""Shared real parts: a tiny random Llama with a byte-level ChatML tokenizer, saved as a Hugging Face folder."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenner.core.hardware import cores

if TYPE_CHECKING:
    from vllm_server import VLLMServer

ISA_ENVIRONMENTS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
WORKERS_MAX = 4
"""Each takes most of a gigabyte, and ten seconds of importing and collecting."""

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--isa", choices=ISA_ENVIRONMENTS, help="use no wider instructions, as an older processor")


def pytest_configure(config: pytest.Config) -> None:
    """Set what PyTorch and BLAS read when they are imported; workers and commands inherit it."""
    assert "torch" not in sys.modules
    os.environ.update(ISA_ENVIRONMENTS.get(config.option.isa, {}))
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"  # each worker has a core of its own; more threads only wait for each other
    else:
        # The compiler finds kernels again by what they compute, not by the instructions that they were written for:
        # those of another processor, kept since an earlier run, crash.
        kernels = tempfile.TemporaryDirectory(prefix="kernels-", ignore_cleanup_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = kernels.name
        config.add_cleanup(kernels.cleanup)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker for each core for the default tests as a whole; a selection is run by one process unless told."""
    chosen = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    chosen |= config.option.markexpr not in config.getini("addopts")
    return 0 if chosen or cores() == 1 else min(cores(), WORKERS_MAX)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stop where pytest-xdist has lost the groups of tests, of which it says nothing: each process would start all
    servers. What it adds to the names of a group's tests keeps them in one process.
    """
    if getattr(config.option, "loadgroup", False):
        grouped = [item.nodeid for item in items if item.get_closest_marker("xdist_group")]
        assert all("@" in nodeid for nodeid in grouped), f"pytest {pytest.__version__} hides groups from pytest-xdist"


def pytest_collection_finish() -> None:
    """Spare the garbage collector all that has been imported: training asks for full collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers and random weights (seed 0) whose tokenizer knows bytes and the ChatML marks."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lively_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights so large that its output wanders, and with delimiters made likely."""
    import torch
    from short_format import SHORT
    from transformers import AutoTokenizer
    from wandering_model import wandering_copy

    folder = tmp_path_factory.mktemp("lively") / "model"
    model = wandering_copy(tiny_model_dir, folder)
    with torch.no_grad():
        close = AutoTokenizer.from_pretrained(tiny_model_dir).encode(SHORT.close, add_special_tokens=False)
        model.get_output_embeddings().weight[[*close, 2]] *= 2.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe, shrunk to seconds: the tiny model, four families, and a cap that does not bind."""
    from tenner.core import recipe

    shrunk = recipe.load(
        "demo",
        overrides=[
            'name="tiny"', f'student.model="{tiny_model_dir}"', "budget_usd=1.0",
            "gather.questions=2000", 'gather.families=["running_sum", "bills", "weekdays", "coin_flips"]',
            "attempt.questions=8", "attempt.thinking_tokens_max=12", "attempt.answer_tokens_max=4",
            "select.samples=24", "train.frozen_layers=1", "train.tokens_per_step=600", "train.tokens_max=1000",
            "evaluate.questions=12", "evaluate.thinking_tokens_max=[0, 4, 8, 16]", "evaluate.waits=[1]",
            "evaluate.answer_tokens_max=4", "evaluate.rows=8",
        ],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(shrunk.to_toml())
    return path


@pytest.fixture(scope="session")
def vllm_server() -> "Iterator[VLLMServer]":
    """A real vLLM before the demo's student, in float32 and with tenner's logits processor: its start takes a minute.

    The tests that use it are of the group "vllm server", so that one process of pytest has all of them.
    """
    from vllm_server import VLLMServer

    from tenner.core import recipe
    from tenner.training import student_address

    options = (
        "--dtype", "float32", "--generation-config", "vllm",
        "--logits-processors", "tenner.inference.vllm:ForcingProcessor",
    )  # fmt: skip
    with VLLMServer(student_address.resolve(recipe.load("demo").student.model), name="m", options=options) as server:
        yield server
