"""Fuzzing: what is drawn (odd texts, JSON and bytes near good ones), and how a door is knocked at.

A door may accept an input, or refuse it in one line by the exceptions that it documents; anything else is a failure,
and so is to compute for longer than `CPU_SECONDS_MAX`.
"""

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.terminal import one_line

ROUNDS = int(os.environ.get("TENNER_CAMPAIGN", "1"))
FIRST_SEED = int(os.environ.get("TENNER_CAMPAIGN_SEED", "0"))
INPUTS_PER_ROUND = 150
CPU_SECONDS_MAX = 2.0
LONG_SHARE, LONG_CHARACTERS = 0.02, (2_000, 100_000)
"""So many of the texts hold one piece again and again, up to so many characters."""

# -- what is drawn -------------------------------------------------------------------------------------------------

ODD_TEXTS = [
    "", " ", "\n", "\r", "\t", "\0", "\x1b[2J", "\u202e", "\ufdfa", "é", "½", "²", "٣", "\U0001f600", "\ufffe", "nan",
    "\u2028", "\x0b", "\x85", "-inf", "1e309", "1e-400", "9" * 50, "9" * 5000, "'", '"', "\\", "\\u0041", "{", "}",
    "{{", "%", "{% if %}", "..", "/", "~nobody", "~", "None", "true", "=", "[", "]", "#", "<script>", "$(id)", "-1",
]  # fmt: skip
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, 1.5, -0.0, 1e308, 5e-324, math.inf, math.nan]
ODD_VALUES: list[Any] = [
    None, True, False, [], {}, [None], [[]], [{}], {"": 1}, {"a": {"a": 1}}, [{"text": 3}],
    [{"type": "text", "text": "1"}], "\ud800", "@lists@", "@objects@", "@parts@", *ODD_NUMBERS, *ODD_TEXTS,
]  # fmt: skip
DEEP = {
    '"@lists@"': "[" * 400 + "]" * 400,
    '"@objects@"': '{"text":' * 400 + "1" + "}" * 400,
    '"@parts@"': '[{"type":"text","text":' * 400 + '"1"' + "}]" * 400,
}
"""Values that are nested as deeply as Python's reader of JSON just takes, by what stands for them."""
SAYING = [
    "The answer is ", "Answer: ", "**Answer:** ", "\n", " ", ". ", "<answer>", "</answer>", '{"answer": "', '"}',
    "</think>", "<think>", "<|channel|>final<|message|>", "<|im_end|>", "because ", "Final answer: ", "答案是", "$",
    "(A) ", "A and B", "None of the above", "Yes", "no", "“", "”", "*", "`",
]  # fmt: skip
MARKS = [
    *SAYING, "<|channel|>", "analysis", "assistantfinal", "<|message|>", "<|end|>", "<|start|>", "assistant",
    "<channel|>",
    "<|channel>", "thought", "Here is my thought process:", "Here is my response:", "[THINK]", "[/THINK]", "<thinking>",
    "<|begin_of_solution|>", "<|END_RESPONSE|>", "<|im_start|>", "think", "answer", "◁think▷", "◁/think▷", "7 and 4",
    *ODD_TEXTS,
]  # fmt: skip


def odd_text(draw: random.Random, pieces: list[str], most: int = 12) -> str:
    """Some of the pieces, one after the other; now and then one of them very often, or cut off."""
    text = "".join(draw.choice(pieces) for _ in range(draw.randint(0, most)))
    if draw.random() < LONG_SHARE:
        piece = draw.choice(pieces) or " "
        text += piece * (draw.choice(LONG_CHARACTERS) // len(piece))
    return text[: draw.randint(0, len(text))] if draw.random() < 0.1 else text


def damaged(draw: random.Random, text: str, pieces: list[str]) -> str:
    """The text with up to three stretches of it left out, repeated, swapped with others or replaced by pieces."""
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        a, b = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        b = min(b, a + draw.choice((0, 1, 4, 1000)))
        middle = draw.choice(("", text[a:b] * 2, text[a:b][::-1], draw.choice(pieces), draw.choice(pieces) + text[a:b]))
        text = text[:a] + middle + text[b:]
    return text


def changed(value: Any, draw: random.Random, texts: list[str] = ODD_TEXTS) -> Any:
    """The same JSON with one thing in it replaced, left out, repeated or renamed; mostly by another of its type."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        name = draw.choice(list(value))
        match draw.randint(0, 15):
            case 0:
                return {key: v for key, v in value.items() if key != name}
            case 1:
                return {draw.choice((key, *ODD_TEXTS)) if key == name else key: v for key, v in value.items()}
            case 2:
                return {**value, draw.choice([*ODD_TEXTS, *value]): draw.choice(ODD_VALUES)}
        return {**value, name: changed(value[name], draw, texts)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        again = draw.choice((0, 1, 1, 1, 2, 50))
        return [*value[:place], *[changed(value[place], draw, texts)] * again, *value[place + 1 :]]
    if draw.random() < 0.25:
        return draw.choice(ODD_VALUES)
    if isinstance(value, str):
        return draw.choice((value, "")) + odd_text(draw, texts, 6)
    return not value if isinstance(value, bool) else draw.choice(ODD_NUMBERS)


def odd_json(draw: random.Random, value: Any, texts: list[str] = ODD_TEXTS) -> bytes:
    """JSON of the value with up to three things changed, and at times bytes that are none."""
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        value = changed(value, draw, texts)
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    for mark, deep in DEEP.items():
        text = text.replace(mark, deep, 1)
    return odd_bytes(draw, text.encode("utf-8", "surrogatepass"))


def odd_bytes(draw: random.Random, data: bytes) -> bytes:
    """At times cut off, or with a few bytes put in between."""
    if draw.random() < 0.85:
        return data
    place = draw.randint(0, len(data))
    odd = draw.choice(
        (b"", b"\xff", b"\xef\xbb\xbf", b"\0", b"\n", b"\r", b'"', b"{", b"]", b": comment\n", b"\xed\xa0\x80")
    )
    return data[:place] + odd + (data[place:] if draw.random() < 0.6 else b"")


# -- doors ----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where files of inputs are written, a real tokenizer, the folder of its tiny model, and a small recipe."""

    folder: Path
    tokenizer: Any
    model: Path
    recipe: Recipe

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


class Door(NamedTuple):
    """What makes an input, what reads it, and the exceptions by which it may be refused."""

    make: Callable[[random.Random], Any]
    read: Callable[[Any, Place], object]
    refusals: tuple[type[BaseException], ...] = (TennerError,)


class TooSlow(BaseException):
    """Raised wherever the program is when its time is over; no door catches it."""


def _too_slow(*_: object) -> None:
    raise TooSlow


class Tally:
    """What came of the inputs at a door."""

    def __init__(self) -> None:
        self.accepted = self.refused = 0
        self.worst_seconds = 0.0

    def knock(self, door: Door, draw: random.Random, place: Place) -> None:
        """Make an input and have it read. Raises whatever is no refusal, and TooSlow."""
        made, refusal = door.make(draw), ""
        began = time.thread_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS_MAX)
        try:
            door.read(made, place)
            self.accepted += 1
        except door.refusals as e:
            refusal = str(e)
            self.refused += 1
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self.worst_seconds = max(self.worst_seconds, time.thread_time() - began)
        assert len(one_line(refusal).splitlines()) <= 1


def knock(name: str, door: Door, place: Place) -> None:
    """The campaign at one door; prints a line of the table. Raises what an input made the door raise, shrunk."""
    tally = Tally()
    bounded = settings(
        max_examples=INPUTS_PER_ROUND, database=None, deadline=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    before = signal.signal(signal.SIGVTALRM, _too_slow)

    def once(draw: random.Random) -> None:
        tally.knock(door, draw, place)

    try:
        for number in range(FIRST_SEED, FIRST_SEED + ROUNDS):
            seed(number)(bounded(given(st.randoms(use_true_random=False))(once)))()
    finally:
        signal.signal(signal.SIGVTALRM, before)
    inputs = tally.accepted + tally.refused
    print(f"\n{name:24}{inputs:9,} inputs{tally.accepted:9,} accepted{tally.refused:9,} refused", end="")
    print(f"{1000 * tally.worst_seconds:8.1f} ms at worst")
    assert inputs >= INPUTS_PER_ROUND * ROUNDS // 2
