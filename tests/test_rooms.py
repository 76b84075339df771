"""The house's one rule: ground <- ask, teach, learn, think, prove <- pipeline <- cli; and who may import torch."""

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tenner

HOUSE = Path(tenner.__file__).parent
WINGS = {"ask", "teach", "learn", "think", "prove"}
# These may import every room.
DOOR = {
    "pipeline",
    "cli",
    "show",
    "chat",
    "tracejob",
    "overlapjob",
    "gradejob",
    "comparejob",
    "exportjob",
    "measurejob",
    "answering",
    "planjob",
    "servejob",
    "speaking",
    "choosing",
    "durations",
    "room",
    "training",
    "__main__",
}  # these may import every room
ALLOWED_ARROWS = {("prove", "think")}


def modules():
    return sorted(HOUSE.rglob("*.py"))


def room_of(name: str) -> str:
    """The room of a dotted module name: a wing, "door" or "ground"."""
    part = name.split(".")[1] if "." in name else "ground"
    return part if part in WINGS else "door" if part in DOOR else "ground"


def imports_of(path: Path) -> set[str]:
    """The tenner modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("tenner.")}


def breaks(importer: str, imported: str) -> bool:
    here, there = room_of(importer), room_of(imported)
    if here == there or here == "door" or there == "ground":
        return False
    return (here, there) not in ALLOWED_ARROWS


def test_imports_go_one_way():
    wrong = []
    for path in modules():
        importer = ".".join(["tenner", *path.relative_to(HOUSE).with_suffix("").parts])
        wrong += [f"{importer} -> {imported}" for imported in imports_of(path) if breaks(importer, imported)]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("tenner.ask.overlap", "tenner.teach.calls"),
        ("tenner.recipe", "tenner.ask.worked"),
        ("tenner.run", "tenner.cli"),
    ],
)
def test_the_rule_would_see_a_wrong_arrow(importer, imported):
    assert breaks(importer, imported)


def test_data_rooms_and_ground_import_without_torch():
    quiet = {"ask", "teach", "ground", "prove"}
    names = [".".join(["tenner", *p.relative_to(HOUSE).with_suffix("").parts]) for p in modules()]
    names = [n.removesuffix(".__init__") for n in names if room_of(n) in quiet]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert len(names) > 15
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_answers_at_once():
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tenner", "--help"], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.3
