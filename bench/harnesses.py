"""lm-eval and inspect_ai, unchanged, against `tenner serve`: does every question come to a verdict?

    python bench/harnesses.py --student STUDENT --harnesses VENV/bin/python [--engine hf|vllm] [--format FORMAT]

VENV is an environment with `lm-eval[api]`, `inspect_ai` and `openai`; none of them needs PyTorch. With vLLM, this
`python` is that of the environment of `scripts/install_vllm.sh`, and PYTHONPATH names tenner's folder. lm-eval asks
with a task of the kind generate_until with stop strings, inspect_ai with stop strings and two choices a question. The
last line is one JSON object; the exit code is 1 where a question was not answered.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import evidence

from tenner.data import puzzles

HERE = Path(__file__).parent
NAME = "student"
TASK = """\
task: tenner_puzzles
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:", "</s>", "\\n\\n"], max_gen_toks: 300, temperature: 0.0, do_sample: false}}
filter_list:
  - name: last-word
    filter:
      - {{function: regex, regex_pattern: "([A-Za-z0-9]+)[^A-Za-z0-9]*$"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""


@contextmanager
def server(student: Sequence[str], log: Path) -> Iterator[str]:
    """`tenner serve` on a free port; yields its URL."""
    command = [sys.executable, "-m", "tenner", "serve", *student, "--port", "0", "--name", NAME]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")
            yield url
        finally:
            process.terminate()
            process.wait()


def harness(command: list[str], **environment: str) -> tuple[str, float]:
    """Run a harness to its end: what it printed, and the seconds."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … exited with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout, time.monotonic() - began


def lm_eval(python: str, url: str, questions: Path, folder: Path) -> dict[str, Any]:
    (folder / "tasks").mkdir()
    (folder / "tasks" / "puzzles.yaml").write_text(TASK.format(questions=questions))
    arguments = f"model={NAME},base_url={url}/v1/chat/completions,num_concurrent=4,max_retries=1"
    _, seconds = harness(
        [
            python, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--model_args", arguments,
            "--tasks", "tenner_puzzles", "--include_path", str(folder / "tasks"), "--apply_chat_template",
            "--output_path", str(folder / "lm_eval"), "--log_samples",
        ],
        OPENAI_API_KEY="none", HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", HF_HOME=str(folder / "hf"),
    )  # fmt: skip
    (results,) = (folder / "lm_eval").rglob("results_*.json")
    (samples,) = (folder / "lm_eval").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    found = json.loads(results.read_text())["results"]["tenner_puzzles"]
    return {
        "answered": sum(isinstance(row["resps"][0][0], str) for row in rows),
        "exact_match": found["exact_match,last-word"],
        "seconds": round(seconds, 1),
    }


def inspect_ai(python: str, url: str, questions: Path, folder: Path) -> dict[str, Any]:
    command = [python, str(HERE / "inspect_task.py"), str(questions), f"{url}/v1", NAME, str(folder / "inspect"), "2"]
    printed, seconds = harness(command)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found | {"seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--student", required=True)
    parser.add_argument("--harnesses", required=True, metavar="PYTHON")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--format", help="needed where the student is not a run's")
    parser.add_argument("--questions", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = folder / "questions.jsonl"
        drawn = puzzles.generate(
            args.questions, families=list(puzzles.FAMILIES), split="heldout", seed=0, distinct=True
        )
        questions.write_text("".join(q.model_dump_json() + "\n" for q in drawn))
        student = [args.student, "--engine", args.engine, *(["--format", args.format] if args.format else [])]
        with server(student, folder / "serve.log") as url:
            found = {"lm_eval": lm_eval(args.harnesses, url, questions, folder)}
            found["inspect_ai"] = inspect_ai(args.harnesses, url, questions, folder)
    for harness_name, row in found.items():
        print(f"{harness_name:12}{row}")
    versions, _ = harness(
        [args.harnesses, "-c", "from importlib.metadata import version as v; print(v('lm_eval'), v('inspect_ai'))"]
    )
    whole = all(row["answered"] == args.questions for row in found.values())
    line = {"engine": args.engine, "questions": args.questions, **found, "all_answered": whole}
    engine = ("vllm",) if args.engine == "vllm" else ()
    line["versions"] = evidence.versions("torch", "transformers", *engine) | dict(
        zip(("lm_eval", "inspect_ai"), versions.split(), strict=True)
    )
    print(json.dumps(line | {"machine": evidence.machine()}))
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
