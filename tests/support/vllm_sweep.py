"""Sweeps in one real vLLM engine, and streams that say the same, by the Python beside TENNER_VLLM: JSON in and out.

The arguments: model, rows, dtype, options (further ones of vllm.LLM, may be left out), and sweeps, each of prompts
(texts), policies, format, answer_tokens_max, sampling.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from paths import SUPPORT
from vllm_server import PROGRAM, environment

from tenner.core.formats import FORMATS
from tenner.core.records import Policy, Sampling
from tenner.inference.engine import LocalEngine
from tenner.inference.job import Prompt, Request
from tenner.inference.scheduler import Scheduler

STREAMED = 2
KEPT = (
    "prompt_id", "policy", "token_ids", "thinking", "answer", "thinking_tokens", "answer_tokens", "truncated",
    "trial_tokens",
)  # fmt: skip


def run(arguments: dict[str, Any], out: Path) -> list[list[dict[str, Any]]]:
    """The generations of each sweep, as dictionaries, with a list of the interventions' fields."""
    subprocess.run(
        [Path(PROGRAM).parent / "python", __file__, out],
        input=json.dumps(arguments), text=True, check=True,
        env=environment(SUPPORT),
    )  # fmt: skip
    return json.loads(out.read_text())


def main() -> None:
    from tenner.inference.vllm import VLLMEngine

    asked = json.load(sys.stdin)
    engine = VLLMEngine.load(
        Path(asked["model"]), rows=asked["rows"], dtype=asked["dtype"], enforce_eager=True, max_model_len=2048,
        kv_cache_memory_bytes=1 << 30, **asked.get("options", {}),
    )  # fmt: skip
    Path(sys.argv[1]).write_text(json.dumps([sweep(engine, one) for one in asked["sweeps"]]))


def sweep(engine: LocalEngine, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What a sweep generates, which is what its streams say."""
    prompts = [Prompt(str(i), text) for i, text in enumerate(asked["prompts"])]
    policies = [Policy.model_validate(p) for p in asked["policies"]]
    generations = engine.sweep(
        prompts, policies, FORMATS[asked["format"]],
        answer_tokens_max=asked["answer_tokens_max"], sampling=Sampling.model_validate(asked["sampling"]),
    )  # fmt: skip
    said = [
        {name: getattr(g, name) for name in KEPT}
        | {"policy": g.policy.model_dump(), "interventions": [i.model_dump() for i in g.interventions]}
        for g in generations
    ]
    texts = {(g["prompt_id"], str(g["policy"])): g["thinking"] + g["answer"] for g in said}
    assert streamed(engine, asked, prompts, policies).items() <= texts.items()
    return said


def streamed(
    engine: LocalEngine, asked: dict[str, Any], prompts: list[Prompt], policies: list[Policy]
) -> dict[tuple[str, str], str]:
    """The same completions as streams of one batch, while another is broken off; only the first prompts."""
    rest = FORMATS[asked["format"]], asked["answer_tokens_max"], Sampling.model_validate(asked["sampling"])
    with Scheduler(engine) as scheduler:
        endless = scheduler.submit(Request(prompts[0], Policy(thinking_tokens_min=1500), *rest))
        next(iter(endless))
        streams = {
            (prompt.id, str(policy.model_dump())): scheduler.submit(Request(prompt, policy, *rest))
            for prompt in prompts[:STREAMED]
            for policy in policies
        }
        endless.cancel()
        texts = {key: "".join(piece.text for piece in stream) for key, stream in streams.items()}
        list(endless)
        assert endless.generation is None
        assert scheduler.streams == 0
    return texts


if __name__ == "__main__":
    main()
