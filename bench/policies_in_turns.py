"""Decode prompts under policies that take turns, timed: in the embedded engine here, or in vLLM by its own Python."""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import side_process

from tenner.core.formats import FORMATS
from tenner.core.records import Policy
from tenner.inference import engine_registry
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.engine import Generation, LocalEngine
from tenner.inference.job import Prompt


class Decoded(NamedTuple):
    """All that was decoded under one policy, and how long it took under it alone."""

    generations: list[Generation]
    wall_seconds: float
    processor_seconds: float
    """Which other programs disturb less."""


def in_turns(
    engine: LocalEngine, prompts: Sequence[Prompt], policies: Sequence[Policy], *, fmt: str, rows: int,
    answer_tokens_max: int,
) -> list[Decoded]:  # fmt: skip
    """Each group of `rows` prompts under each policy; which policy is first moves on with every group."""

    def decode(group: Sequence[Prompt], policy: Policy) -> list[Generation]:
        return list(engine.sweep(group, [policy], FORMATS[fmt], answer_tokens_max=answer_tokens_max))

    done: defaultdict[Policy, list[Generation]] = defaultdict(list)
    wall, processor = defaultdict[Policy, float](float), defaultdict[Policy, float](float)
    decode(prompts[:rows], policies[0])  # not counted: what is done once
    for number, first in enumerate(range(0, len(prompts), rows)):
        turn = number % len(policies)
        for policy in [*policies[turn:], *policies[:turn]]:
            began, began_processor = time.perf_counter(), time.process_time()
            done[policy] += decode(prompts[first : first + rows], policy)
            wall[policy] += time.perf_counter() - began
            processor[policy] += time.process_time() - began_processor
    return [Decoded(done[policy], wall[policy], processor[policy]) for policy in policies]


def in_vllm(
    python: str, student: Path, prompts: Sequence[Prompt], policies: Sequence[Policy], *, fmt: str, rows: int,
    answer_tokens_max: int, dtype: str,
) -> list[Decoded]:  # fmt: skip
    """As `in_turns`, by vLLM, whose `python` runs this file."""
    given = {
        "prompts": [prompt._asdict() for prompt in prompts],
        "policies": [policy.model_dump(mode="json") for policy in policies],
        "settings": {"fmt": fmt, "rows": rows, "answer_tokens_max": answer_tokens_max},
    }
    told = side_process.run(__file__, python, "vllm", student, given, dtype)
    found = []
    for policy, side in zip(policies, told["sides"], strict=True):
        generations = [Generation(**g | {"policy": policy, "interventions": ()}) for g in side["generations"]]
        found.append(Decoded(generations, side["wall_seconds"], side["processor_seconds"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("--side", choices=["vllm"], required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    args = parser.parse_args()
    given = json.load(sys.stdin)
    rows = given["settings"]["rows"]
    engine = engine_registry.load(
        "vllm", args.student, rows=rows, wait_text=WAIT_TEXT, precision="fp32" if args.dtype == "float32" else "bf16",
        options={"max_model_len": 1024, "kv_cache_memory_bytes": 2 << 30},
    )  # fmt: skip
    prompts = [Prompt(p["id"], p["text"], tuple(map(tuple, p["literal"]))) for p in given["prompts"]]
    sides = in_turns(engine, prompts, [Policy.model_validate(p) for p in given["policies"]], **given["settings"])
    print(json.dumps({"sides": [_plain(side) for side in sides]}))


def _plain(side: Decoded) -> dict[str, Any]:
    """As JSON; neither the policy, which the other side knows, nor the interventions, which it does not count."""
    left_out = {"policy", "interventions"}
    generations = [{k: v for k, v in g._asdict().items() if k not in left_out} for g in side.generations]
    return side._asdict() | {"generations": generations}


if __name__ == "__main__":
    main()
