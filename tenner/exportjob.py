"""`tenner export RUN --format lm-eval --out DIR`: a run's answers as another tool's log."""

import datetime
import json
from pathlib import Path

from tenner.errors import TennerError
from tenner.formats import FORMATS
from tenner.prove import samplelog
from tenner.prove.stats import by_question
from tenner.recipe import PromptForm, Recipe
from tenner.records import Completion, Policy, Question, StudentName
from tenner.run import render, stored_recipe
from tenner.runfolder import RunFolder


def run(path: Path, out: Path) -> str:
    """Write a file for every student, prompt and policy; return their paths, one a line.

    Raises:
        TennerError: no run, one whose held-out questions are not answered, or a folder that cannot be written.
    """
    from tenner.learn import student

    folder = RunFolder.existing(path)
    recipe = stored_recipe(folder)
    assert recipe is not None, "RunFolder.existing has seen it"
    groups: dict[tuple[str, StudentName, str, Policy], list[Completion]] = {}
    for c in folder.stream("heldout", Completion):
        groups.setdefault((c.task, c.student, c.prompt, c.policy), []).append(c)
    if not groups:
        raise TennerError(f"{path} has no answers to export", hint=f"tenner evaluate {path}")
    asked = folder.read("benchmark", Question)
    places = {q.id: place for place, q in enumerate(asked)}
    answered = datetime.datetime.fromtimestamp((path / "heldout.jsonl").stat().st_mtime, datetime.UTC)
    moment = answered.replace(tzinfo=None).isoformat()
    tokenizer = student.load_tokenizer(path / "student")
    written = []
    for (task, who, prompt, policy), completions in groups.items():
        form = _form(recipe, who, prompt)
        lines = []
        for question_id, answers in sorted(by_question(completions).items(), key=lambda item: places[item[0]]):
            place = places[question_id]
            row = samplelog.row(
                place, asked[place], render(tokenizer, asked[place].question + form.suffix, recipe), answers,
                FORMATS[form.format], answer_tokens_max=recipe.evaluate.answer_tokens_max,
            )  # fmt: skip
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        model = f"tenner/{recipe.name}" if who == "distilled" else recipe.student.base_model
        name = f"{samplelog.folder_name(model)}/{samplelog.file_name(task, prompt, policy, moment)}"
        _write(out, name, "".join(lines))
        written.append(str(out / name))
    return "\n".join(written)


def _write(out: Path, name: str, text: str) -> None:
    try:
        RunFolder(out).write_text(name, text)
    except (NotADirectoryError, FileExistsError, PermissionError) as e:
        raise TennerError(f"{out} cannot be written: {e.strerror}", hint="choose another --out") from e


def _form(recipe: Recipe, who: StudentName, prompt: str) -> PromptForm:
    """How a student was asked: the distilled one as it was taught, the untrained one as in one of its attempts."""
    if who == "distilled":
        return PromptForm(name=prompt, format=recipe.student.format)
    return next(form for form in recipe.attempt.prompts if form.name == prompt)
