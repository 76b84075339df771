"""The curator side of `paid_calls.py`: the same questions, sent by bespokelabs-curator in its own environment.

    python bench/curator_client.py QUESTIONS.jsonl DIR --base-url URL --concurrency 64

Prints one JSON object: the number of answers, of right ones, and the versions.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import time
from pathlib import Path

UNBOUND = 10**12  # a limit that does not bind; left out, curator sends 200 requests a minute


def settings(cache: Path) -> dict[str, str]:
    """The environment in which curator does nothing but its work.

    Its rich display stays on: without a terminal it draws nothing, whereas the plain one costs time.
    """
    return {
        "CURATOR_CACHE_DIR": str(cache),
        "CURATOR_VIEWER": "0",
        "TELEMETRY_ENABLED": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is fetched from the network at every start
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "TIKTOKEN_CACHE_DIR": str(_litellm() / "litellm_core_utils" / "tokenizers"),  # else it is fetched, too
        "OPENAI_API_KEY": "none",  # it requires one
    }


def _litellm() -> Path:
    spec = importlib.util.find_spec("litellm")
    assert spec is not None, "curator depends on it"
    return Path(str(spec.origin)).parent


def ask(questions: list[dict[str, str]], *, backend: str, base_url: str, concurrency: int) -> dict:
    """Send all questions and check the answers."""
    from bespokelabs import curator

    class Answers(curator.LLM):
        """Sends a row's question and keeps the answer beside it."""

        def prompt(self, row: dict) -> str:
            return row["question"]

        def parse(self, row: dict, response: str) -> dict:
            return {"id": row["id"], "expected": row["answer"], "answer": response}

    # As documented: `openai` with a base_url, `litellm` with the prefix for such a server.
    model = {"openai": "m", "litellm": "hosted_vllm/m"}[backend]
    answers = Answers(
        model_name=model,
        backend=backend,
        backend_params={
            "base_url": base_url,
            "max_requests_per_minute": UNBOUND,
            "max_tokens_per_minute": UNBOUND,
            "max_concurrent_requests": concurrency,
        },
    )
    started, cpu_started = time.monotonic(), time.process_time()
    response = answers(questions)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    rows = list(response.dataset)
    return {
        "answers": len({row["id"] for row in rows}),
        "right": sum(f"\\boxed{{{row['expected']}}}" in row["answer"] for row in rows),
        "requests_succeeded": response.request_stats.succeeded,
        "requests_cached": response.request_stats.cached,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("cache", type=Path, help="a new folder")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--backend", choices=("openai", "litellm"), default="openai")
    parser.add_argument("--concurrency", type=int, required=True)
    args = parser.parse_args()
    os.environ.update(settings(args.cache))
    logging.disable(logging.INFO)
    questions = [json.loads(line) for line in args.questions.read_text("utf-8").splitlines()]
    found = ask(questions, backend=args.backend, base_url=args.base_url, concurrency=args.concurrency)
    versions = {
        name: importlib.metadata.version(name) for name in ("bespokelabs-curator", "openai", "aiohttp", "litellm")
    }
    print(json.dumps(found | {"versions": versions}))


if __name__ == "__main__":
    main()
