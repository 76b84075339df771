"""Generated questions with reference solutions, of families that a small model solves only step by step.

Every family is a function of its own random generator that returns an `Item`. To add a family, write such a function
and add it to `FAMILIES`.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from tenner.core.errors import TennerError
from tenner.core.records import Question, SourceCount
from tenner.core.seeds import digest, rng

Split = Literal["train", "heldout"]
SALT = "worked"
"""Part of the seed and the id of every question: changing this old word would change every question id."""

NAMES = (
    "Anna", "Ben", "Carl", "Dora", "Emil", "Frank", "Greta", "Hugo", "Ivan", "Jack", "Karen", "Leo",
    "Mia", "Nora", "Oscar", "Paul", "Rosa", "Sam", "Tom", "Uma", "Vera", "Will", "Yusuf", "Zoe",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("first", "second", "third", "fourth")
THINGS = ("apples", "books", "cards", "cups", "eggs", "pens", "shells", "stamps")
CHECK_RATE = 0.25  # the share of solutions that check themselves once before they answer
REDRAWS_MAX = 2000
HELDOUT_ONE_IN = 8  # one question in so many is held out


class Item(NamedTuple):
    """One generated question. `steps` is the thinking that leads to the answer; `check` is a check that may follow."""

    question: str
    steps: str
    check: str
    answer: str


def running_sum(r: random.Random) -> Item:
    """Add four one-digit numbers."""
    terms = [r.randint(2, 7) for _ in range(4)]
    total, steps = terms[0], []
    for term in terms[1:]:
        steps.append(f"{total}+{term}={total + term}.")
        total += term
    ask = r.choice(("Add up the numbers {}.", "What is the sum of {}?"))
    return Item(ask.format(", ".join(map(str, terms))), " ".join(steps), steps[-1], str(total))


def sorting(r: random.Random) -> Item:
    """Sort four two-digit numbers and find the one of a rank."""
    numbers = [10 * tens + r.randrange(10) for tens in r.sample(range(1, 10), 4)]
    ordered = sorted(numbers)
    rank = r.choice((1, 2))
    place = PLACES[rank]
    line = ", ".join(f"{name} {number}" for name, number in zip(PLACES, ordered, strict=True))
    question = f"Sort {', '.join(map(str, numbers))} from low to high. Which number is {place}?"
    steps = f"In order: {line}. The {place} is {ordered[rank]}."
    return Item(question, steps, f"{ordered[rank - 1]} is before {ordered[rank]}.", str(ordered[rank]))


def coin_flips(r: random.Random) -> Item:
    """Track a coin that people flip or leave."""
    side = start = r.choice(("heads", "tails"))
    people = r.sample(NAMES, 3)
    told, steps, flips = [], [], 0
    for name in people:
        if r.random() < 0.6:
            side, flips = ("tails" if side == "heads" else "heads"), flips + 1
            told.append(f"{name} flips it")
            steps.append(f"{name} flips: {flips} {side}.")
        else:
            told.append(f"{name} leaves it")
            steps.append(f"{name} leaves: {flips} {side}.")
    question = f"A coin shows {start}. {', '.join(told)}. How many flips, and what does it show?"
    return Item(question, " ".join(steps), steps[-1], f"{flips} {side}")


def last_letters(r: random.Random) -> Item:
    """Concatenate the last letters of three names."""
    names = r.sample(NAMES, 3)
    spelt = [" ".join(name[-1] for name in names[: i + 1]) for i in range(3)]
    steps = [f"{name}: {letters}." for name, letters in zip(names, spelt, strict=True)]
    ask = r.choice(("Give the last letters of {}, in order.", "What are the last letters of {}?"))
    return Item(ask.format(", ".join(names)), " ".join(steps), steps[-1], spelt[-1])


def shopping(r: random.Random) -> Item:
    """Track a count through gains and losses."""
    name, thing = r.choice(NAMES), r.choice(THINGS)
    count = start = r.randint(7, 12)
    told, steps = [], []
    for verb in r.sample(("finds", "gets", "loses", "sells"), 3):
        n = r.randint(1, 3)
        after = count + n if verb in ("finds", "gets") else count - n
        steps.append(f"{verb} {n}: {count}{'+' if after > count else '-'}{n}={after}.")
        told.append(f"{verb} {n}")
        count = after
    question = f"{name} has {start} {thing}, then {', '.join(told)}. How many now?"
    return Item(question, " ".join(steps), steps[-1], str(count))


def bills(r: random.Random) -> Item:
    """Look up prices and add them."""
    name, things = r.choice(NAMES), r.sample(THINGS, 4)
    prices = {thing: r.randint(2, 9) for thing in things}
    basket = r.sample(things, 3)
    total, steps = prices[basket[0]], [f"{basket[0]} {prices[basket[0]]}."]
    for thing in basket[1:]:
        steps.append(f"{thing} {prices[thing]}: {total}+{prices[thing]}={total + prices[thing]}.")
        total += prices[thing]
    listed = ", ".join(f"{thing} {price}" for thing, price in prices.items())
    question = f"Prices: {listed}. {name} takes {basket[0]}, {basket[1]} and {basket[2]}. What is the bill?"
    return Item(question, " ".join(steps), steps[-1], str(total))


def weekdays(r: random.Random) -> Item:
    """Find the weekday more than one and less than two weeks ahead."""
    name, today, rest = r.choice(NAMES), r.randrange(7), r.randint(1, 6)
    walk = " ".join(f"{i}: {DAYS[(today + i) % 7]}." for i in range(rest + 1))
    question = f"Today is {DAYS[today]}. {name} comes back in {7 + rest} days. Which day is that?"
    return Item(question, f"{7 + rest}-7={rest}. {walk}", f"7+{rest}={7 + rest}.", DAYS[(today + rest) % 7])


def sequences(r: random.Random) -> Item:
    """Continue an arithmetic sequence to a place."""
    name, start, step, place = r.choice(NAMES), r.randint(1, 9), r.randint(2, 5), r.choice((5, 6))
    terms = [start + step * i for i in range(place)]
    line = " ".join(f"{i}: {term}." for i, term in enumerate(terms, 1))
    question = f"{name} starts at {start} and adds {step} each time. Which number is in place {place}?"
    return Item(question, line, f"{terms[-2]}+{step}={terms[-1]}.", str(terms[-1]))


FAMILIES: dict[str, Callable[[random.Random], Item]] = {
    "running_sum": running_sum,
    "sorting": sorting,
    "coin_flips": coin_flips,
    "last_letters": last_letters,
    "shopping": shopping,
    "bills": bills,
    "weekdays": weekdays,
    "sequences": sequences,
}


def split_of(question: str) -> Split:
    """The split of a question, by a hash of its text alone: no seed can put one question into both splits."""
    return "heldout" if int(digest("split", question)[:8], 16) % HELDOUT_ONE_IN == 0 else "train"


def generate(
    count: int, *, families: Sequence[str], split: Split, seed: int, distinct: bool = False, passes_over: bool = False
) -> Iterator[Question]:
    """Yield `count` questions of a split, the families in turn.

    With `distinct`, repeated questions are drawn again; without it they may repeat, and cleaning drops them. A family
    that has no other question raises TennerError, or is passed over: then fewer are yielded where none has any.
    """
    seen: set[str] = set()
    exhausted: set[str] = set()
    yielded = 0
    for i in itertools.count():
        if yielded == count or exhausted.issuperset(families):
            return
        family = families[i % len(families)]
        if family in exhausted:
            continue
        r = rng(seed, f"{SALT}/{family}/{split}", str(i))
        item = FAMILIES[family](r)
        for _ in range(REDRAWS_MAX):
            if split_of(item.question) == split and not (distinct and item.question in seen):
                break
            item = FAMILIES[family](r)
        else:
            if passes_over:
                exhausted.add(family)
                continue
            raise TennerError(
                f"the family {family} has no {i // len(families) + 1} distinct {split} questions",
                hint="ask for fewer questions or add families",
            )
        seen.add(item.question)
        yielded += 1
        thinking = f"{item.steps}\nWait, check: {item.check}" if r.random() < CHECK_RATE else item.steps
        yield Question(
            id=digest(SALT, family, seed, split, i)[:16],
            question=item.question,
            answer=item.answer,
            domain=family,
            kind="text",
            source=f"puzzles:{family}",
            solution=thinking,
        )


def source_count(families: Sequence[str], count: int) -> SourceCount:
    """The row of the generated questions in the table of sources."""
    where = f"generated by tenner: {', '.join(families)}"
    return SourceCount(source="puzzles", where=where, license="apache-2.0", rows=count, questions=count, published=None)
