import re
from pathlib import Path

import pytest
import yaml
from example_run import FAMILIES, completion, run_facts
from huggingface_hub import ModelCard, ModelCardData

from tenner.core.formats import FORMATS
from tenner.evaluation.report.facts import benchmark_facts
from tenner.evaluation.report.model_card import model_card
from tenner.evaluation.report.sentences import headline
from tenner.evaluation.statistics.scores import score


def _snippet(card: str) -> str:
    match = re.search(r"```python\n(.*?)\n```", card, flags=re.DOTALL)
    assert match is not None
    return match[1]


def test_the_front_matter_is_yaml_that_the_hub_reads() -> None:
    _, front, _ = model_card(run_facts()).split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert fields["license"] == "apache-2.0"
    assert "datasets" not in fields
    assert "reasoning" in fields["tags"]


def test_the_hubs_own_classes_read_the_results() -> None:
    facts = run_facts()._replace(datasets=["org/sums"])
    data = ModelCard(model_card(facts)).data
    assert isinstance(data, ModelCardData)
    assert (data.datasets, data.license, data.base_model) == (["org/sums"], "apache-2.0", facts.base_model)
    (result,) = data.eval_results or []
    after = facts.benchmarks[0].after
    assert (result.dataset_name, result.metric_type) == ("heldout", "accuracy")
    assert result.metric_value == round(100 * after.accuracy, 1)
    assert f"n = {after.n}" in (result.metric_name or "")


def test_a_student_that_is_never_right_does_not_think() -> None:
    facts = run_facts()
    assert "# SmolLM2-135M-Instruct that thinks" in model_card(facts)
    done = [completion("a", "wrong", student=student) for student in ("base", "distilled")]
    never = benchmark_facts("heldout", score(done, {"a": None}), done, machine_usd=0.0)
    assert "that thinks" not in model_card(facts._replace(benchmarks=[never]))


def test_licences_are_inherited_and_doubts_are_said() -> None:
    card = model_card(run_facts()._replace(license="unknown", teachers=["deepseek/deepseek-flash"]))
    assert "license:" not in card.split("---\n", 2)[1]
    for told in (
        "is not known, and the student inherits it", "NuminaMATH, of which 500 questions were trained on, states no",
        "The traces were written by deepseek/deepseek-flash; the terms of a provider may limit",
    ):  # fmt: skip
        assert told in card


def test_the_example_is_a_question_of_the_run_that_may_be_shown() -> None:
    assert "How many are 3 and 4?" in _snippet(model_card(run_facts()._replace(question="How many are 3 and 4?")))


def test_scores_families_limits_and_spend_are_said() -> None:
    facts = run_facts()
    card = model_card(facts)
    assert headline(facts) in card
    assert all(family in card for family in FAMILIES)
    assert "nobody is paid" in card
    assert "| ≤ 128 | 2 |" in card


def test_a_name_is_no_html() -> None:
    completions = [completion("a", "wrong", student=student, task="<b>x") for student in ("base", "distilled")]
    scores = score(completions, {"a": "<script>alert(1)</script>"})
    hostile = benchmark_facts("<b>x", scores, completions, machine_usd=0.0)._replace(name="<img src=x>")
    card = model_card(run_facts()._replace(benchmarks=[hostile], base_model="a/<svg onload=x>"))
    prose = re.sub(r"```.*?```", "", card, flags=re.DOTALL).split("---\n", 2)[2]
    assert re.findall(r"<[a-z/!?]+", re.sub(r"`[^`]*`", "", prose)) == []
    assert "&lt;img src=x>" in prose


def test_questions_without_domains_are_named_by_their_benchmark_alone() -> None:
    done = [completion("a", "wrong", student=student, task="AIME24") for student in ("base", "distilled")]
    aime = benchmark_facts("AIME24", score(done, {"a": None}), done, machine_usd=0.0)
    facts = run_facts()
    (heldout,) = facts.benchmarks
    alone, beside = (model_card(facts._replace(benchmarks=b)) for b in ([aime], [heldout, aime]))
    assert "measured on unseen questions of these only: AIME24. Nothing" in alone
    assert f"of these only: heldout ({', '.join(FAMILIES)}); AIME24. Nothing" in beside
    assert "Accuracy by family" not in alone


def test_the_snippet_asks_as_the_student_was_asked() -> None:
    facts = run_facts()._replace(system_prompt="Be brief.", think_format=FORMATS["think"])
    opened = model_card(facts._replace(opening="", chat_template_kwargs={"enable_thinking": True}))
    assert "add_generation_prompt=True, enable_thinking=True)\ninputs = " in opened
    assert '[{"role": "system", "content": "Be brief."}, {"role": "user"' in opened
    folded = model_card(facts._replace(has_system_role=False))
    assert '[{"role": "user", "content": "Be brief.\\n\\nWhat is the sum' in folded


@pytest.mark.parametrize(
    "format_name", ["s1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("think", "plain"))]
)
def test_the_snippet_runs_as_it_stands(
    format_name: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    facts = run_facts()._replace(think_format=FORMATS[format_name])
    (tmp_path / "student").symlink_to(tiny_model_dir)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(_snippet(model_card(facts)), names)
    assert str(names["prompt"]).endswith(f"<|im_start|>assistant\n{FORMATS[format_name].open}")
    assert "\n---\n" in capsys.readouterr().out
    assert facts.think_format.cue.strip() in model_card(facts)
