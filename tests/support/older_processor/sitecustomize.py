"""Where this folder is on PYTHONPATH, `torch.cpu` tells of no instructions beyond AVX2.

PyTorch's kernels heed what `pytest --isa avx2` sets in the environment; vLLM chooses its own by what `torch.cpu` tells.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NEWER = ("avx512", "avx10", "amx")


class OlderProcessor(MetaPathFinder):
    """Changes `torch.cpu` when it is imported: most processes never import it, and start as fast as ever."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch.cpu" or (spec := PathFinder.find_spec(name, path, target)) is None:
            return None
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            tell = module.get_capabilities

            def get_capabilities() -> Mapping[str, Any]:
                return {what: value for what, value in tell().items() if not what.startswith(NEWER)}

            module.get_capabilities = get_capabilities

        loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, OlderProcessor())
