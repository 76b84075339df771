import subprocess
import sys

import pytest

from tenner.core.records import Question
from tenner.data import domains

GEOMETRY = "triangle circle tangent radius angle chord"
MONEY = "dollars price apples bought sold shop"


def questions(*texts):
    return [Question(id=f"q{i:03}", question=text, source="test") for i, text in enumerate(texts)]


def test_clusters_follow_the_words_and_are_named_by_them():
    pool = questions(*(f"{(GEOMETRY, MONEY)[i % 2]} number {i}" for i in range(60)))
    labels = domains.clusters(pool, count=2, seed=0)
    of = {label.question_id: label.domain for label in labels}
    assert of == {label.question_id: label.domain for label in domains.clusters(pool[::-1], count=2, seed=0)}
    names = [{of[q.id] for q in pool[k::2]} for k in (0, 1)]
    assert [len(n) for n in names] == [1, 1]
    (first,), (second,) = names
    assert first
    assert second
    assert set(first.split()) <= set(GEOMETRY.split())
    assert set(second.split()) <= {*MONEY.split(), "number"}


@pytest.mark.parametrize("texts", [[], ["1+1?", "2"], ["one question only"]])
def test_few_or_wordless_questions_are_no_trouble(texts):
    assert len(domains.clusters(questions(*texts), count=5, seed=0)) == len(texts)


def test_a_missing_library_is_found_before_anything_runs():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from tenner.core import recipe\nfrom tenner.data import domains\n"
        "domains.check(recipe.load('demo', overrides=['domains.by=\"clusters\"']).domains)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("TennerError: clusters need scikit-learn")
