"""The table of licences covers what is pinned, and tells what is compatible from what is not."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "licences.py"))


@pytest.mark.parametrize(
    ("expression", "is_compatible"),
    [("MIT", True), ("Apache-2.0 AND (MIT)", True), ("GPL-3.0-only OR MIT", True), ("GPL-3.0-only", False),
     ("MIT AND GPL-2.0-only", False), ("none stated", False), ("UNKNOWN", False)],
)  # fmt: skip
def test_alternatives_need_one_and_sums_need_all(expression, is_compatible):
    assert SCRIPT["is_compatible"](expression) == is_compatible


@pytest.mark.slow
def test_every_pinned_package_is_compatible(capsys):
    assert SCRIPT["main"]() == 0, capsys.readouterr().out
