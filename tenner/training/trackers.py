"""The curve shown elsewhere too, while it grows: trackio or Weights & Biases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from tenner.core.recipe import Recipe
from tenner.core.records import TrainStep


@contextmanager
def tracker_of(recipe: Recipe) -> Iterator[Callable[[TrainStep], None]]:
    """What the recipe's tracker is given every step by."""
    name = recipe.train.tracker
    if name == "none":
        yield lambda _step: None
        return
    library = import_module(name)  # trackio speaks as wandb does
    library.init(project="tenner", name=recipe.name, config=recipe.model_dump(mode="json"))
    try:
        yield lambda step: library.log(step.model_dump(exclude={"step", "steps"}), step=step.step)
    finally:
        library.finish()
