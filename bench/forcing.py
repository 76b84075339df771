"""What budget forcing costs, compared with s1's loop: rounds of vLLM calls with a barrier after each.

    tenner run demo && scripts/install_vllm.sh DIR
    python bench/forcing.py runs/demo/student --vllm-python DIR/bin/python

The demo's trained student, in a real vLLM, answers generated questions, as many as AIME24 has, with the budget that the
demo gives it. The lengths of its thinking are printed. All sides compute in the precision that tenner chooses
on this machine, bf16 where it is native and fp32 elsewhere; that is printed, too.

`s1's loop` is that of its harness (`_model_generate` in `vllm_causallms.py` of github.com/simplescaling/s1): all
prompts in one call per round, stopping at the delimiter's first id and at the end of text; what stopped is given "Wait"
and goes into the next call; then the delimiter and one call for the answers. Both sides have the same prompts, budgets
and waits; the loop's budget is over all rounds, as ours is, so both decode the same number of tokens.

The loop runs twice: on vLLM as it comes, as the harness starts it, whose prefix cache keeps whole blocks of 128 ids on
a CPU; and on our engine, with blocks of 32, the smallest there, so that it computes little anew. The promise is about
the first; the second is what the barriers alone cost.

`unforced` are plain requests for exactly as many tokens, to vLLM without the processor. `generate` is transformers'
own, whose batches of 32 run until their longest row is done. What is compared takes turns in one process; loading and a
first turn are not counted, and of the others each ratio is the median. A machine that does other work beside it
distorts the figures: an engine's threads wait for each other. Exits with 1 where a promise does not hold.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import side_process

from tenner.core.formats import FORMATS
from tenner.core.records import Policy, Sampling
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.format_ids import FormatIds
from tenner.inference.job import Prompt

Dtype = Literal["bfloat16", "float32"]
QUESTIONS, ROWS = 30, 32
TURNS, SHORT_TURNS = 5, 3
THINKING_MAX, ANSWER_MAX = 64, 16
BUDGETS = tuple(THINKING_MAX * i // 7 for i in range(1, 8))
FORMAT = FORMATS["s1"]
LOOP_MIN, COST_MAX, SWEEP_MAX, HF_MIN, GENERATE_MIN = 1.5, 0.05, 1 / 2.5, 0.5, 2.0
UNEVEN, UNEVEN_MAX = 64, 192


def in_turns(turns: int, **runs: Callable[[], int]) -> dict[str, Any]:
    """The seconds of each turn of what takes turns, after one that is not counted, and the tokens of one turn."""
    result: dict[str, Any] = {name: {"seconds": [], "tokens": 0} for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            result[name]["tokens"] = run()
            if turn:
                result[name]["seconds"].append(round(time.perf_counter() - start, 3))
    return result


def ratio(a: dict[str, Any], b: dict[str, Any]) -> float:
    """How many times the seconds of `b` those of `a` are, in the median of their turns."""
    return median(x / y for x, y in zip(a["seconds"], b["seconds"], strict=True))


def decoded(engine: Any, prompts: list[Prompt], policies: list[Policy]) -> list[int]:
    """Sweep, and give for each completion the ids after `open`."""
    opened = len(FormatIds.resolve(engine.tokenizer, FORMAT, WAIT_TEXT).open)
    generations = engine.sweep(prompts, policies, FORMAT, answer_tokens_max=ANSWER_MAX)
    return [len(g.token_ids) - opened for g in generations]


def s1_loop(llm: Any, ids: FormatIds, prompt_ids: list[list[int]], waits: int) -> int:
    """Rounds with a barrier after each. Gives the ids after `open`, of all rows."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    def call(rows: list[list[int]], tokens: list[int], stops: list[int]) -> list[list[int]]:
        params = [SamplingParams(temperature=0, max_tokens=n, stop_token_ids=stops, detokenize=False) for n in tokens]
        prompts = [TokensPrompt(prompt_token_ids=row) for row in rows]
        return [list(out.outputs[0].token_ids) for out in llm.generate(prompts, params, use_tqdm=False)]

    ends = {ids.close[0], *ids.eos}
    rows = [[*prompt, *ids.open] for prompt in prompt_ids]
    start = [len(row) for row in rows]
    cut = set[int]()
    going = list(range(len(rows)))
    for number in range(waits + 1):
        room = [THINKING_MAX - (len(rows[i]) - start[i]) for i in going]
        completions = dict(zip(going, call([rows[i] for i in going], room, sorted(ends)), strict=True))
        for i, tokens in completions.items():
            stopped = tokens[-1] in ends
            rows[i] += tokens[:-1] if stopped else tokens
            room_left = THINKING_MAX - (len(rows[i]) - start[i])
            if not stopped:
                cut.add(i)
            elif number < waits and room_left > len(ids.wait):
                rows[i] += ids.wait
        going = [i for i in going if i not in cut and rows[i][-len(ids.wait) :] == list(ids.wait)]
    for i, row in enumerate(rows):
        row += [*ids.close, *(ids.cue if i in cut else ())]
    for row, tokens in zip(rows, call(rows, [ANSWER_MAX] * len(rows), []), strict=True):
        row += tokens
    return sum(len(row) - n for row, n in zip(rows, start, strict=True))


def side_vllm(model: Path, prompts: list[Prompt], dtype: Dtype) -> dict[str, Any]:
    """Everything that needs vLLM: our engine, and one as it comes."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    from tenner.inference.vllm import VLLMEngine

    options: dict[str, Any] = {
        "dtype": dtype, "max_model_len": 2048, "kv_cache_memory_bytes": 2 << 30, "enforce_eager": True,
    }  # fmt: skip
    engine = VLLMEngine.load(model, rows=ROWS, **options)
    ours = engine._llm
    plain = LLM(model=str(model), max_num_seqs=ROWS, generation_config="vllm", **options)
    ids = FormatIds.resolve(engine.tokenizer, FORMAT, WAIT_TEXT)
    encoded = [engine.tokenizer.encode(p.text, add_special_tokens=False) for p in prompts]

    def forced(policies: list[Policy]) -> list[int]:
        ours.reset_prefix_cache()
        return decoded(engine, prompts, policies)

    def loop(llm: Any, waits: int) -> int:
        llm.reset_prefix_cache()
        return s1_loop(llm, ids, encoded, waits)

    def unforced(lengths: list[int]) -> int:
        plain.reset_prefix_cache()
        requests = [TokensPrompt(prompt_token_ids=[*prompt, *ids.open]) for prompt in encoded]
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]
        return sum(len(out.outputs[0].token_ids) for out in plain.generate(requests, params, use_tqdm=False))

    result: dict[str, Any] = {"block_tokens": {"ours": block_tokens(ours), "plain": block_tokens(plain)}}
    for waits, turns in ((0, SHORT_TURNS), (2, TURNS)):
        policy = [Policy(thinking_tokens_max=THINKING_MAX, waits=waits)]
        by_prompt = {g.prompt_id: g for g in engine.sweep(prompts, policy, FORMAT, answer_tokens_max=ANSWER_MAX)}
        lengths = [len(by_prompt[p.id].token_ids) - len(ids.open) for p in prompts]
        result[f"{waits} waits"] = {
            "thinking_tokens": sorted(g.thinking_tokens for g in by_prompt.values()),
            **in_turns(
                turns,
                ours=lambda policy=policy: sum(forced(policy)),  # type: ignore[misc]
                unforced=lambda lengths=lengths: unforced(lengths),  # type: ignore[misc]
                loop=lambda waits=waits: loop(plain, waits),  # type: ignore[misc]
                loop_small_blocks=lambda waits=waits: loop(ours, waits),  # type: ignore[misc]
            ),
        }
    budgets = [Policy(thinking_tokens_max=b) for b in BUDGETS]
    result["budgets"] = in_turns(
        SHORT_TURNS,
        sweep=lambda: sum(forced(budgets)),
        one_by_one=lambda: sum(sum(forced([policy])) for policy in budgets),
    )
    return result


def block_tokens(llm: Any) -> int:
    """How many ids a block of the prefix cache holds."""
    size: int = llm.llm_engine.vllm_config.cache_config.block_size
    return size


def side_hf(model: Path, prompts: list[Prompt], dtype: Dtype) -> dict[str, Any]:
    """The embedded engine on the same prompts; and it and model.generate on the same uneven lengths."""
    import torch
    from transformers import AutoModelForCausalLM

    from tenner.inference.hf.engine import HFEngine
    from tenner.inference.job import Request

    engine = HFEngine.load(model, rows=ROWS, dtype=getattr(torch, dtype), device="cpu")
    policy = Policy(thinking_tokens_max=THINKING_MAX, waits=2)
    result = in_turns(SHORT_TURNS, hf=lambda: sum(decoded(engine, prompts, [policy])))

    draw = random.Random(0)
    lengths = [min(UNEVEN_MAX, 8 + int(draw.expovariate(1 / 64))) for _ in range(UNEVEN)]
    requests = [(prompts[i % len(prompts)], n) for i, n in enumerate(lengths)]

    def uneven() -> int:
        """Each row thinks for exactly so many tokens: an end is held off, with a text of one id, until the cut."""
        batch, machines = engine.batch(), []
        for prompt, n in requests:
            policy = Policy(thinking_tokens_max=n, thinking_tokens_min=n)
            job = engine.prepare(Request(prompt, policy, FORMATS["plain"], 1, Sampling()))
            machines.append(job.waiting[0])
            batch.submit(job)
        while batch.step() is not None:
            pass
        return sum(machine.thinking_tokens for machine in machines)

    tokenizer: Any = engine.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    plain: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))

    def generate() -> int:
        for start in range(0, UNEVEN, ROWS):
            rows = requests[start : start + ROWS]
            inputs = tokenizer([p.text for p, _ in rows], return_tensors="pt", padding=True, add_special_tokens=False)
            longest = max(n for _, n in rows)
            plain.generate(
                **inputs, do_sample=False, min_new_tokens=longest, max_new_tokens=longest,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        return sum(lengths)

    return result | in_turns(SHORT_TURNS, uneven=uneven, generate=generate)


def run_side(python: str, side: str, student: Path, prompts: list[str], dtype: Dtype) -> dict[str, Any]:
    """What a side has measured, which is printed."""
    result = side_process.run(__file__, python, side, student, prompts, dtype)
    print(f"{side}: {json.dumps(result)}\n", flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, help="the student folder of a run of the demo")
    parser.add_argument("--vllm-python")
    parser.add_argument("--side", choices=("vllm", "hf"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        prompts = [Prompt(str(i), text) for i, text in enumerate(json.load(sys.stdin))]
        print(json.dumps((side_vllm if args.side == "vllm" else side_hf)(args.student, prompts, args.dtype)))
        return 0

    import evidence
    from transformers import AutoTokenizer

    from tenner.core import hardware
    from tenner.core.chat_template import ChatTemplate
    from tenner.data import puzzles

    tokenizer = AutoTokenizer.from_pretrained(args.student)
    questions = puzzles.generate(QUESTIONS, families=list(puzzles.FAMILIES), split="train", seed=0, distinct=True)
    texts = [ChatTemplate(tokenizer, system_prompt="").question(q.question).text for q in questions]
    precision = hardware.choose("cpu").precision
    dtype: Dtype = "float32" if precision == "fp32" else "bfloat16"
    machine, versions = evidence.machine(), evidence.versions("tenner", "torch", "transformers")
    print(f"machine: {machine}\nversions: {versions}\nprecision: {precision}\n", flush=True)
    vllm = run_side(args.vllm_python, "vllm", args.student, texts, dtype)
    hf = run_side(sys.executable, "hf", args.student, texts, dtype)

    sizes = vllm["block_tokens"]
    columns = {
        "ours": "ours", "loop": f"loop, blocks of {sizes['plain']}", "loop_small_blocks": f"of {sizes['ours']}",
        "unforced": "unforced",
    }  # fmt: skip
    print(
        "samples a second, and how many times ours\n" + f"{'waits':>8}" + "".join(f"{c:>24}" for c in columns.values())
    )
    for waits in (0, 2):
        side = vllm[f"{waits} waits"]
        cells = (f"{QUESTIONS / median(side[c]['seconds']):.2f} ({ratio(side[c], side['ours']):.2f})" for c in columns)
        print(f"{waits:>8}" + "".join(f"{cell:>24}" for cell in cells))
    waiting, budgets = vllm["2 waits"], vllm["budgets"]
    loop_ratio = ratio(waiting["loop"], waiting["ours"])
    cost = ratio(waiting["ours"], waiting["unforced"]) - 1
    sweep = ratio(budgets["sweep"], budgets["one_by_one"])
    rates = [side["tokens"] / median(side["seconds"]) for side in (hf["hf"], waiting["ours"])]
    half, generate = rates[0] / rates[1], ratio(hf["generate"], hf["uneven"])
    print(f"tokens a second at 2 waits: {rates[1]:.0f} by vLLM, {rates[0]:.0f} by the embedded engine\n")
    promises = {
        f"at least {LOOP_MIN} times the samples a second of s1's loop at 2 waits: {loop_ratio:.2f}":
            loop_ratio >= LOOP_MIN,
        f"forcing costs at most {COST_MAX:.0%} of unforced decoding: {cost:.1%}": cost <= COST_MAX,
        f"a sweep of seven budgets takes at most {SWEEP_MAX:.2f} of them one by one: {sweep:.2f}": sweep <= SWEEP_MAX,
        f"the embedded engine decodes at least {HF_MIN} of vLLM's tokens a second: {half:.2f}": half >= HF_MIN,
        f"and at least {GENERATE_MIN} times as fast as model.generate on uneven lengths: {generate:.2f}":
            generate >= GENERATE_MIN,
    }  # fmt: skip
    for promise, holds in promises.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {promise}")
    print(json.dumps({
        "machine": machine, "versions": versions, "precision": precision, "loop_ratio": round(loop_ratio, 3),
        "loop_ratio_small_blocks": round(ratio(waiting["loop_small_blocks"], waiting["ours"]), 3),
        "forcing_cost": round(cost, 4), "sweep_share": round(sweep, 3), "hf_share": round(half, 3),
        "generate_ratio": round(generate, 3), "vllm": vllm, "hf": hf, "promises": promises,
    }))  # fmt: skip
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
