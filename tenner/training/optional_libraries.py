"""The libraries that a training needs beside tenner's own, found missing before anything is spent."""

from importlib.util import find_spec

from tenner.core.errors import TennerError
from tenner.core.sections import Train


def check(settings: Train) -> None:
    """Raise TennerError where one is not installed."""
    needs = {
        'train.method = "lora"': (settings.method == "lora" and settings.backend is None, "peft", "'tenner[lora]'"),
        'train.optimizer = "adamw-8bit"': (settings.optimizer == "adamw-8bit", "bitsandbytes", "'tenner[8bit]'"),
        f'train.quantization = "{settings.quantization}"': (
            settings.quantization is not None,
            "bitsandbytes",
            "'tenner[8bit]'",
        ),
        f"train.tracker = {settings.tracker!r}": (settings.tracker != "none", settings.tracker, settings.tracker),
    }
    for what, (is_needed, library, package) in needs.items():
        if is_needed and find_spec(library) is None:
            raise TennerError(f"{what} needs the {library} library", hint=f"pip install {package}")
