r"""How many of a benchmark's questions are found when they are spelled otherwise, and what the comparison costs.

    python bench/overlap_spellings.py math500.jsonl --pool s1k_questions.jsonl --before ../tenner-before

Each kind of respelling is applied to all questions of the benchmark; those that it changes are looked for in the
benchmark. With `--before`, a checkout of an older version, a pool of 59,000 questions made of the `--pool`'s is
compared with the benchmark by both versions in turns, each in a process of its own. The last line is one JSON object.
"""

# ruff: noqa: RUF001  # respellings are ambiguous on purpose

import argparse
import html
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

from tenner.commands.overlap import read_questions
from tenner.core.records import Question
from tenner.core.sections import Clean
from tenner.data import overlap

POOL_SIZE = 59_000
TURNS = 5
UNICODE = {
    "sqrt": "√", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "times": "×", "cdot": "·", "pi": "π", "angle": "∠",
    "infty": "∞", "in": "∈", "neq": "≠", "pm": "±", "to": "→", "cup": "∪", "cap": "∩", "sum": "∑", "triangle": "△",
    "theta": "θ", "alpha": "α", "beta": "β", "omega": "ω", "lambda": "λ", "ldots": "…", "cdots": "⋯", "dots": "…",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "equiv": "≡", "subset": "⊂", "div": "÷",
}  # fmt: skip
SUPERSCRIPTS = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")


def sub(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    """A respelling by one regular expression."""
    return lambda text: re.sub(pattern, new, text)


def unicode_signs(text: str) -> str:
    """Characters for LaTeX commands."""
    text = re.sub(r"\^\s*\{?\\circ\}?", "°", text)
    return re.sub(r"\\([a-zA-Z]+) ?", lambda m: UNICODE.get(m[1], m[0]), text)


def unicode_exponents(text: str) -> str:
    """Superscript characters for exponents of digits."""
    return re.sub(r"\^(?:\{(-?\d+|n)\}|(\d|n(?![a-z])))", lambda m: (m[1] or m[2]).translate(SUPERSCRIPTS), text)


def full_width(text: str) -> str:
    """Full-width forms of signs outside LaTeX commands."""
    return re.sub(r"(?<!\\)[,.?!:;()=+<>]", lambda m: chr(ord(m[0]) + 0xFEE0), text)


def entities(text: str) -> str:
    """HTML entities for what HTML must escape, and for some signs."""
    text = html.escape(text)
    return re.sub(r"\\(times|le|ge|pi|alpha|theta)\b", r"&\1;", text)


def in_math(change: Callable[[str], str]) -> Callable[[str], str]:
    """A respelling within dollar signs."""
    return lambda text: re.sub(r"\$[^$]*\$", lambda m: change(m[0]), text)


RESPELLINGS: dict[str, Callable[[str], str]] = {
    "compact fractions": sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2"),
    "half-compact fractions": sub(r"\\frac\{(\w)\}", r"\\frac\1"),
    "dfrac": sub(r"\\frac", r"\\dfrac"),
    "fractions with a slash": sub(r"\\frac\{(\w+)\}\{(\w+)\}", r"(\1/\2)"),
    "braces around scripts": sub(r"([\^_])(\w)", r"\1{\2}"),
    "no braces around one character": sub(r"([\^_])\{(\w)\}", r"\1\2"),
    "no braces around radicands": sub(r"\\sqrt\{(?:(\d+)|(\w))\}", lambda m: rf"\sqrt{m[1] or ' ' + m[2]}"),
    "no braces around exponents": sub(r"\^\{(\d+)\}", r"^\1"),
    "superscript characters": unicode_exponents,
    "Unicode signs": unicode_signs,
    "Unicode signs and exponents": lambda text: unicode_exponents(unicode_signs(text)),
    "Unicode signs, no dollars": lambda text: unicode_exponents(unicode_signs(text)).replace("$", ""),
    "NFKC of Unicode signs": lambda text: unicodedata.normalize("NFKC", unicode_signs(text)),
    "NFD of Unicode signs": lambda text: unicodedata.normalize("NFD", unicode_signs(text)),
    "thousands with commas": sub(r"(?<![\d.,])\d{4,}(?![\d.])", lambda m: f"{int(m[0]):,}"),
    "thousands with braced commas": sub(r"(?<![\d.,])\d{4,}(?![\d.])", lambda m: f"{int(m[0]):,}".replace(",", "{,}")),
    "thousands without commas": sub(
        r"(?<![-\d.,(])\d{1,3}(?:,(?:\\!)?\d{3})+(?!\d)", lambda m: re.sub(r"\D", "", m[0])
    ),
    "degree signs": sub(r"\^\s*\{?\\circ\}?", "°"),
    "degrees in braces": sub(r"\^\s*\\circ", r"^{\\circ}"),
    "no dollars": sub(r"\$", ""),
    "parentheses for dollars": sub(r"\$([^$]+)\$", r"\\(\1\\)"),
    "left and right": in_math(lambda text: text.replace("(", r"\left(").replace(")", r"\right)")),
    "no left and right": sub(r"\\(?:left|right)\b", ""),
    "leq": sub(r"\\(l|g)eq?\b", r"\\\1eqslant"),
    "spaces in formulas": in_math(sub(r"\s*([=+<>])\s*", r"  \1 ")),
    "no spaces in formulas": in_math(sub(r"\s*([=+<>,-])\s*", r"\1")),
    "LaTeX spaces": in_math(sub(r"([=+])", r"\\,\1\\;")),
    "Markdown": lambda text: "## " + re.sub(r"\b([A-Z]\w+)\b", r"**\1**", text),
    "full-width signs": full_width,
    "align": sub(r"\\\[(.*?)\\\]", r"\\begin{align*}\1\\end{align*}"),
    "align, with places": sub(r"(?s)\\\[(.*?)=(.*?)\\\]", r"\\begin{align}\1&=\2\\\\\\end{align}"),
    "smart quotes": lambda text: re.sub(r"\"([^\"]*)\"", r"“\1”", text).replace("'", "’"),
    "HTML entities": entities,
    "full-width digits": sub(r"[0-9]", lambda m: chr(ord(m[0]) + 0xFEE0)),
    "upright text": sub(r"\\text\{", r"\\mathrm{"),
}
"""By its name, what spells a question otherwise; a question that it leaves alone is not counted."""
CHINESE = [
    "小{a}有{n}个{b}，给了小{c}{m}个，又买了{k}个，请问小{a}现在一共有多少个{b}？",
    "一个长方形的长是{n}厘米，宽是{m}厘米，求这个长方形的面积和周长各是多少。",
    "甲乙两地相距{n}千米，一辆汽车以每小时{m}千米的速度从甲地开往乙地，几小时可以到达？",
    "已知数列的前{n}项和为{m}，首项为{k}，求该数列的公差以及第{n}项的值。",
    "某工厂计划生产{n}台机器，前{k}天每天生产{m}台，余下的任务还需要多少天才能完成？",
]


def chinese(r: random.Random) -> list[tuple[str, str]]:
    """Chinese questions, and the same with one character changed."""
    pairs = []
    for i in range(200):
        fields = {key: r.choice("明红强华丽军芳") for key in "ac"} | {"b": r.choice(["苹果", "橘子", "铅笔"])}
        numbers = {key: r.randint(2, 999) for key in "nmk"}
        text = CHINESE[i % len(CHINESE)].format(**fields, **numbers)
        at = r.choice([i for i, c in enumerate(text) if "\u4e00" <= c <= "\u9fff"])
        pairs.append((text, f"{text[:at]}{r.choice('的其共该余此')}{text[at + 1 :]}"))
    return pairs


def recall(benchmark: list[Question], respell: Callable[[str], str]) -> tuple[int, list[str]]:
    """How many questions the respelling changes, and the ids of those that are then not found."""
    changed = [q.model_copy(update={"question": new}) for q in benchmark if (new := respell(q.question)) != q.question]
    found = overlap.compare(changed, benchmark, Clean())
    own = {hit.question_id for hit in found if hit.kind != "boilerplate" and hit.question_id == hit.benchmark_id}
    return len(changed), [q.id for q in changed if q.id not in own]


def recall_of_chinese() -> tuple[int, list[str]]:
    """The same for Chinese questions with one character changed."""
    pairs = chinese(random.Random(0))
    benchmark = [Question(id=str(i), question=text, source="made") for i, (text, _) in enumerate(pairs)]
    respelled = dict(pairs)
    return recall(benchmark, lambda text: respelled[text])


def pool_of(questions: list[Question], size: int) -> list[Question]:
    """So many different questions: the given ones, again and again, with another word in each copy."""
    made = []
    for i in range(size):
        copy, q = divmod(i, len(questions))
        text = questions[q].question.replace("the", f"the k{copy}", 1)
        made.append(Question(id=str(i), question=text, source="made"))
    return made


def timed(benchmark: Path, pool: Path) -> float:
    """Processor seconds of comparing the large pool with the benchmark, the faster of two."""
    against, questions = read_questions(benchmark), pool_of(read_questions(pool), POOL_SIZE)
    seconds = []
    for _ in range(2):
        began = time.process_time()
        overlap.compare(questions, against, Clean())
        seconds.append(time.process_time() - began)
    return min(seconds)


def timed_elsewhere(root: Path, benchmark: Path, pool: Path) -> float:
    """The same by the version of another folder, in a process of its own."""
    command = [sys.executable, __file__, str(benchmark), "--pool", str(pool), "--only-time"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout of the version to compare the time with")
    parser.add_argument("--only-time", action="store_true")
    args = parser.parse_args()
    if (args.before or args.only_time) and not args.pool:
        parser.error("the time is of a --pool")
    if args.only_time:
        print(timed(args.benchmark, args.pool))
        return
    benchmark = read_questions(args.benchmark)
    result: dict[str, object] = {}
    kinds = {name: recall(benchmark, respell) for name, respell in RESPELLINGS.items()}
    kinds["one Chinese character changed"] = recall_of_chinese()
    for name, (count, missed) in kinds.items():
        print(f"{name:38}{count - len(missed):>5} of {count:>4}  {' '.join(missed[:4])}")
    result["recall"] = {name: [count - len(missed), count] for name, (count, missed) in kinds.items()}
    if args.before:
        seconds: dict[str, list[float]] = {"before": [], "now": []}
        for _ in range(TURNS):
            for name, root in (("before", args.before), ("now", Path(__file__).parents[1])):
                seconds[name].append(timed_elsewhere(root, args.benchmark, args.pool))
        before, now = (statistics.median(seconds[name]) for name in ("before", "now"))
        ratios = [b / a for a, b in zip(seconds["before"], seconds["now"], strict=True)]
        print(f"{POOL_SIZE:,} questions: {before:.2f} s before, {now:.2f} s now")
        result |= {"seconds_before": before, "seconds_now": now, "ratio": round(statistics.median(ratios), 3)}
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
