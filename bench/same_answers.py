"""Whether a run's student says the same elsewhere: in transformers, vLLM and llama.cpp, each by itself.

    tenner run demo && scripts/install_vllm.sh DIR
    python3 -m venv LLAMA && LLAMA/bin/pip install --only-binary :all: xllamacpp
    python bench/same_answers.py runs/demo [--vllm-python DIR/bin/python] [--llama-python LLAMA/bin/python]

The prompts are those of the saved chat template, as anybody would render them, and the student answers greedily in
float32 (llama.cpp: the exported GGUF, its weights in float16) until it ends its turn. The embedded engine's answers,
which the run's are made of, are the reference; nothing is forced. Answers that have not ended after 400 tokens are left
out, and counted. Texts are compared, and where they differ the first place is printed.

The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import side_process

NEW_TOKENS_MAX = 400


def by_tenner(student: Path, prompts: Sequence[str]) -> list[str | None]:
    """The embedded engine, with a budget that no answer reaches."""
    import torch

    from tenner.core import recipe as recipes
    from tenner.core.formats import FORMATS
    from tenner.core.records import Policy
    from tenner.inference.hf.engine import HFEngine
    from tenner.inference.job import Prompt

    engine = HFEngine.load(student, dtype=torch.float32, device="cpu")
    fmt = FORMATS[recipes.load(str(student.parent / "recipe.toml")).student.format]
    asked = [Prompt(str(i), text) for i, text in enumerate(prompts)]
    said: dict[str, str | None] = {}
    policy = Policy(thinking_tokens_max=NEW_TOKENS_MAX)
    for g in engine.sweep(asked, [policy], fmt, answer_tokens_max=NEW_TOKENS_MAX):
        whole = not g.truncated and g.thinking_tokens < NEW_TOKENS_MAX
        said[g.prompt_id] = _spoken(engine.tokenizer, g.token_ids) if whole else None
    return [said[p.id] for p in asked]


def by_transformers(student: Path, prompts: Sequence[str]) -> list[str | None]:
    """The student's folder, loaded and asked by nothing but transformers, one question at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student)
    model: Any = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        out = model.generate(**ids, max_new_tokens=NEW_TOKENS_MAX, do_sample=False)
        new = out[0, ids.input_ids.shape[1] :].tolist()
        found.append(_spoken(tokenizer, new) if len(new) < NEW_TOKENS_MAX else None)
    return found


def by_vllm(student: Path, prompts: Sequence[str]) -> list[str | None]:
    """In vLLM's Python: vLLM's own interface for many prompts."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(str(student), dtype="float32", max_model_len=1024, enforce_eager=True, kv_cache_memory_bytes=2 << 30)
    tokenizer = llm.get_tokenizer()
    asked = [TokensPrompt(prompt_token_ids=tokenizer.encode(p, add_special_tokens=False)) for p in prompts]
    outputs = llm.generate(asked, SamplingParams(temperature=0, max_tokens=NEW_TOKENS_MAX), use_tqdm=False)
    told = [out.outputs[0] for out in outputs]
    return [_spoken(tokenizer, o.token_ids) if o.finish_reason == "stop" else None for o in told]


def by_llama(file: Path, prompts: Sequence[str]) -> list[str | None]:
    """In xllamacpp's Python: llama.cpp and its own server, from a GGUF."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx = str(file), 1024
    server = xllamacpp.Server(params)
    found = []
    for prompt in prompts:
        out = server.handle_completions({"prompt": prompt, "max_tokens": NEW_TOKENS_MAX, "temperature": 0.0})
        (choice,) = out["choices"]
        found.append(choice["text"].strip() if choice["finish_reason"] == "stop" else None)
    return found


def _spoken(tokenizer: Any, ids: Sequence[int]) -> str:
    """Without what ends the turn."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


SIDES: dict[str, Callable[[Path, Sequence[str]], list[str | None]]] = {
    "tenner": by_tenner, "transformers": by_transformers, "vllm": by_vllm, "llama.cpp": by_llama,
}  # fmt: skip
PACKAGES = {"tenner": "torch", "transformers": "transformers", "vllm": "vllm", "llama.cpp": "xllamacpp"}
"""Whose version, in its own Python, is told with a side's answers."""


def compared(name: str, own: Sequence[str | None], theirs: Sequence[str | None]) -> dict[str, int]:
    """How many answers are the same, printed, with the first difference of each other one."""
    pairs = [(a, b) for a, b in zip(own, theirs, strict=True) if a is not None]
    differ = [(a, b or "(not ended)") for a, b in pairs if a != b]
    print(f"{name}: {len(pairs) - len(differ)} of {len(pairs)} answers are the same", flush=True)
    for a, b in differ:
        place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        print(f"  at {place}: {a[max(0, place - 30) : place + 30]!r}, here {b[max(0, place - 30) : place + 30]!r}")
    return {"answers": len(pairs), "same": len(pairs) - len(differ)}


def _gguf(run: Path, folder: Path) -> Path:
    """The student as `tenner export` writes it for llama.cpp."""
    from tenner.commands.export import write_gguf

    write_gguf(run, folder / "gguf")
    (file,) = (folder / "gguf").glob("*.gguf")
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run whose student is trained; with --side that student")
    parser.add_argument("--vllm-python")
    parser.add_argument("--llama-python")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        said = SIDES[args.side](args.run, json.load(sys.stdin))
        print(json.dumps({"said": said, "version": version(PACKAGES[args.side])}))
        return 0

    import evidence
    from transformers import AutoTokenizer

    from tenner.core import recipe as recipes
    from tenner.data import puzzles

    student = args.run / "student"
    tokenizer: Any = AutoTokenizer.from_pretrained(student)
    families = recipes.load(str(args.run / "recipe.toml")).gather.families
    asked = puzzles.generate(args.questions, families=families, split="heldout", seed=1)
    chats = [[{"role": "user", "content": q.question}] for q in asked]
    prompts = [str(tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)) for c in chats]
    about: dict[str, Any] = {
        "machine": evidence.machine(),
        "versions": evidence.versions("tenner", "torch", "transformers"),
    }
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    pythons = {"tenner": sys.executable, "transformers": sys.executable, "vllm": args.vllm_python,
               "llama.cpp": args.llama_python}  # fmt: skip
    answered = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, python in pythons.items():
            if python:
                asked_of = _gguf(args.run, Path(folder)) if side == "llama.cpp" else student
                answered[side] = side_process.run(__file__, python, side, asked_of, prompts, "float32")
    own = answered.pop("tenner")["said"]
    print(
        f"\n{len(prompts)} questions; {sum(a is None for a in own)} answers have no end after {NEW_TOKENS_MAX} tokens"
    )
    found = {
        name: compared(f"{name}, {PACKAGES[name]} {theirs['version']}", own, theirs["said"])
        for name, theirs in answered.items()
    }
    print(json.dumps(about | {"questions": len(prompts), "ended": sum(a is not None for a in own), "same": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
