import pytest

from tenner.core.recipe import Recipe
from tenner.core.suggest import ALIASES, did_you_mean, fields_at, places, right_key


def test_the_nearest_name_or_what_there_is():
    assert did_you_mean("trian", ["train", "trace"]) == "did you mean train?"
    assert did_you_mean("xyz", ["train", "trace"]) == "there are train, trace"
    assert did_you_mean("xyz", ["train"], "remove it") == "remove it"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (["sed"], "seed"),
        (["train", "lrr"], "lr"),
        (["trace", "price", "input"], "input_usd_per_mtok"),
        (["gather", "sources", 0, "columns", "q"], "answer_after"),
    ],
)
def test_the_fields_beside_a_wrong_one(path, field):
    assert field in fields_at(path, Recipe)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        (["train", "learning_rate"], "did you mean lr?"),
        (["train", "epoch"], "did you mean epochs?"),
        (["gather", "sources", 0, "path"], "did you mean file?"),
        (["epochs"], "did you mean train.epochs?"),
        (["learning_rate"], "did you mean train.lr?"),
        (["trace", "url"], "did you mean base_url?"),
        (["trace", "price", "price_in"], "did you mean input_usd_per_mtok?"),
        (["select", "budget"], "did you mean budget_usd?"),
        (["domains", "xyz"], "there are by, clusters, labeller"),
    ],
)
def test_a_key_of_another_library_or_section_gets_the_right_one(path, hint):
    assert right_key(path, Recipe) == hint


def test_every_alias_stands_for_a_key_that_there_is():
    dotted = {place.dotted for place in places(Recipe)}
    known = dotted | {name.rpartition(".")[2] for name in dotted}
    assert {name for names in ALIASES.values() for name in names} <= known
    assert not set(ALIASES) & dotted
