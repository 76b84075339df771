"""Thinking budgets while vLLM speculates: how often tenner's and vLLM's own are exceeded, in one engine.

    tenner run demo && scripts/install_vllm.sh DIR
    python bench/speculation.py runs/demo/student --vllm-python DIR/bin/python [--requests N]

vLLM drafts the next tokens by n-grams of the prompt and of what was said. As many generated questions as `--requests`
says are answered greedily under budgets of 2 to 16 thinking tokens, first forced by tenner, then with vLLM's
`thinking_token_budget`. What is counted is read off the ids alone, for both alike: those before the first whole
delimiter, or all where there is none. Then the first questions are answered in an engine without speculation, by both:
tenner's ids must be the same.

The last line is one JSON object. Exits with 1 where a budget that tenner forces was exceeded, or ids differ. In
bfloat16 a step of several tokens rounds otherwise than one of a single token, so ids are compared in float32.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import side_process

from tenner.core.formats import FORMATS
from tenner.core.records import Policy
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.format_ids import FormatIds
from tenner.inference.job import Prompt

REQUESTS, COMPARED, ROWS = 10_000, 500, 128
ANSWER_MAX = 4
BUDGETS = range(2, 18, 2)
DRAFTS = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
FORMAT = FORMATS["s1"]


def thinking_tokens(ids: Sequence[int], close: Sequence[int]) -> int:
    """How many ids come before the first `close`; all where there is none."""
    found = (i for i in range(len(ids)) if tuple(ids[i : i + len(close)]) == tuple(close))
    return next(found, len(ids))


REASONING = {"reasoning_start_str": FORMAT.open, "reasoning_end_str": FORMAT.close}
Answered = dict[str, tuple[int, ...]]


def counted(student: Path, prompts: list[Prompt], dtype: str) -> dict[str, Any]:
    """In vLLM's Python, with speculation: what each side exceeds."""
    engine, ids = loaded(student, prompts, dtype=dtype, speculative_config=DRAFTS, reasoning_config=REASONING)
    result: dict[str, Any] = {}
    for name, answer in (("tenner", forced), ("vllm", by_vllm)):
        before, start = drafts_of(engine._llm), time.perf_counter()
        answered = answer(engine, ids, prompts)
        seconds, after = time.perf_counter() - start, drafts_of(engine._llm)
        tokens = sum(map(len, answered.values()))
        result[name] = exceeded(answered, ids) | {key: after[key] - before[key] for key in after}
        result[name] |= {"tokens": tokens, "tokens_per_second": round(tokens / seconds, 1)}
    return result


def speculated(student: Path, prompts: list[Prompt], dtype: str) -> dict[str, Any]:
    """In vLLM's Python: tenner's ids with speculation."""
    engine, ids = loaded(student, prompts, dtype=dtype, speculative_config=DRAFTS)
    return {"ids": forced(engine, ids, prompts)}


def plain(student: Path, prompts: list[Prompt], dtype: str) -> dict[str, Any]:
    """In vLLM's Python, without speculation: tenner's ids, and what vLLM's own budget exceeds."""
    engine, ids = loaded(student, prompts, dtype=dtype, reasoning_config=REASONING)
    return {"ids": forced(engine, ids, prompts), "vllm": exceeded(by_vllm(engine, ids, prompts), ids)}


def exceeded(answered: Answered, ids: FormatIds) -> dict[str, Any]:
    """How many of the budgets, and by how many tokens."""
    counts = {i: thinking_tokens(told, ids.close) - BUDGETS[int(i) % len(BUDGETS)] for i, told in answered.items()}
    over = Counter(n for n in counts.values() if n > 0)
    return {"requests": len(answered), "exceeded": sum(over.values()), "by_tokens": dict(sorted(over.items()))}


def loaded(student: Path, prompts: Sequence[Prompt], **options: Any) -> tuple[Any, FormatIds]:
    """An engine, and the ids of the format as it goes on after these prompts, which may have opened the thinking."""
    from tenner.inference.vllm import VLLMEngine

    engine = VLLMEngine.load(
        student, rows=ROWS, max_model_len=1024, kv_cache_memory_bytes=2 << 30,
        disable_log_stats=False, **options,
    )  # fmt: skip
    return engine, FormatIds.resolve(engine.tokenizer, FORMAT.after(prompts[0].text), WAIT_TEXT)


def budget_of(prompt: Prompt) -> int:
    return BUDGETS[int(prompt.id) % len(BUDGETS)]


def forced(engine: Any, ids: FormatIds, prompts: Sequence[Prompt]) -> Answered:
    """The ids after `open` of each prompt under its budget."""
    found = {}
    for budget in BUDGETS:
        own = [p for p in prompts if budget_of(p) == budget]
        for g in engine.sweep(own, [Policy(thinking_tokens_max=budget)], FORMAT, answer_tokens_max=ANSWER_MAX):
            found[g.prompt_id] = g.token_ids[len(ids.open) :]
    return found


def by_vllm(engine: Any, ids: FormatIds, prompts: Sequence[Prompt]) -> Answered:
    """The ids after `open` of each prompt under its budget, which vLLM keeps."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    encoded = [engine.tokenizer.encode(p.text, add_special_tokens=False) for p in prompts]
    requests = [TokensPrompt(prompt_token_ids=[*prompt, *ids.open]) for prompt in encoded]
    params = [
        SamplingParams(
            temperature=0, thinking_token_budget=budget_of(p), detokenize=False,
            max_tokens=budget_of(p) + len(ids.close) + ANSWER_MAX,
        )
        for p in prompts
    ]  # fmt: skip
    outputs = engine._llm.generate(requests, params, use_tqdm=False)
    return {p.id: tuple(out.outputs[0].token_ids) for p, out in zip(prompts, outputs, strict=True)}


SIDES = {"counted": counted, "speculated": speculated, "plain": plain}


def drafts_of(llm: Any) -> dict[str, int]:
    """How many tokens were drafted and accepted so far."""
    values = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return {name: int(values.get(f"vllm:spec_decode_num_{name}_tokens", 0)) for name in ("draft", "accepted")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, help="the student folder of a run of the demo")
    parser.add_argument("--vllm-python", required="--side" not in sys.argv)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        prompts = [Prompt(str(i), text) for i, text in enumerate(json.load(sys.stdin))]
        print(json.dumps(SIDES[args.side](args.student, prompts, args.dtype)))
        return 0

    import evidence
    from transformers import AutoTokenizer

    from tenner.core import hardware
    from tenner.core.chat_template import ChatTemplate
    from tenner.data import puzzles

    tokenizer = AutoTokenizer.from_pretrained(args.student)
    questions = puzzles.generate(args.requests, families=list(puzzles.FAMILIES), split="train", seed=1)
    texts = [ChatTemplate(tokenizer, system_prompt="").question(q.question).text for q in questions]
    about: dict[str, dict[str, Any]] = {
        "machine": evidence.machine(),
        "versions": evidence.versions("tenner", "torch", "transformers"),
    }
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    precision = hardware.choose("cpu").precision
    dtype = "float32" if precision == "fp32" else "bfloat16"
    print(f"precision: {precision}, float32 where ids are compared", flush=True)
    told = side_process.run(__file__, args.vllm_python, "counted", args.student, texts, dtype)
    first = texts[:COMPARED]
    ids = side_process.run(__file__, args.vllm_python, "speculated", args.student, first, "float32")["ids"]
    without = side_process.run(__file__, args.vllm_python, "plain", args.student, first, "float32")
    told["vllm_without_speculation"], told["compared"] = without["vllm"], len(ids)
    told["same_without_speculation"] = sum(ids[i] == without["ids"][i] for i in ids)
    print(f"\n{'budget':8}{'requests':>10}{'exceeded':>10}{'tokens/s':>10}{'drafted':>10}{'accepted':>10}")
    for name in ("tenner", "vllm"):
        row = told[name]
        numbers = (row[key] for key in ("requests", "exceeded", "tokens_per_second", "draft", "accepted"))
        print(f"{name:8}" + "".join(f"{number:>10,}" for number in numbers))
        if row["by_tokens"]:
            print("        by so many tokens: " + ", ".join(f"{n} ({count})" for n, count in row["by_tokens"].items()))
    own = told["vllm_without_speculation"]
    print(f"vLLM's own without speculation: {own['exceeded']} of {own['requests']} {own['by_tokens'] or ''}")
    promises = {
        f"no budget that tenner forces is exceeded: {told['tenner']['exceeded']}": not told["tenner"]["exceeded"],
        f"the same ids without speculation: {told['same_without_speculation']} of {told['compared']}":
            told["same_without_speculation"] == told["compared"],
    }  # fmt: skip
    print()
    for promise, holds in promises.items():
        print(f"{'holds ' if holds else 'MISSED'}  {promise}")
    print(json.dumps(about | {"drafts": DRAFTS, **told, "promises": promises}))
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
