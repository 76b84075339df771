"""Families of models: trained as transformers trains them; and what leaks from document to document is found."""

import families
import pytest
import torch
from paths import BENCH
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tenner.core.sections import Train
from tenner.core.seeds import rng
from tenner.training import attention, loop
from tenner.training.loss_mask import Encoded
from tenner.training.packed_loss import PackedLoss
from tenner.training.packing_check import choose_packing

PACKED = {"dense", "windowed", "sinks", "experts", "latent"}
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(scope="module")
def families_train():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        import families_train

        yield families_train


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    "family", [pytest.param(f, id=f.name, marks=[pytest.mark.slow] if f.slow else []) for f in families.FAMILIES]
)
def test_five_steps_are_those_of_a_plain_loop(families_train, family, method):
    outcome = families_train.outcome(family, method)
    assert outcome.difference <= families_train.TOLERANCE
    assert outcome.losses[-1] < outcome.losses[0]
    # Nemotron's attention hands on no arguments.
    alone = family.variant == " with auxiliary loss" or family.model_type == "nemotron"
    assert outcome.packed == (family.kind in PACKED and not alone), outcome.why


def samples(tokens=40, count=6):
    draw = rng(0, "leaks")
    ids = [tuple(draw.randrange(3, families.VOCABULARY) for _ in range(tokens)) for _ in range(count)]
    return [Encoded(str(i), sample, (True,) * tokens) for i, sample in enumerate(ids)]


def reason(model, dtype, **lengths):
    model.set_attn_implementation(attention.NAME)
    loss = PackedLoss(model)
    why = choose_packing(loss, samples(**lengths), device=torch.device("cpu"), dtype=dtype, alone=True)
    assert loss.packed == (why is None)
    return why


@PRECISIONS
@pytest.mark.parametrize("tokens", [40, 300], ids=["short", "long"])
@pytest.mark.parametrize("model_type", ["llama", "gpt_oss"])
def test_isolated_documents_are_packed(model_type, tokens, dtype):
    assert reason(families.model_of(families.family(model_type), dtype=dtype), dtype, tokens=tokens) is None


@pytest.fixture
def leaky_attention(monkeypatch):
    """Each document sees one key too many: the last one of the document before it."""

    def leaky(_module, query, key, value, _mask, *, scaling, documents, **_more):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        tokens = query.shape[2]
        seen = torch.zeros(tokens, tokens, dtype=torch.bool)
        for start, end in documents.bounds:
            first = max(0, start - 1)
            seen[start:end, first:end] = torch.ones(end - start, end - first, dtype=torch.bool).tril(start - first)
        scores = (query @ key.mT * scaling).masked_fill(~seen, -torch.inf)
        return (scores.float().softmax(-1).to(value.dtype) @ value).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, attention.NAME, leaky)


@PRECISIONS
@pytest.mark.usefixtures("leaky_attention")
def test_one_key_of_another_document_is_found(dtype):
    assert "documents change one another's results" in reason(
        families.model_of(families.family("llama"), dtype=dtype), dtype
    )


@PRECISIONS
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["lfm2", "falcon_h1", "qwen3_5_text"])
@pytest.mark.parametrize("weights", ["small", "large"])
def test_a_state_that_is_not_reset_is_found(model_type, weights, dtype):
    """With small weights, as models begin, the loss differs by less than bfloat16 shows."""
    model = families.model_of(families.family(model_type), dtype=dtype)
    if weights == "small":
        torch.manual_seed(0)
        model.init_weights()
        model = type(model)(model.config).to(dtype).eval()
    why = reason(model, dtype)
    assert "documents change one another's results" in why or "gradients at another one" in why


@pytest.mark.parametrize("activations", ["all", "products", "inputs"])
def test_layers_whose_activations_are_computed_again_are_packed(tmp_path, activations):
    said: list[str] = []
    settings = Train(lr=1e-3, tokens_per_step=200, tokens_max=100, epochs=1, precision="fp32", activations=activations)
    model = families.model_of(families.family("llama"))
    loop.train(model, samples(), settings, seed=0, workdir=tmp_path, on_step=lambda _: None, say=said.append)
    assert said == []


def test_experts_are_packed_in_bfloat16_too():
    assert reason(families.model_of(families.family("qwen3_moe"), dtype=torch.bfloat16), torch.bfloat16) is None
