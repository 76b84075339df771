"""Where tests find what is not beside them."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
BENCH = ROOT / "bench"
DATA = ROOT.parent / "shared" / "data"
"""Real evaluation questions, which are not part of the project: tests that read them are skipped where they are not."""
