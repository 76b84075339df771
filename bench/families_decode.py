"""The embedded engine against transformers' own generate, over tiny random models of many families.

For each family, 8 prompts of uneven length are decoded greedily in one batch under 3 budgets and one wait. Then each
completion is decoded again by `generate` on its row alone: `generate` cannot force, so every stretch of sampled tokens
is generated anew after the ids before it, injected ones included. All ids must be the same.

The last line is one JSON object. Exit code 1 where ids differ, or more than three families are not supported.

    python bench/families_decode.py [--only MODEL_TYPE ...]
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import evidence
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from families import FAMILIES, MORE_FAMILIES, VOCABULARY, Family, model_of

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat
from tenner.core.records import Policy
from tenner.inference.engine import Generation
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Prompt

FORMAT = ThinkFormat("bench", open="<t>", close="</t>", cue="=")
PROMPTS = [Prompt(str(i), "".join(chr(97 + (7 * i + 3 * j) % 26) for j in range(3 + 6 * i))) for i in range(8)]
POLICIES = [Policy(thinking_tokens_max=b) for b in (0, 6, 24)] + [Policy(thinking_tokens_max=24, waits=1)]
ANSWER_TOKENS_MAX = 8
END_GAIN = 2.0
"""How many times as large the logits of the two ends are."""


class Outcome(NamedTuple):
    """What came of one family."""

    same: int
    completions: int
    waits: int
    """Ends that were replaced."""
    decoding: str
    """"continuous batch", or why it is not, or why the family is not supported."""
    supported: bool
    seconds: float


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and the delimiters, each one id."""
    specials = ["<pad>", "<bos>", "<eos>", "<t>", "</t>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=["<t>", "</t>"],
    )  # fmt: skip


def free_stretches(generation: Generation) -> Iterator[tuple[int, int]]:
    """The stretches [start, end) of sampled ids in a completion."""
    start = 0
    for i in sorted(generation.interventions, key=lambda i: i.position):
        if i.position > start:
            yield start, i.position
        start = max(start, i.position + i.tokens)
    if start < len(generation.token_ids):
        yield start, len(generation.token_ids)


def generated_the_same(model: PreTrainedModel, prompt_ids: list[int], generation: Generation, vocabulary: int) -> bool:
    """Whether `generate`, given the ids before each stretch, goes on as the engine has."""
    ids = [*prompt_ids, *generation.token_ids]
    suppressed = list(range(vocabulary, VOCABULARY)) or None  # ids that no token has
    for start, end in free_stretches(generation):
        before = torch.tensor([ids[: len(prompt_ids) + start]])
        out = model.generate(  # type: ignore[operator]
            before, attention_mask=torch.ones_like(before), do_sample=False, max_new_tokens=end - start,
            min_new_tokens=0, pad_token_id=0, eos_token_id=None, suppress_tokens=suppressed,
        )  # fmt: skip
        if out[0, before.shape[1] :].tolist() != list(generation.token_ids[start:end]):
            return False
    return True


def outcome(family: Family, *, rows: int = 5) -> Outcome:
    """Decode the prompts under all policies in a batch of `rows`, and each completion again by `generate`."""
    began = time.monotonic()
    model, words = model_of(family), tokenizer()
    with torch.no_grad():  # ends that a random model comes upon
        head = model.get_output_embeddings().weight
        head[words.convert_tokens_to_ids(["</t>", "<eos>"])] *= END_GAIN
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        try:
            engine = HFEngine.load(Path(folder), rows=rows, dtype=torch.float32, device="cpu")
        except TennerError as error:
            return Outcome(0, 0, 0, str(error), supported=False, seconds=time.monotonic() - began)
        swept = list(engine.sweep(PROMPTS, POLICIES, FORMAT, answer_tokens_max=ANSWER_TOKENS_MAX))
        loaded = AutoTokenizer.from_pretrained(folder)  # some families' tokenizers add an id to those that were saved
    encoded = {p.id: loaded.encode(p.text, add_special_tokens=False) for p in PROMPTS}
    same = sum(generated_the_same(model, encoded[g.prompt_id], g, len(loaded)) for g in swept)
    waits = sum(i.kind == "wait" for g in swept for i in g.interventions)
    return Outcome(same, len(swept), waits, engine.notice or "continuous batch", True, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", help="these families alone")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    for family in [*FAMILIES, *MORE_FAMILIES]:
        if family.variant == " with auxiliary loss" or (args.only and family.model_type not in args.only):
            continue  # that loss is no part of decoding
        it = outcome(family)
        same = f"{it.same:4} of {it.completions:3}{it.waits:4} waits{it.seconds:7.1f} s"
        print(f"{family.name:32}{family.kind:13}{same}  {it.decoding}", flush=True)
        found[family.name] = it._asdict() | {"kind": family.kind}
    waits = sum(it["waits"] for it in found.values())
    differ = [name for name, it in found.items() if it["same"] != it["completions"]]
    unsupported = [name for name, it in found.items() if not it["supported"]]
    print(json.dumps({
        "families": len(found), "waits": waits, "differ": differ, "unsupported": unsupported, "found": found,
        "versions": evidence.versions("tenner", "torch", "transformers"), "machine": evidence.machine(),
    }))  # fmt: skip
    return 1 if differ or len(unsupported) > 3 else 0


if __name__ == "__main__":
    sys.exit(main())
