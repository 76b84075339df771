"""`tenner prices`."""

import json

from commands import tenner_here


def test_rows_are_searched_and_dated():
    done = tenner_here("prices", "h200", "nebius")
    assert done.returncode == 0
    assert done.stdout.startswith("h200 at Nebius, on-demand: $5.40 an hour; 2026-11-09, ")
    assert len(done.stdout.splitlines()) == 1
    found = json.loads(tenner_here("prices", "deepseek", "--json").stdout)
    assert {row["model"] for row in found["models"]} >= {"deepseek-flash", "deepseek-v4-pro"}
    assert found["machines"] == []


def test_what_is_not_found_is_said():
    done = tenner_here("prices", "h1000")
    assert done.returncode == 2
    assert "no price matches h1000" in done.stderr
