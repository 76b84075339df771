"""The fault campaign, inputs: what comes with a model's folder, from a service or a server of models, and in options.

    TENNER_CAMPAIGN=667 pytest -m slow -s tests/campaign/test_fuzz_models.py  # 100,000 inputs at each door

As `test_fuzz.py`, whose doors are for questions, replies, recipes and requests.
"""

import argparse
import asyncio
import contextlib
import io
import json
import random
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

import httpx2
import pyarrow
import pyarrow.parquet
import pytest
from fuzzing import ODD_TEXTS, ODD_VALUES, Door, Place, damaged, knock, odd_bytes, odd_json, odd_text
from paid import PRICE
from tinker_server import adapter_archive

from tenner import measurement, tracing
from tenner.clients.faults import Fault
from tenner.clients.json_fields import mappings
from tenner.clients.openai import OpenAIClient, read_models
from tenner.clients.protocol import Call
from tenner.clients.replay import ReplayClient
from tenner.clients.tinker import Datum, TinkerClient, rejections
from tenner.commands import options, overlap, trace
from tenner.commands.chat import Setting
from tenner.commands.watch import View
from tenner.core import default_policy, model_folder, policy_text, recipe, template_date, turn_end
from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import EarlyExit, Grace, Message, Policy, Question
from tenner.core.saved_template import trained_template
from tenner.core.sections import Source, TraceSection
from tenner.data import sources
from tenner.distill import sft_chats
from tenner.inference import api
from tenner.inference.forcing import ForcingMachine
from tenner.inference.format_ids import FormatIds
from tenner.inference.server import access
from tenner.stages import first_recipe, paid_steps, plan_page
from tenner.training import gguf_file, lora, plan, student, student_address

pytestmark = pytest.mark.slow

# -- options -------------------------------------------------------------------------------------------------------

POLICIES = [
    Policy(), Policy(thinking_tokens_max=64), Policy(thinking_tokens_max=64, waits=1),
    Policy(early_exit=EarlyExit(every_tokens=8)), Policy(grace=Grace(tokens=8)),
]  # fmt: skip
POLICY_TEXTS = [
    "64", "none", "+1", ",early-exit", ",grace", "0", "{", "}", '"waits": 1', ", ", '"thinking_tokens_max": 64',
    '"early_exit": {"every_tokens": 8}', "null", "٦٤", *ODD_TEXTS,
]  # fmt: skip
RULES: dict[str, Any] = {"every_tokens": 8, "at": "tokens", "agree": 2, "probability": 0.5, "trial_tokens": 4}
ADDRESSES = [
    "wheel:", "hf:", "a", "-part", "{1..3}", "{3..1}", "{1..999999}", "==", "1.0", "/", "m.gguf", "#sha256=", "0" * 64,
    "org/name", "@main", "~nobody", "file://", "..", *ODD_TEXTS,
]  # fmt: skip


def name_a_policy(text: str, _: Place) -> None:
    for policy in POLICIES:
        assert policy_text.find(policy_text.as_json(policy), POLICIES) == policy
    policy_text.find(text, POLICIES)


def rule_of(text: str, _: Place) -> None:
    found = options.json_object("--early-exit", text) or {}
    policy_text.words(Policy(early_exit=policy_text.rule("--early-exit", EarlyExit, found)))


def trace_options(words: list[str], place: Place) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    trace.add_options(parser)
    with redirect_stderr(io.StringIO()):
        args = parser.parse_args(words)
    options.columns_of(args.column, *trace.COLUMNS)
    job = tracing.describe(trace._section(args), budget_usd=args.budget_usd)
    place.write("trace.toml", job.to_toml().encode())


def trace_words(draw: random.Random) -> list[str]:
    words = ["q.jsonl", "--out", "x", "--budget-usd", draw.choice(["1", "1", *ODD_TEXTS]), "--model", "m"]
    named = [*trace.FIELDS, "--price-in", "--price-out", "--parameter", "--column", "--client", "--budget-usd"]
    for option in draw.choices(named, k=draw.randint(1, 4)):
        given = draw.choice(["1", "0.5", "a=1", "a=[1]", "openai", "http://a/v1", "question=b", *ODD_TEXTS])
        words += [option, given] if draw.random() < 0.5 else [f"{option}={given}"]
    return words


def chat_line(draw: random.Random) -> str:
    pieces = ["/waits", "/thinking", "/help", " ", "2", "-", *ODD_TEXTS]
    good = draw.choice(("/waits 2", "/thinking 128", "/help"))
    return (damaged(draw, good, pieces) if draw.random() < 0.5 else odd_text(draw, pieces, 5)).strip() or "/x"


def set_by_line(line: str, _: Place) -> None:
    str(Setting(64, 1).after(line))


def find_address(address: str, place: Place) -> None:
    if not address.startswith("hf:"):  # of the hub only its own cache is looked at
        student_address.local(address, place.folder / "cache")
    else:
        student_address._matched(student_address.HUB, "hub", address)
    if match := student_address.WHEEL.fullmatch(address):
        student_address._parts(match[1])


def tags_for(tags: str, _: Place) -> None:
    sft_chats.in_tags(tags)
    tags.encode()


# -- files that describe something ---------------------------------------------------------------------------------

MEASUREMENT = """\
name = "m"
seed = 0
budget_usd = 1.0

[student]
model = "MODEL"
format = "s1"
system_prompt = "Be brief."

[machine]
price_usd_per_hour = 0.0

[evaluate]
thinking_tokens_max = [0, 64]
waits = [1]
answer_tokens_max = 32
early_exit = { every_tokens = 8 }
rows = 4
engine = "hf"

[evaluate.sampling]
temperature = 0.7
top_p = 0.9

[[evaluate.benchmarks]]
name = "b"
file = "QUESTIONS"
columns = { question = "question", answer = "answer" }
sample = 1

[[evaluate.models]]
name = "big"
client = "openai"
base_url = "http://127.0.0.1:1/v1"
model = "x"
price = { input_usd_per_mtok = 1.0, output_usd_per_mtok = 2.0 }
"""
TOML_VALUES = [
    "1", "0", "-1", "1e308", "inf", "nan", "9" * 30, "9" * 5000, '""', '"\\u0000"', '"a"', "[]", "[[1]]", "{}", "[{}]",
    "{a = 1}", "true", "1979-05-27", '"~nobody/x"', "[" * 300 + "]" * 300, '"\\ud800"', '"\u202e"', "[0, 0]", "[-1]",
    '"auto"', '"think"', '"api"', '"vllm"', "{ task = 'GSM8K' }", "'\x01'", '"\\u007f"',
]  # fmt: skip
QUESTIONS = [{"id": "a", "question": "What is 1 + 1?", "answer": "2"}, {"id": "b", "question": "And 2?", "answer": 4}]
OPTIONS: list[measurement.MeasureOptions] = [
    measurement.MeasureOptions(),
    measurement.MeasureOptions(questions=1, thinking_tokens_max=[0, 8], temperature=0.5, top_p=0.5, rows=2),
    measurement.MeasureOptions(engine="api", base_urls=["http://127.0.0.1:1/v1"], served_model="m", context_tokens=64),
    measurement.MeasureOptions(task="GSM8K", early_exit={"every_tokens": 8}, grace={"tokens": 4}, device="cpu"),
]


def measured(draw: random.Random) -> tuple[str, measurement.MeasureOptions]:
    lines = MEASUREMENT.splitlines()
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        at = draw.randrange(len(lines))
        name, equals, _old = lines[at].partition("=")
        match draw.randint(0, 5):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, draw.choice(lines))
            case 2:
                lines[at] = odd_text(draw, [*TOML_VALUES, "[", "]", "=", ".", "a", "[[evaluate]]", "[student]"], 4)
            case 3:
                lines[at] = f"{name}.a {equals or '='} {draw.choice(TOML_VALUES)}"
            case _:
                lines[at] = f"{name}{equals or '='} {draw.choice(TOML_VALUES)}"
    end = draw.choice(("\n", "\n", "\n", "\r\n", "\r"))
    return end.join(lines), draw.choice([*OPTIONS[:1] * 3, *OPTIONS])


def measure(given: tuple[str, measurement.MeasureOptions], place: Place) -> None:
    text, wanted = given
    questions = place.write("questions.jsonl", "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode())
    text = text.replace("MODEL", str(place.model)).replace("QUESTIONS", str(questions))
    file = place.write("m.toml", text.encode("utf-8", "surrogatepass"))
    described = measurement.describe(str(file), wanted)
    measurement.folder_of(described)
    place.write("copy.toml", described.to_toml().encode())


AMOUNTS = ["0", "1", "2", "7", "1000", "4611686018427387904", "0.5", "1e-300", "1e8", "1e9", "0.999999", "[]", "[0, 1]"]
RECIPES = [*recipe.built_in().values()]


def odd_amounts(draw: random.Random) -> str:
    """A recipe with other numbers."""
    lines = draw.choice(RECIPES).splitlines()
    for _ in range(draw.randint(1, 4)):
        at = draw.choice([i for i, line in enumerate(lines) if re.search(r"= *[0-9\[]", line)])
        lines[at] = f"{lines[at].partition('=')[0]}= {draw.choice(AMOUNTS)}"
    return "\n".join(lines)


def plan_a_run(text: str, place: Place) -> None:
    described = recipe.parse(text, where="recipe")
    page = plan_page.make(described, config=place.model / "config.json")
    page.as_text(80).encode()
    json.loads(page.as_json())


TEXTS = [
    "What is ",
    "the sum of ",
    "1 ",
    "and ",
    "two ",
    "? ",
    "Natalia sold ",
    "12 ",
    "apples ",
    "\n",
    "=",
    *ODD_TEXTS,
]


def two_files(draw: random.Random) -> tuple[bytes, bytes]:
    """Lines of questions, with any line ends."""

    def lines() -> bytes:
        rows = [{"id": str(i), "question": odd_text(draw, TEXTS, 40)} for i in range(draw.randint(1, 4))]
        end = draw.choice((b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\x0b", b"\xe2\x80\xa8"))
        return end.join(odd_json(draw, row) for row in rows) + b"\n"

    return lines(), lines()


def overlaps(given: tuple[bytes, bytes], place: Place) -> None:
    pool, benchmark = (place.write(f"{name}.jsonl", data) for name, data in zip("ab", given, strict=True))
    overlap.run(pool, [benchmark], ngram_words=None, as_json=True).encode()
    overlap.run(pool, [benchmark], ngram_words=3, as_json=False).encode()


def first(rows: bytes, place: Place, *, name: str = "mine.jsonl") -> None:
    file = place.write(name, rows)
    wanted = first_recipe.FirstRecipeOptions(
        file=file, teacher="http://127.0.0.1:1/v1", teacher_model="m", benchmark=str(file), budget_usd=1.0
    )
    place.write("first.toml", first_recipe.compose(wanted, place.folder / "first.toml").text.encode())


def csv_rows(draw: random.Random) -> bytes:
    names = (
        ["question", "answer", "id"] if draw.random() < 0.6 else draw.choices(["question", "answer", *ODD_TEXTS], k=3)
    )
    cells = [[odd_text(draw, ["What?", "2", ",", '"', "\n", ";", *ODD_TEXTS], 3) for _ in range(3)] for _ in range(3)]
    end = draw.choice(("\n", "\n", "\r\n", "\r", "\n\r"))
    quoted = draw.random() < 0.5
    lines = [",".join('"' + c.replace('"', '""') + '"' if quoted else c for c in row) for row in [names, *cells]]
    return odd_bytes(draw, end.join(lines).encode("utf-8", "surrogatepass"))


COLUMNS: list[Any] = [
    pyarrow.array(["2", None]), pyarrow.array([2, 3]), pyarrow.array([0.5, float("nan")]), pyarrow.array([True, None]),
    pyarrow.array([b"\xff", b"a"]), pyarrow.array([["a"], []]), pyarrow.array([{"a": 1}, None]),
    pyarrow.array([2**62, 1], pyarrow.timestamp("us")), pyarrow.array([2**62, 1], pyarrow.timestamp("ns")),
    pyarrow.array([2**31 - 1, 0], pyarrow.date32()), pyarrow.array([1, 2], pyarrow.timestamp("s", "Nowhere/Here")),
    pyarrow.array([2**62, 0], pyarrow.duration("s")), pyarrow.array([None, None], pyarrow.null()),
    pyarrow.array(["a", "a"]).dictionary_encode(), pyarrow.array([1, 2], pyarrow.time64("ns")),
    pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
]  # fmt: skip
"""Of two rows each."""


def parquet(draw: random.Random) -> bytes:
    names = ["question", "answer", "id", draw.choice(["t", "question", "", "a.b", "\u202e"])]
    columns = [
        pyarrow.array(["What?", "And?"]),
        pyarrow.array(["2", "3"]),
        pyarrow.array(["a", "b"]),
        draw.choice(COLUMNS),
    ]
    if draw.random() < 0.4:
        columns[draw.randrange(3)] = draw.choice(COLUMNS)
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=names), sink)
    data = bytearray(sink.getvalue())
    if draw.random() < 0.3:
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return odd_bytes(draw, bytes(data))
    return bytes(data)


def read_parquet(data: bytes, place: Place) -> None:
    file = place.write("rows.parquet", data)
    tracing.check_questions(file)
    columns = {"question": "question", "answer": "answer"}
    sources.gather([Source.model_validate({"name": "s", "file": str(file), "columns": columns})], seed=0)


# -- what lies in a model's folder ---------------------------------------------------------------------------------

GENERATION = {
    "eos_token_id": [2, 0], "bos_token_id": 1, "pad_token_id": 0, "temperature": 0.7, "do_sample": True,
    "transformers_version": "5",
}  # fmt: skip
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>",
    "pad_token": "<|endoftext|>", "model_max_length": 1024, "clean_up_tokenization_spaces": False,
    "added_tokens_decoder": {"2": {"content": "<|im_end|>", "special": True}}, "chat_template": "{{ messages }}",
    "extra_special_tokens": {}, "additional_special_tokens": ["<|im_start|>"], "model_input_names": ["input_ids"],
}  # fmt: skip
CHOSEN: dict[str, Any] = {
    "policy": {"thinking_tokens_max": 8}, "full": {"thinking_tokens_max": 64}, "margin": 0.02, "n": 10, "tried": 4,
    "accuracy": 0.5, "full_accuracy": 0.5, "difference": 0.0, "ci_low": -0.01, "ci_high": 0.01,
    "thinking_tokens_mean": 7.0, "full_thinking_tokens_mean": 60.0,
}  # fmt: skip
CONFIGS: list[dict[str, Any]] = [
    {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        "intermediate_size": 128, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
        "tie_word_embeddings": True, "head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    {
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 100, "intermediate_size": 128, "num_key_value_heads": 2, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    {
        "model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 100, "intermediate_size": 128, "num_key_value_heads": 2, "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention"],
    },
]  # fmt: skip
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [8, 16]},
}
ADAPTER = {"r": 2, "lora_alpha": 4, "target_modules": None, "use_rslora": False}


def in_a_copy(place: Place, changes: Mapping[str, bytes]) -> Path:
    """A copy of the tiny model's folder with some files of other content."""
    folder = place.folder / "copy"
    if not folder.exists():
        shutil.copytree(place.model, folder)
    for file in place.model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(changes.get(file.name, file.read_bytes()))
    for name in changes.keys() - {file.name for file in place.model.iterdir()}:
        (folder / name).write_bytes(changes[name])
    return folder


def find_ends(given: tuple[bytes, bytes], place: Place) -> None:
    folder = place.folder / "ends"
    folder.mkdir(exist_ok=True)
    for name, data in zip(turn_end.FILES, given, strict=True):
        (folder / name).write_bytes(data)
    turn_end.end_ids(folder, place.tokenizer)


def load_tokenizer(data: bytes, place: Place) -> None:
    folder = in_a_copy(place, {"tokenizer_config.json": data})
    model_folder.check(folder)
    tokenizer = student.load_tokenizer(folder)
    turn_end.end_ids(folder, tokenizer)
    FormatIds.resolve(tokenizer, FORMATS["s1"], "Wait")
    ChatTemplate(tokenizer).question("1 + 1?")


def own_policy(data: bytes, place: Place) -> None:
    place.write(default_policy.FILE, data)
    if (chosen := default_policy.read(place.folder)) is not None:
        chosen.sentence.encode()


def weights(draw: random.Random) -> bytes:
    header = odd_json(draw, HEADER)
    length = draw.choice((len(header), len(header), len(header), 0, 1, 2**40, 2**63 + 5))
    return odd_bytes(draw, length.to_bytes(8, "little") + header + bytes(draw.choice((16, 16, 15, 0))))


def check_weights(data: bytes, place: Place) -> None:
    model_folder._check_weights(place.write("model.safetensors", data))


def plan_memory(data: bytes, place: Place) -> None:
    architecture = plan.read_config(place.write("config.json", data))
    machine = plan.Machine(ranks=2, on_gpu=True, memory_gb=1.0)
    for changes in ({}, {"method": "lora", "lr": 1e-4}):
        train = place.recipe.train.model_copy(update=changes)
        plan.plan(architecture, train, machine, longest_tokens=64).as_text()


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SMALL_TOKENIZER = {
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b", ["a", "b"]]},
    "added_tokens": [{"id": 3, "content": "<|im_end|>", "special": True}],
}
SMALL_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 259, "max_position_embeddings": 64, "head_dim": 8,
    "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "eos_token_id": [3],
    "bos_token_id": 1, "tie_word_embeddings": True,
}  # fmt: skip


def to_gguf(given: tuple[bytes, bytes], place: Place) -> None:
    config, tokenizer = given
    folder = in_a_copy(place, {"config.json": config, "tokenizer.json": tokenizer})
    model_folder.check(folder)
    gguf_file.write(folder, place.folder / "x.gguf", name="x")


def read_adapter(data: bytes, place: Place) -> None:
    lora._scale(place.write("adapter_config.json", data))


def template_arguments(draw: random.Random) -> tuple[str, dict[str, Any]]:
    names = ["enable_thinking", "messages", "tokenize", "add_generation_prompt", "tools", "a b", "", "return_dict",
             "continue_final_message", "self", "chat_template", "conversation", "documents", "range", "true", "\ud800",
             "loop", "namespace", "reasoning_effort", "strftime_now", "eos_token", *ODD_TEXTS]  # fmt: skip
    source = draw.choice(TEMPLATES)
    return source, {draw.choice(names): draw.choice(ODD_VALUES) for _ in range(draw.randint(1, 2))}


TEMPLATES = [
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}",
    "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{{ reasoning_effort }}",
    "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}{{ documents }}",
]


def with_arguments(given: tuple[str, dict[str, Any]], place: Place) -> None:
    source, kwargs = given
    own = place.tokenizer.chat_template
    try:
        place.tokenizer.chat_template = source
        template = ChatTemplate(place.tokenizer, system_prompt="Be brief.", kwargs=kwargs)
        template.check(FORMATS["s1"])
        template.prompt([Message(role="user", content="1 <|im_end|> 2")])
        trained_template(template, FORMATS["s1"], 2)
    finally:
        place.tokenizer.chat_template = own


DATES = [
    "{{ strftime_now('", "%Y", "%", "%Q", "%é", "\\ud800", "\\0", "') }}", "{{ strftime_now(x) }}", "'", "%-d", "%c",
    "{% set x = strftime_now %}", "{{ x('%Y') }}", "a" * 3000,
]  # fmt: skip


def fix_date(source: str, _: Place) -> None:
    from datetime import date

    template_date.with_date(source, date(2026, 1, 1))


# -- what services and servers say ---------------------------------------------------------------------------------

COMPLETION = {
    "id": "1", "object": "text_completion", "created": 0, "model": "m",
    "choices": [{"index": 0, "text": " 7", "finish_reason": "length", "stop_reason": None, "token_ids": [40, 41]}],
    "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
}  # fmt: skip


def complete(body: bytes, place: Place) -> None:
    completion = api.read_completion(body, where="http://a/v1")
    ids = FormatIds.resolve(place.tokenizer, FORMATS["s1"], "Wait")
    for speaks in ("ids", "text"):
        engine = api.ApiEngine("http://127.0.0.1:1/v1", "m", place.tokenizer, context_tokens=99, speaks=speaks)
        machine = ForcingMachine(ids, Policy(waits=1), answer_tokens_max=4, thinking_room=40)
        with contextlib.suppress(TennerError):
            said = engine._ids_of(completion.choices[0], machine, ids.close, ["x"], where="http://a/v1")
            engine._push(machine, said)
            place.tokenizer.decode(machine.ids)


MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}, {"id": "n", "owned_by": "x"}]}
TOLD: dict[str, dict[str, Any]] = {
    "client/config": {"pjwt_auth_enabled": False}, "create_session": {"session_id": "s", "error_message": None},
    "get_server_capabilities": {"supported_models": [{"model_name": "m"}]}, "create_model": {"request_id": "1"},
    "forward_backward": {"request_id": "2"}, "optim_step": {"request_id": "3"}, "save_weights": {"request_id": "4"},
    "asample": {"request_id": "5"}, "checkpoints": {"checkpoints": [{"tinker_path": "tinker://a/weights/b"}]},
    "retrieve_future": {
        "model_id": "a", "path": "tinker://a/weights/b", "metrics": {"grad_norm": 1.0}, "type": "x",
        "sequences": [{"tokens": [1, 2]}], "loss_fn_outputs": [{"logprobs": {"data": [-0.1, -0.2]}}],
    },
}  # fmt: skip


ARCHIVE = adapter_archive({"num_hidden_layers": 1, "hidden_size": 8}, 2, 1.0)


def service(draw: random.Random) -> dict[str, bytes]:
    """What a training service answers, by the end of the path."""
    told = {name: json.dumps(fields).encode() for name, fields in TOLD.items()}
    for name in draw.choices(list(TOLD), k=draw.randint(1, 2)):
        told[name] = draw.choice([odd_json(draw, TOLD[name]), odd_json(draw, TOLD[name]), b"<html>", b"[]", b"null"])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in ("adapter_config.json", draw.choice(["a", "../a", "/a", "a/b", "\u202e", "adapter_config.json"])):
            entry = tarfile.TarInfo(path)
            entry.size = 2
            archive.addfile(entry, io.BytesIO(b"{}"))
    data = packed.getvalue() if draw.random() < 0.3 else ARCHIVE
    told["archive"] = odd_bytes(draw, data if draw.random() < 0.7 else data[: draw.randint(0, len(data))])
    return told


def train_there(told: dict[str, bytes], place: Place) -> None:
    client = TinkerClient("http://127.0.0.1:1", key="k", retry_seconds=0.0)

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = told.get(request.url.path.rpartition("/")[2]) or told["create_session"]
        return httpx2.Response(200, content=body, headers={"content-type": "application/json"})

    client._http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with rejections(client), client:
        client.models()
        model = client.create_model("m", rank=2, seed=0)
        datum = Datum([1, 2], [2, 3], [0.5, 0.5])
        result = client.result(client.forward_backward(model, [datum]))
        paid_steps._loss([datum], mappings(result.get("loss_fn_outputs")))
        metrics = paid_steps._metrics(client.result("3"))
        paid_steps._grad_norm(metrics)
        client.checkpoints(model)
        client.sample("tinker://a/b/c", [1], max_tokens=2, stop_ids=[2], seed=0)
        shutil.rmtree(place.folder / "adapter", ignore_errors=True)
        client.download("tinker://a/b/c", place.folder / "adapter")
        lora.complete_config(place.folder / "adapter", base_model="m")


STORE_COLUMNS = ["key TEXT", "body BLOB", "content_type TEXT", "body TEXT", "content_type BLOB", "x INTEGER"]


def store(draw: random.Random) -> tuple[list[str], list[Any], bytes]:
    columns = draw.sample(STORE_COLUMNS, 3) if draw.random() < 0.4 else STORE_COLUMNS[:3]
    body: Any = draw.choice([b"{}", "{}", None, 5, 0.5, odd_json(draw, COMPLETION), b"\xff"])
    return columns, [body, draw.choice(["application/json", None, 7, b"a"])], odd_bytes(draw, b"")


def replay(given: tuple[list[str], list[Any], bytes], place: Place) -> None:
    columns, values, behind = given
    database = place.folder / "replay.db"
    database.unlink(missing_ok=True)
    section = TraceSection(client="openai", base_url="http://127.0.0.1:1/v1", model="m", price=PRICE)
    original = OpenAIClient(section, key="")
    call = Call(Question(id="q", question="1 + 1?", source="s"), 0)

    async def look_up() -> None:
        client = ReplayClient(original, database)
        try:
            response = await client.send(call, client.request(call))
            client.parse(response)
        finally:
            await client.close()

    with closing(sqlite3.connect(database)) as db, contextlib.suppress(sqlite3.OperationalError):
        db.execute(f"CREATE TABLE responses ({', '.join(columns)})")
        from tenner.clients.protocol import keyed_request

        key = keyed_request(original.price, original.request(call), 0).key
        db.execute("INSERT INTO responses VALUES (?, ?, ?)", (key, *values))
        db.commit()
    if behind:
        with database.open("r+b") as file:
            file.seek(30)
            file.write(behind)
    asyncio.run(look_up())


STEP = {
    "step": 9, "steps": 20, "loss": 0.5, "tokens_per_second": 100.0, "tokens_left": 6000, "lr": 0.1, "tokens": 5,
    "trained_tokens": 5, "cost_usd": 0.0, "grad_norm": 1.0,
}  # fmt: skip
SAMPLE = {"question_id": "q", "outcome": "complete", "grade": {"verdict": "wrong"}, "thinking": "t", "answer": "2"}


def run_files(draw: random.Random) -> tuple[bytes, bytes]:
    def lines(row: dict[str, Any]) -> bytes:
        return b"\n".join(odd_json(draw, row) for _ in range(draw.randint(1, 3))) + b"\n"

    return lines(STEP), lines(SAMPLE)


def watch(given: tuple[bytes, bytes], place: Place) -> None:
    from tenner.core.console import SafeConsole

    folder = place.folder / "run"
    if not folder.exists():
        from tenner.core.progress import Screen
        from tenner.core.run import open_run

        with open_run(folder, place.recipe, Screen(), budget_usd=None):
            pass
    for name, data in zip(("training", "completions"), given, strict=True):
        (folder / f"{name}.jsonl").write_bytes(data)
    console = SafeConsole(file=io.StringIO())
    console.print(View(folder).render(80))


def host(draw: random.Random) -> tuple[str, str]:
    pieces = ["localhost", "127.0.0.1", ":", "8000", "[::1]", "[", "]", "@", "evil.com", ".", "Bearer ", *ODD_TEXTS]
    good = draw.choice(("localhost", "127.0.0.1:8000", "[::1]:8000"))
    name = damaged(draw, good, pieces) if draw.random() < 0.5 else odd_text(draw, pieces, 4)
    return name, odd_text(draw, [*pieces, "\udcff"], 3)


def admit(given: tuple[str, str], _: Place) -> None:
    access.names_loopback(given[0])
    access.is_key(given[1], "secret")
    access.check_exposure(given[0], None)


DOORS: dict[str, Door] = {
    "option: a policy": Door(lambda draw: odd_text(draw, POLICY_TEXTS, 5), name_a_policy),
    "option: a rule": Door(lambda draw: odd_json(draw, RULES).decode("utf-8", "surrogateescape"), rule_of),
    "options of trace": Door(trace_words, trace_options, (TennerError, argparse.ArgumentError, SystemExit)),
    "option: tags": Door(
        lambda draw: odd_text(draw, ["<", ">", "a", " ", "/", "\udcff", "</a>", "<a>", *ODD_TEXTS], 6), tags_for
    ),
    "option: a student": Door(lambda draw: odd_text(draw, ADDRESSES, 8), find_address),
    "line of a chat": Door(chat_line, set_by_line),
    "measurement": Door(measured, measure),
    "plan of a run": Door(odd_amounts, plan_a_run),
    "overlap": Door(two_files, overlaps),
    "init: JSONL": Door(lambda draw: two_files(draw)[0].replace(b'"id"', b'"answer"'), first),
    "init: CSV": Door(csv_rows, lambda data, place: first(data, place, name="mine.csv")),
    "questions: Parquet": Door(parquet, read_parquet),
    "generation_config.json": Door(lambda draw: (odd_json(draw, CONFIGS[0]), odd_json(draw, GENERATION)), find_ends),
    "tokenizer_config.json": Door(lambda draw: odd_json(draw, TOKENIZER), load_tokenizer),
    "thinking_policy.json": Door(lambda draw: odd_json(draw, CHOSEN), own_policy),
    "safetensors": Door(weights, check_weights),
    "config.json: a plan": Door(lambda draw: odd_json(draw, draw.choice(CONFIGS)), plan_memory),
    "export to GGUF": Door(lambda draw: (odd_json(draw, SMALL_CONFIG), odd_json(draw, SMALL_TOKENIZER)), to_gguf),
    "adapter_config.json": Door(lambda draw: odd_json(draw, ADAPTER), read_adapter),
    "template arguments": Door(template_arguments, with_arguments),
    "template's date": Door(lambda draw: odd_text(draw, DATES), fix_date),
    "server: a completion": Door(lambda draw: odd_json(draw, COMPLETION), complete),
    "server: its models": Door(
        lambda draw: odd_json(draw, MODELS),
        lambda body, _: sorted(read_models(body)),
        (ValueError, TypeError, LookupError, RecursionError),
    ),
    "training service": Door(service, train_there),
    "store of a replay": Door(store, replay, (TennerError, Fault)),
    "watch": Door(run_files, watch),
    "server: host and key": Door(host, admit),
}


@pytest.mark.parametrize("name", DOORS)
def test_an_input_is_accepted_or_refused_in_one_line(name, place, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.folder / "config"))
    knock(name, DOORS[name], place)
