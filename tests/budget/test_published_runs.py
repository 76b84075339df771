"""Published runs: their arithmetic, as the research of the field has it, and every number with its source."""

import datetime

import pytest

from tenner.budget.published_runs import as_text, published_runs

RUNS = {run.name: run for run in published_runs()}
ON = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)


def test_s1_reached_22_percent_and_costs_18_to_28_dollars_today():
    s1 = RUNS["s1-32B"]
    assert s1.mfu == pytest.approx(6 * 32.8e9 * 27e6 / (6.93 * 3600 * 989.5e12))
    assert round(100 * (s1.mfu or 0)) in (21, 22)
    low, high = s1.usd_now(ON) or (0, 0)
    assert (round(low, 1), round(high, 1)) == (18.6, 27.7)
    assert 18 < low < high < 28


def test_deepseek_v3_is_hours_times_two_dollars():
    v3, r1 = RUNS["DeepSeek-V3"], RUNS["DeepSeek-R1"]
    assert v3.then_usd_per_hour == pytest.approx(2.0)
    assert v3.gpu_hours == 2664e3 + 119e3 + 5e3
    assert v3.mfu == pytest.approx(0.346, abs=0.001)
    assert "50,000" in v3.objection
    assert "different questions" in v3.objection
    assert r1.then_usd_per_hour == pytest.approx(2.0)
    assert r1.gpu_hours == pytest.approx(512 * (198 + 80) + 5000, rel=0.01)


@pytest.mark.parametrize(
    ("name", "usd_per_hour"), [("Sky-T1-32B-Preview", 2.96), ("Open-RS", 0.44), ("Tina", 1.0), ("nanochat", 3.0)]
)
def test_what_an_hour_cost_then(name, usd_per_hour):
    assert RUNS[name].then_usd_per_hour == pytest.approx(usd_per_hour, abs=0.005)


def test_a_step_of_a_service_is_tokens_times_price():
    run = RUNS["tinker-cookbook, on-policy distillation"]
    assert run.managed_tokens == pytest.approx(200 * 2048 * 8192, rel=1e-3)
    assert run.usd_now(ON) == pytest.approx((3355 * (0.195 + 0.60 + 0.44),) * 2)


def test_every_run_says_what_it_leaves_out_and_where_it_is_from():
    text = as_text()
    for run in RUNS.values():
        assert run.name in text
        assert run.left_out in text
        assert run.source in text
    assert "nobody's price is known" in text, "of an A40"
