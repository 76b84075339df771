"""What budget forcing costs, beside s1's own way: rounds of vLLM calls with a barrier after each.

    python bench/forcing.py --vllm-python DIR/bin/python      # after scripts/install_vllm.sh DIR

The student of the demo answers generated questions, as many as AIME24 has, in bf16, with a real vLLM. `s1's loop` is
that of its harness (`_model_generate` in `vllm_causallms.py` of github.com/simplescaling/s1): all prompts in one call
per round, stopping at the delimiter's first id and at the end of text; what stopped is given "Wait" and goes into the
next call; then the delimiter and one call for the answers. Both sides have the same prompts, budgets and waits; the
loop's budget is over all rounds, as ours is, so both decode the same number of tokens; prefix caching is on for both.

`unforced` are plain requests for exactly as many tokens, to an engine without the processor. `generate` is
transformers' own, whose batches of 32 run until their longest row is done. Each side is a process of its own;
loading is not timed, and of two or three runs the fastest counts. A machine that does other work beside it distorts
the figures: an engine's threads wait for each other. Exits with 1 where a promise does not hold.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenner.formats import FORMATS
from tenner.records import Policy, Sampling
from tenner.think.forcing import FormatIds
from tenner.think.job import Prompt

QUESTIONS, ROWS, REPEATS = 30, 32, 2
THINKING_MAX, ANSWER_MAX = 192, 16
BUDGETS = tuple(THINKING_MAX * i // 7 for i in range(1, 8))
FORMAT = FORMATS["s1"]
SUFFIX = " Think step by step, and explain every step."
"""Else this student, which has not learned to think, says a word or two."""
LOOP_MIN, COST_MAX, SWEEP_MAX, HF_MIN, GENERATE_MIN = 1.5, 0.05, 1 / 2.5, 0.5, 2.0
UNEVEN = 64
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[1]), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def fastest(run: Callable[[], int], repeats: int = REPEATS) -> dict[str, float]:
    """The seconds of the fastest run, and what it counted."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        count = run()
        times.append((time.perf_counter() - start, count))
    seconds, count = min(times)
    return {"seconds": round(seconds, 2), "tokens": count, "tokens_per_second": round(count / seconds, 1)}


def decoded(engine: Any, prompts: list[Prompt], policies: list[Policy]) -> list[int]:
    """Sweep, and give for each completion the ids after `open`."""
    opened = len(FormatIds.resolve(engine.tokenizer, FORMAT, "Wait").open)
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
        said = dict(zip(going, call([rows[i] for i in going], room, sorted(ends)), strict=True))
        for i, tokens in said.items():
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


def side_vllm(model: Path, prompts: list[Prompt]) -> dict[str, Any]:
    """Everything that needs the engine with the processor in it, and s1's loop on the same engine."""
    from tenner.think.vllm import VLLMEngine

    engine = VLLMEngine.load(
        model, rows=ROWS, dtype="bfloat16", max_model_len=2048, kv_cache_memory_bytes=2 << 30, enforce_eager=True
    )
    llm = engine._llm
    ids = FormatIds.resolve(engine.tokenizer, FORMAT, "Wait")
    encoded = [engine.tokenizer.encode(p.text, add_special_tokens=False) for p in prompts]

    def fresh() -> None:
        llm.reset_prefix_cache()

    def forced(policies: list[Policy]) -> int:
        fresh()
        return sum(decoded(engine, prompts, policies))

    def one_by_one(policies: list[Policy]) -> int:
        return sum(forced([policy]) for policy in policies)

    def loop(waits: int) -> int:
        fresh()
        return s1_loop(llm, ids, encoded, waits)

    result: dict[str, Any] = {"ours": {}, "loop": {}}
    for waits in (0, 2):
        policy = Policy(thinking_tokens_max=THINKING_MAX, waits=waits)
        result["ours"][waits] = fastest(lambda policy=policy: forced([policy]))  # type: ignore[misc]
        result["loop"][waits] = fastest(lambda waits=waits: loop(waits))  # type: ignore[misc]
    fresh()
    result["lengths"] = decoded(engine, prompts, [Policy(thinking_tokens_max=THINKING_MAX, waits=2)])
    budgets = [Policy(thinking_tokens_max=b) for b in BUDGETS]
    result["sweep"] = fastest(lambda: forced(budgets))
    result["one by one"] = fastest(lambda: one_by_one(budgets))
    return result


def side_unforced(model: Path, prompts: list[Prompt], lengths: list[int]) -> dict[str, Any]:
    """Plain requests to an engine without the processor."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=str(model), max_num_seqs=ROWS, dtype="bfloat16", max_model_len=2048, kv_cache_memory_bytes=2 << 30,
        enforce_eager=True, generation_config="vllm", enable_prefix_caching=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = [
        TokensPrompt(prompt_token_ids=tokenizer.encode(p.text + FORMAT.open, add_special_tokens=False)) for p in prompts
    ]
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]

    def run() -> int:
        llm.reset_prefix_cache()
        outs = llm.generate(encoded, params, use_tqdm=False)
        return sum(len(out.outputs[0].token_ids) for out in outs)

    return {"unforced": fastest(run, 3)}


def side_hf(model: Path, prompts: list[Prompt]) -> dict[str, Any]:
    """The embedded engine on the same prompts; and it and model.generate on the same uneven lengths."""
    import torch
    from transformers import AutoModelForCausalLM

    from tenner.think.hf import HFEngine
    from tenner.think.job import Request

    engine = HFEngine.load(model, rows=ROWS)
    policy = Policy(thinking_tokens_max=THINKING_MAX, waits=2)
    result: dict[str, Any] = {"hf": fastest(lambda: sum(decoded(engine, prompts, [policy])))}

    draw = random.Random(0)
    lengths = [min(THINKING_MAX, 8 + int(draw.expovariate(1 / 64))) for _ in range(UNEVEN)]
    asked = [(prompts[i % len(prompts)], n) for i, n in enumerate(lengths)]

    def uneven() -> int:
        """Each row thinks for exactly so many tokens: an end is held off, with a text of one id, until the cut."""
        batch, machines = engine.batch(), []
        for prompt, n in asked:
            policy = Policy(thinking_tokens_max=n, thinking_tokens_min=n)
            job = engine.prepare(Request(prompt, policy, FORMATS["plain"], 1, Sampling()))
            machines.append(job.waiting[0])
            batch.submit(job)
        while batch.step() is not None:
            pass
        return sum(machine.thinking_tokens for machine in machines)

    result["uneven"] = fastest(uneven)
    tokenizer: Any = engine.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    def generate() -> int:
        for start in range(0, UNEVEN, ROWS):
            rows = asked[start : start + ROWS]
            inputs = tokenizer([p.text for p, _ in rows], return_tensors="pt", padding=True, add_special_tokens=False)
            longest = max(n for _, n in rows)
            plain.generate(
                **inputs, do_sample=False, min_new_tokens=longest, max_new_tokens=longest,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        return sum(lengths)

    result["generate"] = fastest(generate)
    return result


def run_side(python: str, side: str, asked: dict[str, Any]) -> dict[str, Any]:
    """A process of its own, whose last line of JSON is what it has measured; vLLM logs between."""
    done = subprocess.run(
        [python, __file__, "--side", side], input=json.dumps(asked), text=True, stdout=subprocess.PIPE, check=True,
        env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    result: dict[str, Any] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    print(f"{side}: {json.dumps({k: v for k, v in result.items() if k != 'lengths'})}", flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python")
    parser.add_argument("--side", choices=("vllm", "unforced", "hf"))
    args = parser.parse_args()
    if args.side:
        asked = json.load(sys.stdin)
        prompts = [Prompt(str(i), text) for i, text in enumerate(asked["prompts"])]
        model = Path(asked["model"])
        if args.side == "vllm":
            result = side_vllm(model, prompts)
        elif args.side == "unforced":
            result = side_unforced(model, prompts, asked["lengths"])
        else:
            result = side_hf(model, prompts)
        print(json.dumps(result))
        return 0

    import evidence
    from transformers import AutoTokenizer

    from tenner import recipe
    from tenner.ask import worked
    from tenner.formats import render_prompt
    from tenner.learn import student

    model = student.resolve(recipe.load("demo").student.model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    questions = worked.generate(QUESTIONS, families=list(worked.FAMILIES), split="train", seed=0, distinct=True)
    prompts = [render_prompt(tokenizer, q.question + SUFFIX, system_prompt=None) for q in questions]
    asked = {"model": str(model), "prompts": prompts}
    vllm = run_side(args.vllm_python, "vllm", asked)
    unforced = run_side(args.vllm_python, "unforced", asked | {"lengths": vllm["lengths"]})["unforced"]
    hf = run_side(sys.executable, "hf", asked)

    ours, loop = vllm["ours"], vllm["loop"]
    print(f"\n{'waits':>8}{'ours':>24}{'s1s loop':>24}{'ratio':>8}")
    for waits in ours:
        rates = [QUESTIONS / side[waits]["seconds"] for side in (ours, loop)]
        cells = [f"{rate:.2f} samples/s" for rate in rates]
        print(f"{waits:>8}{cells[0]:>24}{cells[1]:>24}{rates[0] / rates[1]:8.2f}")
    loop_ratio = loop["2"]["seconds"] / ours["2"]["seconds"]
    cost = unforced["tokens_per_second"] / ours["2"]["tokens_per_second"] - 1
    sweep = vllm["sweep"]["seconds"] / vllm["one by one"]["seconds"]
    half = hf["hf"]["tokens_per_second"] / ours["2"]["tokens_per_second"]
    generate = hf["generate"]["seconds"] / hf["uneven"]["seconds"]
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
        "machine": evidence.machine(), "versions": evidence.versions("tenner", "torch", "transformers"),
        "loop_ratio": round(loop_ratio, 3), "forcing_cost": round(cost, 4), "sweep_share": round(sweep, 3),
        "hf_share": round(half, 3), "generate_ratio": round(generate, 3), "vllm": vllm, "unforced": unforced, "hf": hf,
        "promises": promises,
    }))  # fmt: skip
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
