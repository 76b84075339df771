"""Throughput, CPU time and memory of paid calls, side by side with bespokelabs-curator.

    python -m venv curator
    curator/bin/pip install bespokelabs-curator==0.1.31
    CURATOR_PYTHON=curator/bin/python python bench/paid_calls.py

Both sides send the same questions to the same server, which answers at once (`tests/support/chat_server.py`, a
process of its own), and take turns. tenner is measured as a whole command, less its start-up, which is
that of a run of one question. Of curator only the call that does the work is timed, without its imports and our checks
of its answers. Every answer is checked on both sides. Exits with 1 if a promise does not hold.

Needs what `pip install -e '.[test]'` installs, and Linux.
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import evidence
import psutil

HERE = Path(__file__).parent
CURATOR = "bespokelabs-curator==0.1.31"
RATIO_MIN = 2.0
CPU_MS_MAX = 5.0
GROWTH_MB_MAX = 20.0
MB = 1e6


class Process(NamedTuple):
    """The resources that a whole process used."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    server_cpu_seconds: float


class Work(NamedTuple):
    """The resources that the calls of one run used, without the start-up."""

    calls: int
    seconds: float
    cpu_seconds: float
    whole: Process

    @property
    def calls_per_second(self) -> float:
        """Throughput."""
        return self.calls / self.seconds

    @property
    def cpu_ms_per_call(self) -> float:
        """Client CPU, user and system."""
        return 1e3 * self.cpu_seconds / self.calls

    @property
    def server_share(self) -> float:
        """The utilization of the server's core: at 1, the server is the bottleneck."""
        return self.whole.server_cpu_seconds / self.seconds


class Bench:
    """The server, the folders and the two sides."""

    def __init__(self, folder: Path, url: str, server: psutil.Process, curator: Path, args: argparse.Namespace) -> None:
        self._folder, self._url, self._server, self._curator, self._args = folder, url, server, curator, args
        self._runs = 0
        self.curator_versions: dict[str, str] = {}

    def tenner(self, calls: int) -> Process:
        """Run the command for so many questions, and check its results."""
        out = self._new_folder()
        command = [sys.executable, "-m", "tenner", "trace", str(self._questions(calls)), "--out", str(out)]
        command += ["--model", "m", "--base-url", self._url, "--price-in", "0.1", "--price-out", "0.4"]
        process, said = self._run([*command, "--budget-usd", "100", "--concurrency", str(self._args.concurrency)])
        traces = [json.loads(line) for line in (out / "traces.jsonl").read_text("utf-8").splitlines()]
        good = [t for t in traces if t["outcome"] == "complete" and t["grade"]["verdict"] == "correct"]
        with closing(sqlite3.connect(out / "run.db")) as db:
            (stored,) = db.execute("SELECT count(*) FROM responses").fetchone()
            (settled,) = db.execute("SELECT count(*) FROM spends WHERE settled").fetchone()
        if not len(traces) == len({t["id"] for t in good}) == stored == settled == calls:
            raise SystemExit(f"tenner made {stored} of {calls} calls, {len(good)} with the right answer:\n{said}")
        return process

    def curator(self, calls: int) -> Work:
        """The same with curator."""
        out = self._new_folder()
        command = [str(self._curator), str(HERE / "curator_client.py"), str(self._questions(calls)), str(out)]
        command += ["--base-url", self._url, "--backend", self._args.curator_backend]
        process, said = self._run([*command, "--concurrency", str(self._args.curator_concurrency)])
        found = json.loads(said.splitlines()[-1])
        if not found["answers"] == found["right"] == found["requests_succeeded"] == calls or found["requests_cached"]:
            raise SystemExit(f"curator did not make {calls} calls with the right answer: {found}")
        self.curator_versions = found["versions"]
        return Work(calls, found["seconds"], found["cpu_seconds"], process)

    def _run(self, command: Sequence[str]) -> tuple[Process, str]:
        log = self._folder / "stderr"
        server_before = sum(self._server.cpu_times()[:2])
        with open(self._folder / "stdout", "w+") as stdout, open(log, "w") as stderr:
            started = time.monotonic()
            child = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=self._folder)
            _, status, used = os.wait4(child.pid, 0)
            seconds = time.monotonic() - started
            child.returncode = os.waitstatus_to_exitcode(status)
            stdout.seek(0)
            said = stdout.read()
        if child.returncode:
            raise SystemExit(f"{' '.join(command)} exited with {child.returncode}:\n{log.read_text()[-2000:]}")
        server_cpu_seconds = sum(self._server.cpu_times()[:2]) - server_before
        return Process(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / MB, server_cpu_seconds), said

    def _questions(self, count: int) -> Path:
        path = self._folder / f"questions-{count}.jsonl"
        if not path.exists():
            draw = random.Random(0)
            with open(path, "w", encoding="utf-8") as file:
                for i in range(count):
                    a, b, c = (draw.randrange(10, 10**6) for _ in range(3))
                    text = f"A clerk has receipts of {a}, {b} and {c} dollars. What do they come to? Answer in a box."
                    file.write(json.dumps({"id": f"q{i}", "question": text, "answer": str(a + b + c)}) + "\n")
        return path

    def _new_folder(self) -> Path:
        self._runs += 1
        return self._folder / f"run-{self._runs}"


@contextmanager
def serving() -> Iterator[tuple[str, psutil.Process]]:
    """The server's base URL and its process."""
    command = [sys.executable, str(HERE.parent / "tests" / "support" / "chat_server.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1", psutil.Process(server.pid)
        finally:
            server.kill()


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, object]:
    """Run everything, print the tables, and return the figures."""
    print(f"\n{args.calls:,} calls on each side, {args.rounds} rounds; start-up is not in calls/s and ms/call\n")
    print("round  side     calls/s   CPU ms/call   server busy   whole command: wall s   CPU s   peak MB")
    starts, wholes, theirs = [], [], []
    for _ in range(args.rounds):
        starts.append(bench.tenner(1))
        wholes.append(bench.tenner(args.calls))
        theirs.append(bench.curator(args.calls))
    start_seconds, start_cpu_seconds = median(s.seconds for s in starts), median(s.cpu_seconds for s in starts)

    def without_start(calls: int, whole: Process) -> Work:
        return Work(calls - 1, whole.seconds - start_seconds, whole.cpu_seconds - start_cpu_seconds, whole)

    ours = [without_start(args.calls, whole) for whole in wholes]
    for number, pair in enumerate(zip(ours, theirs, strict=True), 1):
        for side, work in zip(("tenner", "curator"), pair, strict=True):
            print(
                f"{number:5}  {side:7} {work.calls_per_second:8,.0f} {work.cpu_ms_per_call:13.2f} "
                f"{work.server_share:13.0%} {work.whole.seconds:23.2f} {work.whole.cpu_seconds:7.2f} "
                f"{work.whole.peak_mb:9.1f}"
            )
    ratios = [a.calls_per_second / b.calls_per_second for a, b in zip(ours, theirs, strict=True)]
    figures: dict[str, Any] = {
        "calls": args.calls,
        "ratio": round(median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "tenner": _medians(ours) | {"start_up_seconds": round(start_seconds, 2)},
        "curator": _medians(theirs),
    }
    for side, works in (("tenner", ours), ("curator", theirs)):
        print(
            f"median {side:7} {median(w.calls_per_second for w in works):8,.0f} "
            f"{median(w.cpu_ms_per_call for w in works):13.2f} {median(w.server_share for w in works):13.0%}"
        )
    print(f"\nratio of calls per second: {figures['ratio']} ({', '.join(map(str, figures['ratios']))})")
    print(f"start-up of tenner (one question): {start_seconds:.2f} s, {start_cpu_seconds:.2f} s of CPU")

    print("\npeak memory of the process\n")
    print("side       calls   peak MB   calls/s   CPU ms/call")
    memory: dict[str, dict[int, float]] = {"tenner": {}, "curator": {}}
    for calls in args.memory_calls:
        memory["tenner"][calls] = _print_memory("tenner", without_start(calls, bench.tenner(calls)))
    for calls in args.curator_memory_calls:
        memory["curator"][calls] = _print_memory("curator", bench.curator(calls))
    return figures | {"peak_mb": memory}


def verdict(figures: dict) -> dict[str, bool]:
    """Which of the promises hold."""
    peak_mb = figures["peak_mb"]["tenner"]
    return {
        f"at least {RATIO_MIN:g} times curator's calls per second": figures["ratio"] >= RATIO_MIN,
        f"at most {CPU_MS_MAX:g} ms of client CPU per call": figures["tenner"]["cpu_ms_per_call"] <= CPU_MS_MAX,
        f"at most {GROWTH_MB_MAX:g} MB more for {max(peak_mb):,} calls than for {min(peak_mb):,}": (
            peak_mb[max(peak_mb)] - peak_mb[min(peak_mb)] <= GROWTH_MB_MAX
        ),
    }


def _medians(works: Sequence[Work]) -> dict[str, float]:
    return {
        "calls_per_second": round(median(w.calls_per_second for w in works), 1),
        "cpu_ms_per_call": round(median(w.cpu_ms_per_call for w in works), 3),
        "server_share": round(median(w.server_share for w in works), 3),
        "whole_seconds": round(median(w.whole.seconds for w in works), 2),
        "whole_cpu_ms_per_call": round(median(1e3 * w.whole.cpu_seconds / w.calls for w in works), 2),
    }


def _print_memory(side: str, work: Work) -> float:
    calls = round(work.calls, -1)
    print(f"{side:7} {calls:8,} {work.whole.peak_mb:9.1f} {work.calls_per_second:9,.0f} {work.cpu_ms_per_call:13.2f}",
          flush=True)  # fmt: skip
    return round(work.whole.peak_mb, 1)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curator-python", type=Path, default=os.environ.get("CURATOR_PYTHON"))
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--curator-concurrency", type=int, default=64)
    parser.add_argument("--curator-backend", choices=("openai", "litellm"), default="openai")
    parser.add_argument("--memory-calls", type=int, nargs="+", default=[1000, 5000, 20_000])
    parser.add_argument("--curator-memory-calls", type=int, nargs="*", default=[1000, 5000])
    args = parser.parse_args()
    if args.curator_python is None:
        parser.error(f"--curator-python is missing: an environment's python, after pip install {CURATOR}")
    curator = Path(args.curator_python).absolute()

    with tempfile.TemporaryDirectory() as folder, serving() as (url, server):
        bench = Bench(Path(folder), url, server, curator, args)
        bench.curator(1)  # compiles its modules, and says its versions
        versions = evidence.versions("tenner", "openai", "aiohttp", "httpx2", "pydantic")
        about: dict[str, dict[str, Any]] = {
            "machine": evidence.machine(),
            "versions": versions,
            "curator_versions": bench.curator_versions,
        }
        for name, fields in about.items():
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()))
        print(
            f"tenner: tenner trace … --concurrency {args.concurrency}; every call reserved, kept and settled on disk\n"
            f"curator: backend {args.curator_backend} with base_url, max_concurrent_requests "
            f"{args.curator_concurrency}, limits per minute that do not bind, rich display (the faster one), "
            "no log, viewer or telemetry"
        )
        figures = measure(bench, args)
    promises = verdict(figures)
    print()
    for promise, holds in promises.items():
        print(f"{'holds' if holds else 'BROKEN'}: {promise}")
    print(json.dumps(about | figures | {"promises": promises}))
    sys.exit(0 if all(promises.values()) else 1)


if __name__ == "__main__":
    main()
