"""The one rule of the layout: each layer imports only from those before it; and who may import torch."""

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tenner

PACKAGE = Path(tenner.__file__).parent
# A module's layer is the first part of its path: the folder, or the file at the top.
LAYERS = (
    {"core", "budget"},
    {"data", "clients", "distill", "training", "inference", "evaluation"},
    {"stages"},
    {"pipeline", "measurement", "tracing", "tuning", "launch", "probe", "publish"},
    {"api"},
    {"commands"},
    {"cli", "__main__"},
)
WINGS = LAYERS[1]
BETWEEN_WINGS = {("distill", "clients"), ("evaluation", "inference")}
WITHOUT_TORCH = {"core", "budget", "data", "clients", "distill", "evaluation"}


def modules() -> list[str]:
    """The dotted names of all modules."""
    parts = (path.relative_to(PACKAGE).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py")))
    return [".".join(["tenner", *found]).removesuffix(".__init__") for found in parts]


def path_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def folder_of(module: str) -> str:
    return module.split(".")[1]


def layer_of(module: str) -> int:
    """The number of the layer. Raises LookupError for a folder or file that is in none."""
    found = [number for number, layer in enumerate(LAYERS) if folder_of(module) in layer]
    if not found:
        raise LookupError(f"{module} is in no layer")
    return found[0]


def imports_of(path: Path) -> set[str]:
    """The tenner modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("tenner.") and name != "tenner.__version__"}


def breaks(importer: str, imported: str) -> bool:
    here, there = layer_of(importer), layer_of(imported)
    if here != there:
        return here < there
    pair = folder_of(importer), folder_of(imported)
    return set(pair) <= WINGS and pair[0] != pair[1] and pair not in BETWEEN_WINGS


def test_imports_go_one_way():
    wrong = []
    for importer in modules():
        if importer != "tenner":  # the package itself opens its API lazily
            wrong += [f"{importer} -> {name}" for name in imports_of(path_of(importer)) if breaks(importer, name)]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("tenner.data.overlap", "tenner.clients.paid_calls"),
        ("tenner.core.recipe", "tenner.data.puzzles"),
        ("tenner.stages.training", "tenner.pipeline"),
        ("tenner.clients.billing", "tenner.distill.traces"),
    ],
)
def test_the_rule_would_see_a_wrong_import(importer, imported):
    assert breaks(importer, imported)


def test_a_file_outside_the_layers_is_seen():
    with pytest.raises(LookupError):
        layer_of("tenner.utils.misc")


def test_these_import_without_torch():
    names = [name for name in modules() if name != "tenner" and folder_of(name) in WITHOUT_TORCH]
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
