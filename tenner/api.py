"""What the command line does, from Python: typed functions that return typed results.

    import tenner

    done = tenner.run("demo", budget_usd=0.05)
    print(done.scores[0].accuracy, done.spent_usd, done.student)

Progress goes to standard error. A problem that the caller can mend is raised as `TennerError`, whose `hint` says how.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from tenner import measurement, tracing
from tenner.core import recipe as recipes
from tenner.core import spending
from tenner.core.progress import Screen
from tenner.core.recipe import Recipe, stored
from tenner.core.records import AnswerKind, Grade, Score
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Device, LocalEngineName
from tenner.core.stage_markers import StageDone
from tenner.inference.defaults import CONCURRENCY_MAX, REQUEST_BYTES_MAX
from tenner.measurement import MeasureOptions
from tenner.tracing import TraceResult

if TYPE_CHECKING:
    from tenner.stages.resolve_student import StudentOptions
    from tenner.tuning import Tuned, TuneOptions


@dataclass(frozen=True)
class RunResult:
    """What a run or a measurement has come to."""

    path: Path
    """The run folder."""
    scores: Sequence[Score]
    """Of whole benchmarks: a row for each benchmark, student, prompt and policy."""
    domain_scores: Sequence[Score]
    """The same by domain, where questions have one."""
    spent_usd: float
    stages: Sequence[StageDone]

    @property
    def student(self) -> Path:
        """The model folder of the distilled student."""
        return self.path / "student"

    @property
    def report(self) -> Path:
        """The report, as a page where there is one and else as Markdown."""
        page = self.path / "report.html"
        return page if page.exists() else self.path / "report.md"


def load_recipe(name_or_path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """A built-in recipe by name, or a TOML file, with `section.key=value` overrides on top.

    Raises TennerError for a recipe that cannot be read, with its line and the nearest right name.
    """
    return recipes.load(str(name_or_path), overrides=list(overrides))


def run(
    recipe: str | Path | Recipe,
    *,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    budget_usd: float | None = None,
    device: Device | None = None,
) -> RunResult:
    """Run a recipe to the end, or go on with it where it was left; a finished stage is not repeated.

    `run_dir` is `runs/NAME` by default; `budget_usd` takes the place of the recipe's cap.

    Raises:
        BudgetReached: the cap would be crossed. Nothing is lost: a higher cap goes on from there.
        Incomplete: some calls failed in a way that may heal: the same call makes them again. Calls that failed for
            good are in `failed*.jsonl` of the folder, and raise nothing.
        OutOfMoney: an account at a provider is empty, or its quota is used up.
        TennerError: anything else that the caller can mend.
    """
    from tenner import pipeline  # which draws charts: a measurement runs without that library
    from tenner.stages import resolve_student

    cap_usd, others = recipes.split_cap(overrides, budget_usd)
    described = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides=others)
    path = Path("runs") / described.name if run_dir is None else Path(run_dir)
    pipeline.check(described)
    described = resolve_student.with_format(described)
    screen = Screen()
    foreseen = pipeline.foresee(described, path, cap_usd=cap_usd, screen=screen)
    with open_run(path, described, screen, budget_usd=cap_usd, device=device) as opened:
        if foreseen:
            opened.folder.write("plan", foreseen)
        pipeline.run_stages(opened, described.stages)
    return result(path)


def measure(
    who: str | Path, options: MeasureOptions = MeasureOptions(), *, run_dir: str | Path | None = None,  # noqa: B008
    overrides: Sequence[str] = (),
) -> RunResult:  # fmt: skip
    """Ask a benchmark of a model (a folder, `hf:org/name`, `wheel:…`), of a run's student, or of a measurement file.

    `run_dir` is `runs/NAME-BENCHMARK` by default. Raises as `run` does.
    """
    cap_usd, others = recipes.split_cap(overrides, options.budget_usd)
    described = measurement.describe(str(who), options._replace(budget_usd=cap_usd), overrides=others)
    path = measurement.folder_of(described) if run_dir is None else Path(run_dir)
    measurement.run(path, described, budget_usd=cap_usd)
    return result(path)


def trace(
    questions: str | Path | Iterable[Mapping[str, Any]], *, out: str | Path, budget_usd: float, **section: Any
) -> TraceResult:
    """Buy reasoning traces for questions: a JSONL file, or mappings with `id`, `question` and maybe `answer`.

    `section` are the fields of a recipe's section `trace` (see `sections.TraceSection`): `client`, `preset` or
    `base_url`, `model`, `output_tokens_max`, `price`, … Nothing that is in `out` already is bought again.
    Raises as `run` does.
    """
    job = tracing.describe({"client": "openai"} | section, budget_usd=budget_usd)
    if isinstance(questions, str | Path):
        return tracing.run(Path(questions), Path(out), job)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        file.write_text("".join(json.dumps(dict(row)) + "\n" for row in questions), encoding="utf-8")
        return tracing.run(file, Path(out), job)


def tune(run_dir: str | Path, options: "TuneOptions | None" = None) -> "Tuned":
    """Choose the cheapest thinking policy of a run's student that is no worse than the full budget by a margin.

    It is written into the student's folder, and `serve` and `measure` then use it. Raises as `run` does.
    """
    from tenner import tuning  # whose report draws charts

    return tuning.tune(Path(run_dir), options or tuning.TuneOptions())


def grade(response: str, answer: str, *, kind: AnswerKind = "maths") -> Grade:
    """Whether the answer that a response states is the reference answer. Raises TennerError for a useless reference."""
    from tenner.evaluation.grading.grader import Grader, check_reference

    check_reference(answer, kind)
    with Grader(processes=1) as grader:
        return grader.grade(response, answer, kind)


class Server(NamedTuple):
    """A student that answers behind OpenAI's chat completions."""

    url: str
    model: str
    """What clients call it."""


@contextmanager
def serve(
    student: str | Path,
    options: "StudentOptions | None" = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    engine: LocalEngineName | None = None,
    concurrency_max: int = CONCURRENCY_MAX,
    api_key: str | None = None,
) -> Iterator[Server]:
    """Answer requests until the block ends: `with serve("runs/demo") as server: …` (port 0 is any that is free).

    Clients must send the `api_key`, if there is one; a `host` that other machines reach needs one.

    Raises TennerError where there is no such student, or where the address cannot be listened on.
    """
    from tenner.inference.server import app
    from tenner.inference.server.access import check_exposure
    from tenner.stages import resolve_student

    check_exposure(host, api_key)
    options = options or resolve_student.StudentOptions()
    served, price_usd_per_hour = resolve_student.resolve_student(str(student), options)
    settings = app.Settings(host, port, api_key, concurrency_max, REQUEST_BYTES_MAX, price_usd_per_hour)
    loaded = resolve_student.load(served, options, rows=concurrency_max, engine=engine)
    with ThreadPoolExecutor(1) as thread:  # the event loop of the server, beside that of the caller
        loop, stop, url = asyncio.new_event_loop(), asyncio.Event(), Future[str]()

        async def answer() -> None:
            try:
                async with app.serving(loaded, served, settings) as serving:
                    url.set_result(serving.url)
                    await stop.wait()
            except BaseException as e:
                if not url.done():
                    url.set_exception(e)
                raise

        ended = thread.submit(loop.run_until_complete, answer())
        try:
            yield Server(url.result(), served.name)
        finally:
            loop.call_soon_threadsafe(stop.set)
            wait([ended])
            loop.close()


def result(path: str | Path) -> RunResult:
    """What a run folder holds by now. Raises TennerError where there is no run."""
    folder = RunFolder.existing(Path(path))
    described, scores = stored(folder), folder.read("scores", Score)
    assert described is not None, "RunFolder.existing has seen it"
    return RunResult(
        path=folder.path,
        scores=[s for s in scores if s.domain is None],
        domain_scores=[s for s in scores if s.domain is not None],
        spent_usd=sum(row.cost_usd for row in spending.read(folder)),
        stages=[done for name in described.stages if (done := folder.done(name))],
    )
