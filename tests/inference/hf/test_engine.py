"""The embedded engine against plain transformers generation, on a tiny model in fp32 where both must agree exactly."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from short_format import SHORT
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import Policy
from tenner.inference.engine import Generation
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Prompt

S1 = FORMATS["s1"]
PROMPTS = [Prompt(str(i), f"<|im_start|>user\n{'What is ' * (i % 4)}{i} + {i * i}?<|im_end|>\n") for i in range(11)]
POLICIES = [Policy(thinking_tokens_max=b) for b in (0, 3, 8, 20, 40)] + [
    Policy(thinking_tokens_max=40, waits=w) for w in (1, 2)
]


def load(folder: Path, **options: Any) -> HFEngine:
    return HFEngine.load(folder, dtype=torch.float32, **options)


def by_key(generations: Sequence[Generation]) -> dict[tuple[str, Policy], Generation]:
    keyed = {(g.prompt_id, g.policy): g for g in generations}
    assert len(keyed) == len(generations)
    return keyed


def sweep(
    engine: HFEngine, prompts: Sequence[Prompt], policies: Sequence[Policy]
) -> dict[tuple[str, Policy], Generation]:
    return by_key(list(engine.sweep(prompts, policies, SHORT, answer_tokens_max=12)))


@pytest.fixture(scope="module")
def swept(lively_model_dir: Path) -> dict[tuple[str, Policy], Generation]:
    return sweep(load(lively_model_dir), PROMPTS, POLICIES)


def test_every_prompt_under_every_policy_once(swept: dict[tuple[str, Policy], Generation]) -> None:
    assert set(swept) == {(prompt.id, policy) for prompt in PROMPTS for policy in POLICIES}
    kinds = {i.kind for g in swept.values() for i in g.interventions}
    assert kinds == {"open", "wait", "cut", "close", "cue"}, "the model is lively enough to test something"
    assert {g.truncated for g in swept.values()} == {True, False}


@pytest.mark.parametrize(
    "rows", [pytest.param(1, marks=pytest.mark.slow), 2, 5, pytest.param(40, marks=pytest.mark.slow)]
)
def test_rows_change_nothing(lively_model_dir: Path, swept: dict[tuple[str, Policy], Generation], rows: int) -> None:
    assert sweep(load(lively_model_dir, rows=rows), PROMPTS, POLICIES) == swept


def test_a_sweep_is_each_policy_alone(lively_model_dir: Path, swept: dict[tuple[str, Policy], Generation]) -> None:
    engine = load(lively_model_dir)
    for policy in POLICIES:
        alone = sweep(engine, PROMPTS, [policy])
        assert alone == {key: swept[key] for key in alone}
    assert sweep(engine, PROMPTS, POLICIES[::-1]) == swept, "nor does their order matter"


def test_forced_ids_are_followed_by_what_transformers_would_say(
    lively_model_dir: Path, swept: dict[tuple[str, Policy], Generation]
) -> None:
    """Every sampled token is the most likely one after all ids before it, by a plain forward pass without a cache."""
    model: Any = AutoModelForCausalLM.from_pretrained(lively_model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(lively_model_dir)
    for prompt in PROMPTS[:4]:
        prompt_ids = tokenizer.encode(prompt.text, add_special_tokens=False)
        for policy in POLICIES:
            generation = swept[prompt.id, policy]
            ids = [*prompt_ids, *generation.token_ids]
            with torch.inference_mode():
                likely = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
            forced = {p for i in generation.interventions for p in range(i.position, i.position + i.tokens)}
            for position, token in enumerate(generation.token_ids):
                if position not in forced:
                    assert token == likely[len(prompt_ids) + position - 1]
            if not generation.truncated:
                assert likely[-1] == tokenizer.eos_token_id


def test_unforced_decoding_is_plain_generation(lively_model_dir: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(lively_model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(lively_model_dir)
    engine, compared = load(lively_model_dir), 0
    for prompt in PROMPTS:
        (generation,) = engine.sweep([prompt], [Policy(thinking_tokens_max=80)], SHORT, answer_tokens_max=60)
        if [i.kind for i in generation.interventions] != ["open"]:
            continue
        start = torch.tensor([tokenizer.encode(prompt.text + SHORT.open, add_special_tokens=False)])
        completion = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=140, pad_token_id=0
        )[0, start.shape[1] :].tolist()
        opened = generation.interventions[0].tokens
        expected = completion[: completion.index(2)] if 2 in completion else completion
        assert list(generation.token_ids[opened:]) == expected[: len(generation.token_ids) - opened]
        assert generation.truncated or 2 in completion
        compared += 1
    assert compared >= 3


def test_no_prefix_is_fed_or_sampled_twice(lively_model_dir: Path, swept: dict[tuple[str, Policy], Generation]) -> None:
    """Tokens through the model: each prompt once, and little more than the distinct ids of its completions."""
    engine, fed = load(lively_model_dir, rows=3), []
    embedding = engine._model.get_input_embeddings()
    embedding.register_forward_hook(lambda _module, args, _out: fed.append(args[0].numel()))
    sweep(engine, PROMPTS, POLICIES)
    prompts = sum(len(engine.tokenizer.encode(p.text, add_special_tokens=False)) for p in PROMPTS)
    contexts = {(g.prompt_id, g.token_ids[:n]) for g in swept.values() for n in range(1, len(g.token_ids) + 1)}
    assert prompts < sum(fed) < prompts + 1.15 * len(contexts)


def test_a_multi_token_close_and_an_empty_one(lively_model_dir: Path) -> None:
    engine = load(lively_model_dir)
    for fmt in (S1, FORMATS["plain"]):
        for generation in engine.sweep(PROMPTS[:3], POLICIES, fmt, answer_tokens_max=5):
            assert generation.thinking_tokens <= (generation.policy.thinking_tokens_max or 0)
            cut = any(i.kind == "cut" for i in generation.interventions)
            assert generation.answer.startswith(fmt.cue) or not (cut or fmt.close == "")
            whole = engine.tokenizer.decode(list(generation.token_ids), skip_special_tokens=False)
            assert whole == fmt.open + generation.thinking + fmt.close + generation.answer


def test_a_stream_is_the_generation(lively_model_dir: Path, swept: dict[tuple[str, Policy], Generation]) -> None:
    engine = load(lively_model_dir)
    for policy in POLICIES:
        pieces = list(engine.stream(PROMPTS[1], policy, SHORT, answer_tokens_max=12))
        expected = swept[PROMPTS[1].id, policy]
        assert "".join(p.text for p in pieces if p.part == "thinking") == expected.thinking
        assert "".join(p.text for p in pieces if p.part == "answer") == expected.answer


def test_ids_beyond_the_tokenizer_are_never_sampled(lively_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "padded"
    shutil.copytree(lively_model_dir, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(lively_model_dir, dtype=torch.float32)
    tokens = model.config.vocab_size
    model.resize_token_embeddings(tokens + 5, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[tokens:] = 9 * model.get_output_embeddings().weight[:5]
    model.save_pretrained(folder)
    for generation in load(folder).sweep(PROMPTS[:4], POLICIES[-1:], SHORT, answer_tokens_max=12):
        assert max(generation.token_ids) < tokens


@pytest.mark.skipif(
    torch.cuda.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="packs only for bf16 on a CPU"
)
@pytest.mark.parametrize("rows", [1, 64, 100])
def test_packed_weights_give_the_same_products(lively_model_dir: Path, rows: int) -> None:
    packed = HFEngine.load(lively_model_dir, dtype=torch.bfloat16)._model
    plain = AutoModelForCausalLM.from_pretrained(lively_model_dir, dtype=torch.bfloat16)
    x = torch.randn(1, rows, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        for name in ("model.layers.1.mlp.up_proj", "lm_head"):
            layer = packed.get_submodule(name)
            assert not isinstance(layer, torch.nn.Linear)
            torch.testing.assert_close(layer(x), plain.get_submodule(name)(x))


def test_bf16_keeps_the_rules(lively_model_dir: Path) -> None:
    engine = HFEngine.load(lively_model_dir, rows=4, dtype=torch.bfloat16)
    swept = by_key(list(engine.sweep(PROMPTS, POLICIES, SHORT, answer_tokens_max=12)))
    assert len(swept) == len(PROMPTS) * len(POLICIES)
    assert by_key(list(engine.sweep(PROMPTS, POLICIES, SHORT, answer_tokens_max=12))) == swept, "deterministic"
    assert all(g.thinking_tokens <= (g.policy.thinking_tokens_max or 0) for g in swept.values())


def test_refused_at_the_door(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TennerError, match="not a model folder"):
        HFEngine.load(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(TennerError, match="ids but the model only 100"):
        HFEngine.load(folder)


def test_a_prompt_without_room_is_refused_before_anything_is_decoded(tiny_model_dir: Path) -> None:
    engine = load(tiny_model_dir)
    prompts = [PROMPTS[0], Prompt("long", "x" * 1020)]
    with pytest.raises(TennerError, match=r"prompt long has 1020 tokens: \d+ too many"):
        next(engine.sweep(prompts, [Policy()], S1, answer_tokens_max=8))


def test_every_end_of_a_turn_that_the_model_names_ends_it(lively_model_dir: Path, tmp_path: Path) -> None:
    """As in transformers, which takes them from generation_config.json."""
    folder = tmp_path / "model"
    shutil.copytree(lively_model_dir, folder)
    alone = load(lively_model_dir)
    free = sweep(alone, PROMPTS, POLICIES[:1])
    second = next(i for g in free.values() for i in g.token_ids[-3:] if i > 2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [str(tokenizer.convert_ids_to_tokens(second))]})
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, second]}))
    engine = load(folder)
    assert alone.end_ids == {2}
    assert engine.end_ids == {2, second}
    ended = sweep(engine, PROMPTS, POLICIES[:1])
    assert ended != free
    for key, generation in ended.items():
        start = len(generation.token_ids) - generation.answer_tokens
        said = free[key].token_ids[start:]
        upto = said.index(second) if second in said else len(said)
        assert generation.token_ids[start:] == said[:upto]
        assert generation.truncated == (free[key].truncated and second not in said)


EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").write_text("")
from transformers import PretrainedConfig
class C(PretrainedConfig):
    model_type = "evil"
"""


def test_the_code_of_a_model_is_not_run_and_nobody_is_asked(tiny_model_dir, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(TennerError, match="model"):
        load(folder)
    assert not list(tmp_path.rglob("ran"))
