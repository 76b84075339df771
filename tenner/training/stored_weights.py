"""A model folder's weights, read a few rows at a time by the model's own names: no process needs to hold them all."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from tenner.core import model_folder
from tenner.core.errors import TennerError
from tenner.training.student import ADDRESS_HINT


class _Merged(NamedTuple):
    """A weight that a folder has in parts, such as a mixture's, a matrix for each expert."""

    converter: Any
    """Of transformers, which puts the parts together."""
    first_name: str
    """Of the weights that it makes."""
    parts: list[tuple[str, str]]
    """The name of each in the folder, and the pattern that it goes by."""


class StoredWeights:
    """The weights of a model in its folder."""

    def __init__(self, folder: Path, model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
        """`weights` are the model's, of which the shapes do not matter, by their names without adapters.

        Raises TennerError where the folder holds no safetensors.
        """
        from safetensors import safe_open

        self._folder, self._model = folder, model
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with model_folder.loading(path, "cannot be read"):
                file: Any = safe_open(path, framework="pt")
                self._files |= dict.fromkeys(file.keys(), file)
        if not self._files:
            raise TennerError(
                f"{folder} holds no safetensors, which training on several devices reads", hint=ADDRESS_HINT
            )
        self._names: dict[str, str] = {}
        self._merged: dict[str, _Merged] = {}
        self._match(weights)

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Rows `first` to `first + count` of a weight. Raises TennerError where there is none of this name."""
        if name in self._merged:
            return self.whole(name)[first : first + count]
        stored = self._stored_name(name)
        rows: Tensor = self._files[stored].get_slice(stored)[first : first + count]
        return rows

    def whole(self, name: str) -> Tensor:
        """All of a weight. Raises TennerError where there is none of this name."""
        if name not in self._merged:
            stored = self._stored_name(name)
            return self._tensor(stored)
        merged = self._merged[name]
        converter = deepcopy(merged.converter)
        for part, pattern in merged.parts:
            converter.add_tensor(merged.first_name, part, pattern, self._tensor(part))
        with model_folder.loading(self._folder, f"has no whole {name}"):
            found = converter.convert(merged.first_name, model=self._model, config=self._model.config)[name]
        tensor: Tensor = found[0] if isinstance(found, list) else found
        return tensor

    def _tensor(self, stored: str) -> Tensor:
        tensor: Tensor = self._files[stored].get_tensor(stored)
        return tensor

    def _stored_name(self, name: str) -> str:
        if name not in self._names:
            raise TennerError(
                f"{self._folder} holds no weight called {name}", hint="is it a folder of save_pretrained?"
            )
        return self._names[name]

    def _match(self, weights: Mapping[str, Tensor]) -> None:
        """Find what each of the model's weights is made of, as transformers does when it loads the folder."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        known = get_model_conversion_mapping(self._model)
        renamings = [entry for entry in known if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in known if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        prefix, expected = self._model.base_model_prefix, dict(weights)
        for stored in sorted(self._files, key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, expected)
            if name not in expected and stored in expected:
                name, pattern = stored, None
            if name not in expected:  # a weight that the model does not use
                continue
            if pattern is None:
                self._names[name] = stored
                continue
            converter = by_pattern[pattern]
            merged = self._merged.get(name) or _Merged(converter, name, [])
            merged.parts.append((stored, pattern))
            first, *others = converter.target_patterns
            self._merged |= dict.fromkeys([name, *(name.replace(first, other) for other in others)], merged)
