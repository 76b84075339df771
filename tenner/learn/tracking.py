"""The curve shown elsewhere too, while it grows: trackio or Weights & Biases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from tenner.errors import TennerError
from tenner.recipe import Recipe
from tenner.records import TrainStep


@contextmanager
def tracker_of(recipe: Recipe) -> Iterator[Callable[[TrainStep], None]]:
    """What the recipe's tracker is given every step by. Raises TennerError where its library is missing."""
    name = recipe.train.tracker
    if name == "none":
        yield lambda _step: None
        return
    if find_spec(name) is None:
        raise TennerError(f"train.tracker = {name!r} needs the {name} library", hint=f"pip install {name}")
    library = import_module(name)  # trackio speaks as wandb does
    library.init(project="tenner", name=recipe.name, config=recipe.model_dump(mode="json"))
    try:
        yield lambda step: library.log(step.model_dump(exclude={"step", "steps"}), step=step.step)
    finally:
        library.finish()
