"""The fault campaign, files: every kind of file of finished and half-done runs damaged, disks full and read-only.

    pytest -m slow tests/campaign                        # a few dozen faults
    TENNER_CAMPAIGN=5 pytest -m slow -s tests/campaign   # five times as many, and the table
    TENNER_CAMPAIGN_SEED=1 …                              # other ones

A fault damages one file of a copy of a run in one of five ways; then a command reads the run. It may refuse, in one
line that names a file of the run, or come to exactly what it comes to on the undamaged run: a third is a failure.
"""

import json
import os
import random
import resource
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import tenner_here

from tenner import pipeline
from tenner.core import recipe
from tenner.core.progress import Screen
from tenner.core.run import open_run

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("TENNER_CAMPAIGN", "1"))
FIRST_SEED = int(os.environ.get("TENNER_CAMPAIGN_SEED", "0"))
FAULTS_PER_ROUND = 60
ROOM_BYTES = (0, 4096, 20_000, 60_000)
"""What is left on a full disk."""
BY_PEOPLE = {"lock", "errors.log", "README.md"}
"""Files that people may change or delete; the model card is one."""
UNCHECKED = {("run.db", "a digit changed"), ("run.db", "doubled")}
"""SQLite has no checksums of its pages, and ignores what is behind them."""


def _cut(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(1, len(data))])


def _change_digit(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(data) if 0x30 <= byte <= 0x39] or range(len(data))
    place = draw.choice(digits)
    data[place] = 0x30 + (data[place] + 1) % 10 if len(digits) < len(data) else data[place] ^ 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "cut": _cut,
    "emptied": lambda path, _: path.write_bytes(b""),
    "deleted": lambda path, _: path.unlink(),
    "doubled": lambda path, _: path.write_bytes(2 * path.read_bytes()),
    "a digit changed": _change_digit,
}


class Runs(NamedTuple):
    """Undamaged runs, and what the commands say about them."""

    finished: Path
    half_done: Path
    """Its traces are bought, and not yet verified."""
    question: str
    sample: str


@pytest.fixture(scope="module")
def runs(tiny_recipe, tmp_path_factory) -> Runs:
    finished, half_done = (tmp_path_factory.mktemp("campaign") / name for name in ("finished", "half"))
    small = recipe.load(
        str(tiny_recipe),
        overrides=[
            "gather.questions=200", "attempt.questions=2", "select.samples=8", "train.epochs=1", "evaluate.questions=3",
            "evaluate.thinking_tokens_max=[0, 8]", "evaluate.waits=[]",
        ],
    )  # fmt: skip
    with open_run(half_done, small, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, small.stages[:5])
    shutil.copytree(half_done, finished)
    with open_run(finished, small, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, small.stages)
    sample = json.loads((finished / "samples.jsonl").read_text().splitlines()[0])
    return Runs(finished, half_done, sample["question_id"], sample["id"])


def commands(runs: Runs, path: Path) -> dict[str, list[object]]:
    """What reads a run, by name; all but `verify` leave it as it is."""
    reading: dict[str, list[object]] = {
        "show": ["show", path], "show --json": ["show", path, "--json"],
        "show --why": ["show", path, "--why", runs.question], "select": ["select", path],
    }  # fmt: skip
    if path.name.startswith("half"):
        return {**reading, "verify": ["verify", path]}
    return {
        **reading, "show --sample": ["show", path, "--sample", runs.sample],
        "compare": ["compare", path, path, "--json"], "resume": ["run", path / "mine.toml", "--run-dir", path],
        "export": ["export", path, "--format", "lm-eval", "--out", path.with_name("exported")],
    }  # fmt: skip


def results(path: Path) -> dict[str, bytes]:
    """What later stages and people take from a run."""
    names = ["selected.jsonl", "samples.jsonl", "scores.jsonl", "completions.jsonl"]
    exported = sorted(path.with_name("exported").rglob("*.jsonl"))
    found = [*(path / name for name in names), *exported]
    return {file.name: file.read_bytes() for file in found if file.exists()}


def kinds_of_files(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name not in BY_PEOPLE:
            yield str(file.relative_to(path))


def copied(original: Path, tmp_path: Path) -> Path:
    path = tmp_path / original.name
    for old in (path, path.with_name("exported")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(original, path)
    (path / "mine.toml").write_bytes((original / "recipe.toml").read_bytes())
    return path


def outcome(
    done: "subprocess.CompletedProcess[str]", path: Path, expected: tuple[str, dict[str, bytes]], damaged: str = ""
) -> str:
    """How a command met a fault: "refused", "unharmed", or what must not be."""
    if "Traceback" in done.stderr or done.returncode == 1:
        return "TRACEBACK"
    lines = [line for line in done.stderr.splitlines() if line.startswith("tenner: ")]
    if done.returncode:
        return "refused" if len(lines) == 1 and str(path) in lines[0] else "NO LINE"
    said, files = expected
    others = {name: data for name, data in results(path).items() if name != damaged}
    is_same = others == {name: data for name, data in files.items() if name != damaged}
    return "unharmed" if done.stdout == said and is_same else "SILENT"


def _is_to_be_done(
    done: "subprocess.CompletedProcess[str]", path: Path, expected: tuple[str, dict[str, bytes]]
) -> bool:
    """Whether a stage without its marker is told as not done, or was done again and came to the same."""
    if done.returncode:
        return "which is not done" in done.stderr
    return results(path) == expected[1]


def show_table(met: dict[str, Counter[str]], capsys: pytest.CaptureFixture[str]) -> None:
    columns = sorted({column for counts in met.values() for column in counts})
    with capsys.disabled():
        print("\n" + f"{'fault':44}" + "".join(f"{column:>12}" for column in columns))
        for fault, counts in sorted(met.items()):
            print(f"{fault:44}" + "".join(f"{counts[column]:12}" for column in columns))
        print(f"{'in all':44}" + "".join(f"{sum(c[column] for c in met.values()):12}" for column in columns))


def test_damaged_files(runs, tmp_path, capsys):
    expected = {}
    for original in (runs.finished, runs.half_done):
        for name in commands(runs, original):
            path = copied(original, tmp_path)
            done = tenner_here(*commands(runs, path)[name])
            assert done.returncode == 0, done.stderr
            expected[original.name, name] = done.stdout, results(path)
    every = [
        (original, file, damage)
        for original in (runs.finished, runs.half_done)
        for file in kinds_of_files(original)
        for damage in DAMAGES
        if (file, damage) not in UNCHECKED and (damage == "deleted" or (original / file).stat().st_size > 1)
    ]
    draw = random.Random(f"files {FIRST_SEED}")
    chosen = [
        fault for _ in range(1 + ROUNDS * FAULTS_PER_ROUND // len(every)) for fault in draw.sample(every, len(every))
    ]
    met: defaultdict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for original, file, damage in chosen[: ROUNDS * FAULTS_PER_ROUND]:
        path = copied(original, tmp_path)
        DAMAGES[damage](path / file, draw)
        name = draw.choice(list(commands(runs, path)))
        done = tenner_here(*commands(runs, path)[name])
        came_to = outcome(done, path, expected[original.name, name], file)
        if (
            file.startswith("stages/")
            and damage == "deleted"
            and _is_to_be_done(done, path, expected[original.name, name])
        ):
            came_to = "not done"
        met[f"{original.name}: {damage}"][came_to] += 1
        if came_to not in ("refused", "unharmed", "not done"):
            wrong.append(f"{original.name}/{file} {damage}, then {name}: {came_to}: {done.stderr[-300:]}")
    show_table(met, capsys)
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def disk(tmp_path):
    """A function that gives a disk of so many bytes (tmpfs); needs the right to mount, which ordinary users lack."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode:
            pytest.skip("this user may not mount a tmpfs")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", place], capture_output=True)


def test_a_full_disk(runs, disk, tmp_path, capsys):
    place = disk("size=8m")
    expected = tenner_here("verify", copied(runs.half_done, tmp_path))
    whole = results(tmp_path / runs.half_done.name)
    assert expected.returncode == 0
    met: defaultdict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for room in ROOM_BYTES:
        path = copied(runs.half_done, place)
        filler = place / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, max(0, filler.stat().st_size - room))
        done = tenner_here("verify", path)
        filler.unlink()
        again = tenner_here("verify", path)
        came_to = outcome(done, path, ("", whole))
        met[f"{room:,} bytes left"][came_to] += 1
        if came_to not in ("refused", "unharmed") or again.returncode or results(path) != whole:
            wrong.append(f"{room} bytes: {came_to}: {done.stderr[-300:]}, then {again.stderr[-300:]}")
    show_table(met, capsys)
    assert not wrong, "\n".join(wrong)


def test_a_read_only_disk(runs, disk, capsys):
    place = disk("size=16m")
    for original in (runs.finished, runs.half_done):
        copied(original, place)
    expected = {}
    for name, words in commands(runs, place / "finished").items():
        expected[name] = tenner_here(*words).stdout, results(place / "finished")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    met: defaultdict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for path in (place / "finished", place / "half"):
        for name, words in commands(runs, path).items():
            done = tenner_here(*words)
            came_to = outcome(done, place, ("", {})) if done.returncode else "unharmed"
            met[f"read-only: {path.name}"][came_to] += 1
            if came_to not in ("refused", "unharmed"):
                wrong.append(f"{path.name}, {name}: {came_to}: {done.stderr[-300:]}")
    show_table(met, capsys)
    assert not wrong, "\n".join(wrong)


def test_a_file_that_may_not_grow(runs, tmp_path):
    """As a quota has it, or a file system with a limit; for users who may not mount, too."""
    path = copied(runs.half_done, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
        done = tenner_here("verify", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome(done, path, ("", {})) == "refused", done.stderr
    assert tenner_here("verify", path).returncode == 0
