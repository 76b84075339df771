"""`tenner plan RECIPE` and `tenner train RUN --dry-run`: whether a training fits, before anything is loaded."""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.sections import Train
from tenner.training import context_parallel, distributed, rank_balance, student_address
from tenner.training.architecture import Architecture
from tenner.training.memory_plan import Forecast, forecast, trained_parameters
from tenner.training.rank_balance import Waiting

GB = 1_000_000_000
RANKS_FACTOR_MAX = 64
"""So many times the ranks are tried, in doublings, where it does not fit."""
ROW_TOKENS_MIN, ROW_TOKENS_STEP = 1024, 256
"""Rows of so few tokens are proposed where it does not fit, and how finely: shorter traces hold no reasoning."""
LONGER_FACTOR = 1.25
"""Further changes are proposed for rows that are longer by this."""


class Machine(NamedTuple):
    """What trains: devices of so many GB each (None: not known), one to a rank."""

    ranks: int
    on_gpu: bool
    memory_gb: float | None


class Plan(NamedTuple):
    """`fits` is None where no memory is given; `remedies` are settings with which it would fit, the fewest first: on
    these devices with all tokens, on these with fewer tokens to a row, then on more.
    """

    forecast: Forecast
    machine: Machine
    parameters: int
    trained_parameters: int
    longest_tokens: int
    fits: bool | None
    remedies: list[str]
    waiting: Waiting | None = None
    """Of several GPUs for one another, where the lengths of the samples are known or assumed."""
    run_exists: bool = False

    def as_json(self) -> str:
        counts = {"parameters": self.parameters, "trained_parameters": self.trained_parameters}
        return json.dumps(
            self.machine._asdict()
            | counts
            | {"longest_tokens": self.longest_tokens, "moment": self.forecast.moment, "bytes": self.forecast.items}
            | {"total_bytes": self.forecast.total_bytes, "fits": self.fits, "remedies": self.remedies}
            | ({"idle_share": self.waiting.idle_share} if self.waiting else {})
        )

    def as_text(self) -> str:
        machine, total_gb = self.machine, self.forecast.total_bytes / GB
        each = f"a sample of {self.longest_tokens:,} tokens on {machine.ranks} {'GPU' if machine.on_gpu else 'process'}"
        each += ("s" if machine.on_gpu else "es") * (machine.ranks > 1)
        lines = [f"{self.parameters:,} parameters, {self.trained_parameters:,} trained"]
        lines += [f"{name:24}{n / GB:10.2f} GB" for name, n in self.forecast.items.items()]
        lines.append(f"{'together':24}{total_gb:10.2f} GB on each, most of all {self.forecast.moment}; {each}")
        if self.fits is not None:
            lines.append(f"{'fits' if self.fits else 'does not fit'} in {machine.memory_gb:.4g} GB")
        if self.fits is False:
            lines += [f"would fit with {remedy}" for remedy in self.remedies] or [
                "nothing that tenner has makes it fit"
            ]
        if self.waiting is not None:
            lines.append(self._waiting_line(self.waiting))
        return "\n".join(lines)

    def _waiting_line(self, waiting: Waiting) -> str:
        line = f"GPUs wait {waiting.idle_share:.0%} of their time for the one with the longest row"
        remedies = []
        if waiting.context_parallel is not None:
            remedies.append(
                f"{waiting.idle_share_shared:.0%} with train.context_parallel = {waiting.context_parallel}, where so "
                "many share each row"
            )
        if waiting.tokens_per_step != waiting.own_tokens_per_step:
            new_run = ", in a new run" if self.run_exists else ""
            remedies.append(
                f"{waiting.idle_share_then:.0%} with train.tokens_per_step = {waiting.tokens_per_step}, which makes "
                f"fewer and larger steps{new_run}"
            )
        return "; ".join([f"{line}: a step has too few samples", *remedies]) if remedies else line


def run(recipe: Recipe, config: Path | None, machine: Machine) -> Plan:
    """The plan of a recipe, its longest sample taken as train.tokens_max.

    Raises TennerError where the student's config.json is not at hand, or is of a family that is not known.
    """
    check_trains_here(recipe.train)
    check(machine, recipe.train)  # before a config.json is looked for
    return plan(_architecture(recipe, config), recipe.train, machine, longest_tokens=recipe.train.tokens_max)


def plan(
    architecture: Architecture, train: Train, machine: Machine, *, longest_tokens: int, run_exists: bool = False,
    lengths: Sequence[int] = (), seed: int = 0, row_lengths: int = 1,
) -> Plan:  # fmt: skip
    """The forecast, and what would help; of a run that exists, which of it needs a new one.

    With the `lengths` of the samples it says how long several GPUs wait for one another. `row_lengths` as in
    `memory_plan.forecast`.

    Raises TennerError for a number of ranks or GB that cannot be, and for rows that ranks cannot share.
    """
    check(machine, train)
    context_parallel.check(architecture, train.context_parallel, longest_tokens=longest_tokens)
    if train.precision == "auto":  # a GPU that is rented for this is of a generation that has bfloat16
        precision = "bf16" if machine.on_gpu else hardware.best_precision("cpu")
        train = train.model_copy(update={"precision": precision})

    def of(settings: Train, ranks: int) -> Forecast:
        longest = min(longest_tokens, settings.tokens_max)
        return forecast(
            architecture, settings, longest_tokens=longest, ranks=ranks, on_gpu=machine.on_gpu, row_lengths=row_lengths
        )

    def fit(settings: Train, ranks: int) -> bool | None:
        return None if machine.memory_gb is None else of(settings, ranks).total_bytes <= machine.memory_gb * GB

    fits = fit(train, machine.ranks)
    remedies = [
        " and ".join(
            [f"train.{key} = {json.dumps(value)}" for key, value in changes.items()]
            + [f"{ranks} ranks"] * (ranks > machine.ranks)
        )
        + (", in a new run" if run_exists and changes.keys() - Train.free_on_resume() else "")
        for changes, ranks in (_remedies(train, machine.ranks, longest_tokens, fit) if fits is False else ())
    ]
    trained = trained_parameters(architecture, train)
    waiting = None
    if lengths and machine.on_gpu and machine.ranks > 1:
        waiting = rank_balance.waiting(
            lengths, train.tokens_per_step, train.tokens_per_row, machine.ranks, flops=architecture.forward_flops,
            seed=seed, sharing=train.context_parallel,
            could_share=_could_share(architecture, train, machine.ranks, longest_tokens),
        )  # fmt: skip
    return Plan(
        of(train, machine.ranks), machine, architecture.parameters, trained, longest_tokens, fits, remedies, waiting,
        run_exists,
    )  # fmt: skip


def _could_share(architecture: Architecture, train: Train, ranks: int, longest_tokens: int) -> list[int]:
    """How many more ranks than now could share a row."""
    return [
        count
        for count in range(train.context_parallel + 1, context_parallel.GPUS_PER_NODE + 1)
        if ranks % count == 0 and context_parallel.possible(architecture, count, longest_tokens=longest_tokens)
    ]


def _remedies(
    train: Train, own_ranks: int, longest_tokens: int, fit: Callable[[Train, int], bool | None]
) -> list[tuple[dict[str, Any], int]]:
    """Changes of settings with the ranks they need, in the order of `Plan.remedies`."""
    here, shorter, larger = (list[tuple[dict[str, Any], int]]() for _ in range(3))
    best_tokens = 0
    for changes in _changes(train, own_ranks):
        settings = train.model_copy(update=changes)
        doublings = range(1 if settings.quantization else RANKS_FACTOR_MAX.bit_length())
        tried = (own_ranks << doubling for doubling in doublings)
        ranks = next((ranks for ranks in tried if fit(settings, ranks)), None)
        # Not what another one does with fewer changes and no more ranks.
        if ranks and not any(less.items() <= changes.items() and fewer <= ranks for less, fewer in here + larger):
            (here if ranks == own_ranks else larger).append((changes, ranks))
        if ranks != own_ranks:
            tokens = _row_tokens(settings, longest_tokens, lambda tried: fit(tried, own_ranks))
            if tokens and max(tokens.values()) >= LONGER_FACTOR * best_tokens:
                best_tokens = max(tokens.values())
                shorter.append((changes | tokens, own_ranks))
    return here + shorter + larger


def _row_tokens(train: Train, longest_tokens: int, fit: Callable[[Train], bool | None]) -> dict[str, int]:
    """The most tokens to a row with which it fits: fewer to a packed row if that will do, else shorter samples.

    Nothing where not even rows of `ROW_TOKENS_MIN` fit.
    """

    def changes(tokens: int) -> dict[str, int]:
        shorter = {"tokens_max": tokens} if tokens < longest_tokens else {}
        return shorter | ({"tokens_per_row": tokens} if tokens < train.tokens_per_row else {})

    steps = range(ROW_TOKENS_MIN, max(longest_tokens, train.tokens_per_row), ROW_TOKENS_STEP)
    fitting = bisect_left(steps, True, key=lambda tokens: not fit(train.model_copy(update=changes(tokens))))
    return changes(steps[fitting - 1]) if fitting else {}


def check_trains_here(train: Train) -> None:
    """Raise TennerError where a service trains: it needs no memory and no processes of this machine."""
    if train.backend is not None:
        raise TennerError(
            f'with train.backend = "{train.backend}" a service trains, and not this machine',
            hint="tenner train RUN, in one process, says what the training will cost",
        )


def check(machine: Machine, train: Train) -> None:
    if machine.ranks < 1 or machine.ranks % (train.shard_over or 1):
        raise TennerError(f"{machine.ranks} ranks cannot train", hint="at least 1, and a multiple of train.shard_over")
    distributed.check_rows_shared(machine.ranks, train.context_parallel)
    if machine.ranks > 1 and train.quantization:
        raise TennerError(f'train.quantization = "{train.quantization}" is for one rank', hint="leave one of them out")
    if machine.memory_gb is not None and not 0 < machine.memory_gb < math.inf:
        raise TennerError(f"--memory-gb {machine.memory_gb:g} is not a number above zero")


def read_config(path: Path) -> Architecture:
    """Raises TennerError for a file that cannot be read or is no config.json of a model that transformers knows."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TennerError(
            f"{path} cannot be read: {error}", hint="it is a model's config.json that is needed"
        ) from error
    if not isinstance(config, dict):
        raise TennerError(f"{path} is no JSON object", hint="it is a model's config.json that is needed")
    return Architecture.of(config)


def _architecture(recipe: Recipe, config: Path | None) -> Architecture:
    """Of the file that is given, or of the student where it is on this machine: nothing is fetched."""
    if config is None and (folder := student_address.local(recipe.student.model)) is not None:
        config = folder / "config.json"
    if config is None:
        raise TennerError(
            f"the config.json of {recipe.student.model} is not on this machine", hint="give it: --config FILE"
        )
    return read_config(config)


def _changes(train: Train, ranks: int) -> Iterator[dict[str, Any]]:
    """Changes of settings: none, one at a time, then two, and so on, where they are possible together."""
    changes = {"activations": "inputs"}
    if train.precision != "pure-bf16":
        changes |= {"optimizer": "adamw-8bit", "method": "lora"}
        changes |= {"quantization": "nf4"} if ranks == 1 else {}
    new = [(key, value) for key, value in changes.items() if getattr(train, key) != value]
    for count in range(len(new) + 1):
        for some in combinations(new, count):
            if dict(some).get("quantization") is None or "lora" in (train.method, dict(some).get("method")):
                yield dict(some)
