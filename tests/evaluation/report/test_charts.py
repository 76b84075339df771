import re
import xml.etree.ElementTree as ET
from itertools import chain

import matplotlib as mpl
import pytest
from example_run import completion, run_facts

from tenner.core.records import EarlyExit, Score
from tenner.evaluation.report.charts import accuracy_chart, training_chart
from tenner.evaluation.report.svg import Width
from tenner.evaluation.statistics.scores import score

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return [s for s in run_facts().scores if s.domain is None]


def _texts(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_every_budget_from_0_up_every_wait_and_both_students_are_named(scores: list[Score], width: Width) -> None:
    texts = _texts(accuracy_chart(scores, width=width))
    for label in ("0", "8", "16", "32", "64", "128", "+1", "+2", "untrained", "distilled", "waits"):
        assert label in texts


def test_points_stand_where_the_scores_are(scores: list[Score]) -> None:
    root = ET.fromstring(accuracy_chart(scores))
    ticks = {
        "".join(text.itertext()): float(text.attrib["y"])
        for text in root.iter(f"{SVG}text")
        if "text-anchor: end" in text.attrib["style"]
    }
    marks = [float(use.attrib["y"]) for use in root.iter(f"{SVG}use") if "fill" in use.attrib.get("style", "")]
    per_point = (ticks["0"] - ticks["100"]) / 100
    shown = sorted(s.accuracy for s in scores)
    measured = sorted((ticks["0"] - y) / per_point / 100 for y in marks)
    assert len(measured) == len(shown)
    # Tick labels are centred on their line by the font: a constant shift, the same for every point.
    shifts = [m - s for m, s in zip(measured, shown, strict=True)]
    assert max(shifts) - min(shifts) < 0.002


def test_the_description_says_every_number_with_its_n_and_interval(scores: list[Score]) -> None:
    root = ET.fromstring(accuracy_chart(scores))
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert description.text is not None
    assert description.text.count("95 % interval") == description.text.count("n = 240") == len(scores)


def test_the_same_run_gives_the_same_bytes_and_leaves_matplotlib_alone(scores: list[Score]) -> None:
    before = dict(mpl.rcParams)
    first = accuracy_chart(scores)
    assert accuracy_chart(scores) == first
    assert dict(mpl.rcParams) == before
    assert "dc:date" not in first
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_charts_on_one_page_share_no_ids_and_every_reference_is_inside(scores: list[Score]) -> None:
    charts = [accuracy_chart(scores), accuracy_chart(scores, width="narrow"), training_chart(run_facts().training)]
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in charts]
    together = list(chain.from_iterable(ids))
    assert len(set(together)) == len(together)
    for svg, own in zip(charts, ids, strict=True):
        referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        assert {a or b for a, b in referred} <= set(own)
        assert not re.search(r'(?:href|src)="(?!#)', svg)


def test_colours_follow_the_reader(scores: list[Score]) -> None:
    svg = accuracy_chart(scores)
    drawn = svg[svg.index("</style>") :]
    assert not re.search(r"#[0-9a-f]{6}", drawn), "a colour that dark mode does not reach"
    assert set(re.findall(r"var\((--chart-[a-z]+)\)", drawn)) == {
        "--chart-text", "--chart-rule", "--chart-base", "--chart-distilled",
    }  # fmt: skip
    assert "prefers-color-scheme: dark" in svg


def test_labels_of_two_equal_students_do_not_touch() -> None:
    done = [completion("a", "wrong", student=student) for student in ("base", "distilled")]
    root = ET.fromstring(accuracy_chart(score(done, {"a": None})))
    ends = [float(t.attrib["y"]) for t in root.iter(f"{SVG}text") if t.text in ("untrained", "distilled")]
    assert abs(ends[0] - ends[1]) >= 10
    assert "none" in _texts(accuracy_chart(score(done, {"a": None})))


def test_the_training_curve_names_its_last_loss() -> None:
    training = run_facts().training
    svg = training_chart(training)
    assert f"{training[-1].loss:.3f}" in _texts(svg)
    assert "loss, nats per trained token" in _texts(svg)


def test_the_training_curve_has_the_loss_of_held_out_samples_where_it_was_measured() -> None:
    training = list(run_facts().training)
    training[0] = training[0].model_copy(update={"validation_loss": 2.625})
    svg = training_chart(training)
    assert "loss, nats per trained token; ◆ held-out samples" in _texts(svg)
    assert f"Of held-out samples: 2.625 at step {training[0].step}." in svg


def test_policies_that_stop_early_stand_apart_with_the_tokens_they_took(scores: list[Score]) -> None:
    plain = [s for s in scores if s.policy.thinking_tokens_max == 64 and not s.policy.waits]
    early_exit = EarlyExit(at="wait", agree=1, probability=0.9)
    stopped = [
        s.model_copy(
            update={
                "policy": s.policy.model_copy(update={"early_exit": early_exit}),
                "thinking_tokens_mean": 20.0, "trial_tokens_mean": 4.0,
            }
        )
        for s in plain
    ]  # fmt: skip
    svg = accuracy_chart([*scores, *stopped])
    texts = _texts(svg)
    assert {"early exit", "≈ 24", "stopped early", "waits"} <= set(texts)
    assert svg.count("at most 64 tokens, early exit: ") == len(plain)
