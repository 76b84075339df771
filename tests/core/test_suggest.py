import pytest

from tenner.core.recipe import Recipe
from tenner.core.suggest import did_you_mean, fields_at


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
