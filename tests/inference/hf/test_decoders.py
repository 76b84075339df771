"""Decoders of many families: greedy ids are those of generate; and what leaks from row to row is found at load."""

import copy
import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from paths import BENCH
from transformers.cache_utils import DynamicCache, LinearAttentionLayer

from tenner.core.errors import TennerError
from tenner.core.records import Policy
from tenner.inference.hf import decoders, decoding_check, kv_cache, library_decoder
from tenner.inference.hf.decoder import RowFeed
from tenner.inference.hf.engine import HFEngine
from tenner.inference.hf.library_decoder import LibraryDecoder
from tenner.inference.hf.packed_linear import BLOCK_ROWS, can_pack, pack_linears, rounded_up
from tenner.inference.hf.recurrent_decoder import RecurrentDecoder
from tenner.inference.hf.recurrent_states import RecurrentStates
from tenner.inference.hf.slot_decoder import SlotDecoder
from tenner.inference.job import Prompt

RECURRENT = {"DeltaNet", "convolution", "state space"}
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(scope="module")
def families_decode():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        import families_decode

        yield families_decode


def choose(model):
    return decoders.choose_decoder(model, vocabulary=families.VOCABULARY, rows_max=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, id=f.name, marks=[pytest.mark.slow] if f.slow else [])
        for f in families.FAMILIES
        if f.variant != " with auxiliary loss"
    ],
)
def test_greedy_ids_are_those_of_generate(families_decode, family):
    outcome = families_decode.outcome(family)
    assert outcome.supported, outcome.decoding
    assert outcome.same == outcome.completions == 32
    assert outcome.waits > 0
    assert "one row at a time" not in outcome.decoding
    assert ("recurrent state" in outcome.decoding) == (family.kind in RECURRENT)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", [pytest.param("gpt_oss", marks=pytest.mark.slow), "qwen3_5_text"])
def test_rows_policies_and_their_order_change_nothing(families_decode, model_type, tmp_path):
    families.model_of(families.family(model_type)).save_pretrained(tmp_path)
    families_decode.tokenizer().save_pretrained(tmp_path)
    prompts, policies = families_decode.PROMPTS[:3], families_decode.POLICIES

    def sweep(rows, policies):
        engine = HFEngine.load(tmp_path, rows=rows, dtype=torch.float32, device="cpu")
        found = engine.sweep(prompts, policies, families_decode.FORMAT, answer_tokens_max=4)
        return {(g.prompt_id, g.policy): g for g in found}

    swept = sweep(1, policies)
    assert sweep(7, policies[::-1]) == swept
    alone = sweep(2, policies[2:3])
    assert alone == {key: swept[key] for key in alone}


def nemotron(**more):
    """A small Nemotron-H. transformers bounds its time steps in a whole text from below, but not in a single step."""
    layers = ["linear_attention", "full_attention"]
    family = families.family("nemotron_h")
    return families.model_of(family._replace(more=family.more | {"num_hidden_layers": 2, "layer_types": layers} | more))


@pytest.mark.filterwarnings("ignore")
def test_a_model_whose_steps_are_not_those_of_its_forward_pass_is_refused_in_one_line():
    with pytest.raises(TennerError) as caught:
        choose(nemotron())
    assert str(caught.value) == (
        "the embedded engine cannot decode this nemotron_h model: going on from transformers' own cache, "
        "the logits are not those of the model's own forward pass"
    )
    assert caught.value.hint == "decode it with vLLM, or behind a URL"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_same_model_is_decoded_where_no_time_step_reaches_the_bound():
    assert "recurrent state" in (choose(nemotron(time_step_min=1e-30)).notice or "")


def leaky(attend):
    """Each row sees the first key of the row before it in place of its own."""

    def attend_leaky(self, layer, query, key, value, feed, **more):
        key = key.clone()
        first = [int(i) for i in (feed.slot_T.diff() != 0).nonzero()[:, 0] + 1]
        for i in first:
            key[:, i] = key[:, i - 1]
        return attend(self, layer, query, key, value, feed, **more)

    return attend_leaky


def slightly_leaky(attend):
    """What a row attends to has a thousandth of what the token before it attends to: less than bf16 shows in logits."""

    def attend_leaky(self, layer, query, key, value, feed, **more):
        seen = attend(self, layer, query, key, value, feed, **more)
        return seen + seen.roll(1, dims=0) * 1e-3

    return attend_leaky


@PRECISIONS
@pytest.mark.parametrize("leak", [leaky, slightly_leaky])
@pytest.mark.parametrize("model_type", ["llama", "mixtral"])
def test_keys_of_another_row_are_noticed(monkeypatch, model_type, leak, dtype):
    model = families.model_of(families.family(model_type), dtype=dtype)
    assert choose(model).notice is None
    model.set_attn_implementation("sdpa")
    monkeypatch.setattr(kv_cache.KVCache, "attend", leak(kv_cache.KVCache.attend))
    notice = choose(model).notice
    assert notice is not None
    assert "one row at a time" in notice
    assert "a row depends on the ids of other rows" in notice or "the logits are not those" in notice


@PRECISIONS
def test_a_row_that_depends_on_others_is_noticed_by_its_bits(monkeypatch, dtype):
    """Where the logits are the same but for rounding."""
    model = families.model_of(families.family("llama"), dtype=dtype)
    expected = decoding_check.compute_reference(model, vocabulary=families.VOCABULARY)
    model.set_attn_implementation(kv_cache.ATTENTION_NAME)
    monkeypatch.setattr(kv_cache.KVCache, "attend", slightly_leaky(kv_cache.KVCache.attend))
    monkeypatch.setattr(decoding_check, "_close", lambda *_: True)
    new = partial(SlotDecoder, model, rows_max=8)
    fault = decoding_check.find_fault(model, new, expected, vocabulary=families.VOCABULARY)
    assert fault == "a row depends on the ids of other rows"


@PRECISIONS
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["qwen3_5_text", "lfm2"])
def test_a_state_that_is_not_reset_is_noticed(monkeypatch, model_type, dtype):
    """A new row's recurrent layers begin with the state that another row has left."""
    model = families.model_of(families.family(model_type), dtype=dtype)
    assert "one by one" in (choose(model).notice or "")
    model.set_attn_implementation("sdpa")
    first = RecurrentStates(model.config, rows_max=4).empty()
    monkeypatch.setattr(RecurrentStates, "empty", lambda _: first)
    assert "one row at a time" in (choose(model).notice or "")
    first = DynamicCache(config=model.config)

    def not_reset(config):
        cache = DynamicCache(config=config)
        pairs = zip(cache.layers, first.layers, strict=True)
        cache.layers = [old if isinstance(old, LinearAttentionLayer) else new for new, old in pairs]
        return cache

    monkeypatch.setattr(library_decoder, "DynamicCache", not_reset)
    with pytest.raises(TennerError, match=f"cannot decode this {model_type} model"):
        choose(model)


@PRECISIONS
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["lfm2", pytest.param("falcon_h1", marks=pytest.mark.slow)])
def test_a_state_of_another_row_is_noticed(monkeypatch, model_type, dtype):
    """A thousandth of it, which the logits of bf16 do not show."""
    model = families.model_of(families.family(model_type), dtype=dtype)
    load = RecurrentStates.load

    def load_leaky(states, slots):
        cache = load(states, slots)
        for layer in cache.layers:
            for state in getattr(layer, "conv_states", {}).values():
                state += state.roll(1, dims=0) * 1e-3
        return cache

    monkeypatch.setattr(RecurrentStates, "load", load_leaky)
    notice = choose(model).notice or ""
    assert "one row at a time" in notice
    assert "a row depends on the ids of other rows" in notice or "the logits are not those" in notice


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batched", [True, False])
def test_a_fork_starts_again_from_the_prompt_and_leaves_its_source(batched):
    model = families.model_of(families.family("qwen3_5_text"))
    with torch.inference_mode():
        alone = model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10]])).logits[0, -1]
    if batched:
        model.set_attn_implementation(kv_cache.ATTENTION_NAME)
    decoder = RecurrentDecoder(model, rows_max=4) if batched else LibraryDecoder(model)
    with torch.inference_mode():
        decoder.feed([RowFeed([5, 6, 7, 8, 9], 0, restart_at=3)])
        assert decoder.fork(0, 1, 4) == 3
        assert decoder.fork(0, 2, 5) == 5
        assert decoder.fork(0, 3, 2) == 0
        logits = decoder.feed([RowFeed([10], 5), RowFeed([8, 9, 10], 3), RowFeed([10], 5), RowFeed([5, 6, 7], 0)])
    for row in range(3):
        torch.testing.assert_close(logits[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_computes_the_same_and_its_weight_can_be_read(dtype):
    if not can_pack(dtype):
        pytest.skip("packs only where the processor supports it")
    model: Any = torch.nn.Sequential(torch.nn.Linear(48, 40).to(dtype))
    plain: Any = copy.deepcopy(model[0])
    pack_linears(model)
    assert torch.equal(model[0].weight, plain.weight)
    assert torch.equal(model[0].bias, plain.bias)
    for rows in (1, 7, 64, 200, 600):
        x_RD = torch.randn(rows, 48, generator=torch.Generator().manual_seed(rows)).to(dtype)
        torch.testing.assert_close(model(x_RD), plain(x_RD))


def test_kernels_are_compiled_for_few_numbers_of_rows():
    padded = [rounded_up(rows) for rows in range(1, BLOCK_ROWS + 1)]
    assert all(rows <= wanted <= max(rows + 3, 1.125 * rows) for rows, wanted in enumerate(padded, 1))
    assert padded[:8] == list(range(1, 9))
    assert padded[-1] == BLOCK_ROWS
    assert len(set(padded)) < 40


def test_what_is_neither_float32_nor_bfloat16_is_not_packed():
    assert can_pack(torch.float32) or platform.machine() != "x86_64"
    assert not can_pack(torch.float16)


def test_scores_are_not_rounded_to_bfloat16():
    """Large scores that differ by little, as those of Gemma 3: rounded, they would come out equal or far apart."""
    generator = torch.Generator().manual_seed(0)
    rows, heads, tokens, size = 3, 4, 24, 64
    key_KTD = torch.randn(heads, rows * tokens, size, generator=generator).bfloat16()
    value_KTD = torch.randn(heads, rows * tokens, size, generator=generator).bfloat16()
    query_HTD = (4 * torch.randn(heads, rows, size, generator=generator)).bfloat16()
    cache = kv_cache.KVCache(rows_max=rows)
    with cache.step([tokens] * rows, [0] * rows, torch.device("cpu")) as feed:
        cache.attend(0, torch.zeros_like(key_KTD), key_KTD, value_KTD, feed, scaling=1.0)
    last = [tokens * (row + 1) - 1 for row in range(rows)]
    with cache.step([1] * rows, [tokens - 1] * rows, torch.device("cpu")) as feed:
        found_THD = cache.attend(0, query_HTD, key_KTD[:, last], value_KTD[:, last], feed, scaling=1.0)
    key_RKTD, value_RKTD = (x.double().view(heads, rows, tokens, size).transpose(0, 1) for x in (key_KTD, value_KTD))
    weight_RKT = torch.einsum("krd,rktd->rkt", query_HTD.double(), key_RKTD).softmax(-1)
    wanted_RKD = torch.einsum("rkt,rktd->rkd", weight_RKT, value_RKTD)
    torch.testing.assert_close(found_THD.double(), wanted_RKD, rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore")
def test_the_text_part_of_a_larger_model_is_decoded(families_decode, tmp_path: Path):
    """Qwen3.5 comes as a vision model's config, whose sizes are those of its text part."""
    families.model_of(families.family("qwen3_5_text")).save_pretrained(tmp_path)
    families_decode.tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    whole = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": config}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    engine = HFEngine.load(tmp_path, rows=2, dtype=torch.float32, device="cpu")
    swept = list(
        engine.sweep(families_decode.PROMPTS[:2], families_decode.POLICIES, families_decode.FORMAT, answer_tokens_max=4)
    )
    assert len(swept) == 2 * len(families_decode.POLICIES)


@pytest.mark.filterwarnings("ignore")
def test_no_row_may_be_longer_than_the_first_range_of_longrope(families_decode, tmp_path: Path):
    """Beyond it, one long row would change the frequencies of all."""
    factors = [1.0] * 8
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": [4.0] * 8}
    more = {"rope_parameters": rope | {"original_max_position_embeddings": 64}, "original_max_position_embeddings": 64}
    families.model_of(families.family("phi3")._replace(more=more)).save_pretrained(tmp_path)
    families_decode.tokenizer().save_pretrained(tmp_path)
    engine = HFEngine.load(tmp_path, rows=2, dtype=torch.float32, device="cpu")
    assert "up to 64 tokens" in (engine.notice or "")
    with pytest.raises(TennerError, match="for the context of 64 tokens"):
        next(engine.sweep([Prompt("0", "x" * 60)], [Policy()], families_decode.FORMAT, answer_tokens_max=8))


def test_an_unknown_kind_of_model_is_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(TennerError, match="no_such_model"):
        HFEngine.load(tmp_path)
