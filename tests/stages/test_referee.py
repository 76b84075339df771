"""The referee decides where the verifiers disagree, by a real server on loopback, once, and in the ledger."""

from pathlib import Path

import pytest
from chat_server import ChatServer
from example_run import completion

from tenner.core import recipe
from tenner.core.progress import Screen
from tenner.core.records import DISPUTED, Completion, Grade, Question
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.stages import evaluation, referee

QUESTIONS = [Question(id=i, question=f"What is x in {i}?", answer="1/2", source="made up") for i in "abcd"]
REASON = f"{DISPUTED}: exact different (different values), math-verify same (equal)"


def disputed(question_id: str, extracted: str, reason: str = REASON) -> Completion:
    grade = Grade(verdict="wrong", extracted=extracted, reason=reason)
    return completion(question_id, "wrong", student="distilled").model_copy(update={"grade": grade})


def settled(path: Path, server: ChatServer) -> tuple[dict[str, Grade], float, int]:
    """The grades after a settling, what the run has spent, and how often the server was asked."""
    described = recipe.load(
        "demo",
        overrides=[
            'evaluate.referee.model="m"', f'evaluate.referee.base_url="{server.url}"',
            "evaluate.referee.price.input_usd_per_mtok=1.0", "evaluate.referee.price.output_usd_per_mtok=1.0",
            "evaluate.referee.output_tokens_max=100",
        ],
    )  # fmt: skip
    with open_run(path, described, Screen(), budget_usd=None) as run:
        if not run.folder.read("completions", Completion):
            done = [
                disputed("a", "0.5"),
                disputed("b", "0.5"),
                disputed("c", "?"),
                disputed("d", "2", "exact verifier"),
            ]
            run.folder.append("completions", [*done, disputed("a", "0.5").model_copy(update={"sample_index": 1})])
        section = run.recipe.evaluate.referee
        assert section is not None
        assert referee.settle(run, section, evaluation.COMPLETIONS, {q.id: q for q in QUESTIONS}) == []
        spent = run.ledger.spent_usd()
    grades = {f"{c.question_id}{c.sample_index}": c.grade for c in RunFolder(path).read("completions", Completion)}
    return grades, spent, len(server.asked)


def test_each_dispute_is_bought_once_and_its_ruling_replaces_the_verdict(tmp_path: Path) -> None:
    """Same for a, different for b, and for c the server's usual answer, which is no ruling; d is not in dispute."""
    asked = {q.id: referee.Dispute(q.id, "?" if q.id == "c" else "0.5").asked(q).question for q in QUESTIONS}
    with ChatServer({asked["a"]: ["rules same"], asked["b"]: ["rules different"]}) as server:
        grades, spent, requests = settled(tmp_path / "run", server)
        assert {id_: g.verdict for id_, g in grades.items()} == {
            "a0": "correct", "a1": "correct", "b0": "wrong", "c0": "wrong", "d0": "wrong",
        }  # fmt: skip
        assert grades["a0"].reason == f"{REASON}; referee m: same"
        assert grades["b0"].reason == f"{REASON}; referee m: different"
        assert grades["c0"].reason == f"{REASON}; referee m: no verdict"
        assert grades["d0"].reason == "exact verifier"
        assert requests == 3
        assert spent == pytest.approx(sum(3 * len(asked[id_]) for id_ in "abc") / 1e6)
        assert settled(tmp_path / "run", server) == (grades, spent, 3), "what is settled is not asked again"


@pytest.mark.parametrize(
    ("answer", "ruling"),
    [("So.\nSAME", "same"), ("DIFFERENT.", "different"), ("**SAME**", "same"), ("SAME\nor not", None), ("", None),
     ("INSAME", None)],
)  # fmt: skip
def test_the_last_line_rules(answer: str, ruling: str | None) -> None:
    assert referee._ruling(answer) == ruling
