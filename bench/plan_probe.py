"""What `tenner plan --probe` says of a run, beside what the run then takes: time, dollars, tokens and memory.

    python bench/plan_probe.py                     # three small runs, some minutes each on two quiet cores
    python bench/plan_probe.py --only lora
    python bench/plan_probe.py --skyrl DIR         # and one that a server trains (scripts/install_skyrl.sh DIR)
    tenner plan demo --probe 24 --run-dir RUN && tenner run demo --run-dir RUN
    python bench/plan_probe.py --none --demo RUN   # a finished run

The runs are the demo, shrunk, with another student (`size`: the first 12 of its 30 layers), with adapters (`lora`), a
teacher on loopback that is paid (`paid`: half of its traces are wrong), or a service that trains it (`service`).
Each is planned and run by the command line, in one folder: the plan is the one that its report shows. Dollars are those
of this machine's time, at the demo's price, and of calls. The last line is one JSON object. Exits with 1 where a whole
run's seconds or dollars are off by more than 25 %, or the memory of its training by more than 15 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import evidence

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import skyrl_server
from chat_server import ChatServer

from tenner.budget.estimate import Estimate
from tenner.budget.ledger_database import read_spend
from tenner.budget.ledger_rows import SpendRow
from tenner.core import recipe
from tenner.core.records import Completion, StagePlan, TrainStep
from tenner.core.run_folder import RunFolder

PROBED = 24
OFF_MAX = {"seconds": 0.25, "dollars": 0.25, "memory": 0.15}
UNITS = {"seconds": "s", "dollars": "mUSD", "tokens": "", "memory": "MB"}
SCALE = {"seconds": 1.0, "dollars": 1e3, "tokens": 1.0, "memory": 1e-6}
SHOWN_IN_REPORT = "What each stage was expected to take before the run began, and took"
SHRUNK = [
    "budget_usd=1.0", "gather.questions=1200", "attempt.questions=24", "attempt.thinking_tokens_max=32",
    'attempt.prompts=[{name="plain", format="plain"}]', "select.samples=400", "evaluate.questions=100",
    "evaluate.thinking_tokens_max=[0, 16, 32]", "evaluate.waits=[]",
]  # fmt: skip
LAYERS = {"size": 12, "paid": 8, "service": 6}
"""Of the student, where they are not all of the demo's."""
KEY_ENV, KEY = "PLAN_PROBE_KEY", "sk-of-the-loopback-teacher"
LORA = ["train.frozen_layers=0", 'train.method="lora"', "train.lora_rank=8"]
CHANGES: Mapping[str, Sequence[str]] = {
    "size": ["train.frozen_layers=4"],
    "lora": [*LORA, "select.samples=250"],
    # The teacher adds up all numbers: right of running sums, wrong of sequences.
    "paid": [
        "train.frozen_layers=2", "select.samples=200", 'gather.families=["running_sum", "sequences"]',
        'trace.client="openai"', 'trace.model="m"', f'trace.api_key_env="{KEY_ENV}"', "trace.output_tokens_max=1000",
        "trace.price={input_usd_per_mtok=1.0, output_usd_per_mtok=2.0}",
    ],
    "service": [
        *LORA, "select.samples=80", "train.tokens_per_step=600", 'train.backend="tinker"',
        "train.checkpoint_seconds=600", "evaluate.answer_tokens_max=8",
    ],
}  # fmt: skip


class Figure(NamedTuple):
    """One quantity of a stage, or of a run; `said` is low, expected and high, and None where it was not known."""

    stage: str
    quantity: str
    said: Estimate | None
    taken: float

    @property
    def share(self) -> float | None:
        """Of what was taken, so much was expected."""
        return self.said.expected / self.taken if self.said and self.taken else None


def main() -> None:
    args = _options()
    about: dict[str, dict[str, Any]] = {
        "machine": evidence.machine(), "versions": evidence.versions("tenner", "torch", "transformers", "peft"),
    }  # fmt: skip
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    found: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in args.only:
            run = planned_and_run(name, Path(work) / name, args.skyrl, probed=args.probe, more=args.set)
            found[name] = figures(run)
            show(name, found[name])
    if args.demo:
        found["demo"] = figures(args.demo)
        show("demo", found["demo"])
    promises = kept(found)
    print()
    for promise, holds in promises.items():
        print(f"{'holds ' if holds else 'MISSED'}  {promise}")
    runs = {name: [f._asdict() | {"share": f.share} for f in rows] for name, rows in found.items()}
    print(json.dumps(about | {"runs": runs, "promises": promises}))
    sys.exit(0 if all(promises.values()) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHANGES, help="these runs (default: all that can be made)")
    parser.add_argument("--none", action="store_true", help="no runs, --demo alone")
    parser.add_argument("--demo", type=Path, metavar="RUN", help="the folder of a finished run, compared as well")
    parser.add_argument("--skyrl", type=Path, metavar="DIR", help="where scripts/install_skyrl.sh has put the server")
    parser.add_argument("--probe", type=int, default=PROBED, metavar="N", help=f"questions asked (default: {PROBED})")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all the runs")
    args = parser.parse_args()
    if args.none:
        args.only = []
    elif args.only is None:
        args.only = [name for name in CHANGES if name != "service" or args.skyrl]
    if "service" in args.only and args.skyrl is None:
        parser.error("a service is needed: --skyrl DIR")
    if not args.only and not args.demo:
        parser.error("nothing is compared: leave --none out, or give --demo RUN")
    return args


def planned_and_run(name: str, folder: Path, skyrl: Path | None, *, probed: int, more: Sequence[str]) -> Path:
    """Plan one of the runs after a probe, and run it in the same folder, which is returned."""
    folder.mkdir()
    with ExitStack() as open_until_done:
        changes = [*SHRUNK, *CHANGES[name]]
        if name in LAYERS and not any(setting.startswith("student.model=") for setting in more):
            student = folder / "base"
            with_layers(LAYERS[name], student)
            changes.append(f'student.model="{student}"')
        if name == "paid":
            server = open_until_done.enter_context(ChatServer(key=KEY))
            changes.append(f'trace.base_url="{server.url}"')
        if name == "service":
            assert skyrl is not None
            url = open_until_done.enter_context(skyrl_server.serving(skyrl, folder / "base", folder / "server"))
            changes += [f'train.tinker.base_url="{url}"', f'train.tinker.model="{folder / "base"}"']
            changes += ["train.tinker.price_usd_per_mtok=0.4"]
        described = recipe.load("demo", overrides=[f'name="{name}"', *changes, *more])
        file, run = folder / "recipe.toml", folder / "run"
        file.write_text(described.to_toml(), "utf-8")
        tenner("plan", file, "--probe", probed, "--run-dir", run)
        tenner("run", file, "--run-dir", run)
    return run


def with_layers(count: int, folder: Path) -> None:
    """Save the demo's student with the first of its layers, in float32 as a server on a CPU wants it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tenner.training import student_address

    source = student_address.resolve(recipe.load("demo").student.model)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.model.layers = model.model.layers[:count]
    model.config.num_hidden_layers = count
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def tenner(*words: object) -> None:
    """The command; its words are shown as they come."""
    command = [sys.executable, "-m", "tenner", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {KEY_ENV: KEY})


def figures(path: Path) -> list[Figure]:
    """What a finished run was said to take and took, stage by stage, and as a whole."""
    folder = RunFolder.existing(path)
    spend = read_spend(path / "run.db")
    found = [figure for stage in folder.read("plan", StagePlan) for figure in _of_stage(stage, spend, folder)]
    for quantity in ("seconds", "dollars"):
        rows = [f for f in found if f.quantity == quantity]
        known = [f.said for f in rows if f.said]
        said = Estimate.total(known) if known else None
        found.append(Figure("together", quantity, said, sum(f.taken for f in rows)))
    report = (path / "report.md").read_text("utf-8")
    if SHOWN_IN_REPORT not in report:
        raise SystemExit(f"the report in {path} does not show what was expected")
    return found


def _of_stage(stage: StagePlan, spend: Sequence[SpendRow], folder: RunFolder) -> Iterator[Figure]:
    own = [row for row in spend if row.stage == stage.stage]
    seconds, usd = sum(row.machine_seconds for row in own), sum(row.cost_usd for row in own)
    tokens = taken_tokens(stage.stage, own, folder)
    for quantity, said, taken in (("seconds", stage.seconds, seconds), ("dollars", stage.usd, usd)):
        if taken or (said and said.high):
            yield Figure(stage.stage, quantity, said, taken)
    if tokens is not None:
        yield Figure(stage.stage, "tokens", stage.tokens, tokens)
    if stage.memory_bytes is not None:
        taken = max(step.memory_bytes or 0 for step in folder.read("training", TrainStep))
        yield Figure(stage.stage, "memory", Estimate.exactly(stage.memory_bytes), taken)


def taken_tokens(stage: str, spend: Sequence[SpendRow], folder: RunFolder) -> int | None:
    """Those that a plan's `tokens` are about: generated, bought or trained on; None for a stage that has none."""
    if stage == "attempt":
        return generated_tokens(folder.read("attempts", Completion))
    if stage == "evaluate":
        return generated_tokens(folder.read("completions", Completion))
    if stage == "trace":
        return sum(row.output_tokens for row in spend) or None
    if stage == "train":
        by_service = sum(row.input_tokens for row in spend)
        return by_service or sum(step.tokens for step in folder.read("training", TrainStep))
    return None


def generated_tokens(completions: Sequence[Completion]) -> int:
    """All that students generated: a sweep thinks once for all budgets, and goes on from there for each wait."""
    thought: dict[tuple[object, ...], int] = {}
    answered = 0
    for c in completions:
        if c.cost_usd is not None:  # by a model behind an API
            continue
        key = c.task, c.question_id, c.student, c.prompt, c.sample_index, c.policy.waits
        thought[key] = max(thought.get(key, 0), c.thinking_tokens or 0)
        answered += (c.answer_tokens or 0) + c.trial_tokens
    without = {key[:-1]: tokens for key, tokens in thought.items() if not key[-1]}
    return answered + sum(max(0, tokens - (without[key[:-1]] if key[-1] else 0)) for key, tokens in thought.items())


def show(name: str, rows: Sequence[Figure]) -> None:
    """Print a table."""
    print(f"\n{name:10} {'':8} {'':4}   expected  low to high            taken  expected/taken")
    for row in rows:
        scale = SCALE[row.quantity]
        said = row.said and row.said.times(scale)
        told = "not known" if said is None else f"{said.expected:,.1f}"
        around = "" if said is None else f"{said.low:,.1f} to {said.high:,.1f}"
        share = "" if row.share is None else f"{row.share:.2f}"
        unit = UNITS[row.quantity]
        print(
            f"{row.stage:10} {row.quantity:8} {unit:4} {told:>10}  {around:18} {row.taken * scale:9,.1f}  {share:>14}",
            flush=True,
        )


def kept(found: Mapping[str, Sequence[Figure]]) -> dict[str, bool]:
    """Which promises hold, by what they say."""
    promises = {}
    for quantity, off in OFF_MAX.items():
        rows = {
            name: f for name, figures in found.items() for f in figures
            if f.quantity == quantity and (f.stage == "together" or quantity == "memory")
        }  # fmt: skip
        shares = {name: f.share for name, f in rows.items()}
        told = ", ".join(f"{name} {'not known' if s is None else f'{s:.2f}'}" for name, s in shares.items())
        if shares:
            promises[f"{quantity} within {off:.0%}: {told}"] = all(s and abs(s - 1) <= off for s in shares.values())
    return promises


if __name__ == "__main__":
    main()
