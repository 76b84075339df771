import xml.etree.ElementTree as ET

import pytest
from example_run import run_facts

from tenner.evaluation.report.facts import RunFacts
from tenner.evaluation.report.run_charts import compute_chart, funnel_chart, lengths_chart, plan_chart

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return run_facts()


def described(svg: str | None) -> str:
    assert svg is not None
    return ET.fromstring(svg).findtext(f"{SVG}desc") or ""


def test_what_a_chart_shows_is_said_in_words(facts: RunFacts) -> None:
    assert "clean: 2,987 of 3,200; select: 1,000 of 2,987" in described(funnel_chart(facts.funnel))
    assert "train: 180 seconds expected, 203 taken" in described(plan_chart(facts))
    assert "train: $0.0050 dollars expected, $0.0056 taken" in described(plan_chart(facts))
    assert described(lengths_chart(facts.answered, facts.benchmarks)).startswith("untrained: median ")


def test_nothing_to_draw_is_no_chart(facts: RunFacts) -> None:
    assert funnel_chart([]) is None
    assert plan_chart(facts._replace(plan=[])) is None
    assert lengths_chart(facts.answered[:5], facts.benchmarks) is None
    one_length = facts.benchmarks[0]._replace(answer_prices=facts.benchmarks[0].answer_prices[:1])
    assert compute_chart([one_length]) is None
