"""What a question is about, where its source does not say: by a model that knows the subjects, or by clusters."""

import importlib.util
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from tenner.core.errors import TennerError
from tenner.core.records import Label, Question
from tenner.core.sections import Domains
from tenner.core.seeds import rng

CODE = re.compile(r"(?<!\d)(\d\d)\W*\Z")
NAME_TERMS = 3  # of a cluster


@cache
def subjects() -> dict[str, str]:
    """The 61 top-level subjects of the Mathematics Subject Classification, by their two digits."""
    return dict(tomllib.loads((resources.files("tenner.data") / "msc.toml").read_text("utf-8")))


def system_prompt() -> str:
    """What the model is told that labels."""
    listed = "\n".join(f"{code} {title}" for code, title in subjects().items())
    return (
        "You sort questions by subject. Name the one subject of the list below that a course would have to teach for "
        "its students to solve the question; physics, chemistry and biology have their places in it too. Give your "
        f"reason in one sentence, and then, on a last line of its own, the two digits of the subject.\n\n{listed}"
    )


def parse(answer: str) -> str | None:
    """The subject that an answer ends with; None where it ends with none."""
    lines = answer.strip().splitlines()
    found = CODE.search(lines[-1]) if lines else None
    return subjects().get(found[1]) if found else None


def check(rules: Domains) -> None:
    """Find out, before anything runs, whether domains can be found in this way. Raises TennerError if not."""
    if rules.by == "clusters" and importlib.util.find_spec("sklearn") is None:
        raise TennerError("clusters need scikit-learn", hint="pip install 'tenner[clusters]'")


def clusters(questions: Sequence[Question], *, count: int, seed: int) -> list[Label]:
    """Group questions by their words (TF-IDF, k-means), and name each group by its most telling words."""
    if not questions:
        return []
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    ordered = sorted(questions, key=lambda q: q.id)
    words = TfidfVectorizer(stop_words="english", token_pattern=r"[^\W\d_]{3,}", max_features=20_000, sublinear_tf=True)
    try:
        weights = words.fit_transform(q.question for q in ordered)
    except ValueError:  # no words at all
        return [Label(question_id=q.id, domain="no words", evidence="clusters") for q in ordered]
    draw = rng(seed, "clusters").randrange(2**32)
    kmeans = MiniBatchKMeans(min(count, len(ordered)), random_state=draw, n_init=3)
    of = kmeans.fit_predict(weights)
    terms = words.get_feature_names_out()
    names = [" ".join(terms[i] for i in centre.argsort()[::-1][:NAME_TERMS]) for centre in kmeans.cluster_centers_]
    return [
        Label(question_id=q.id, domain=names[k], evidence=f"cluster {k} of {len(names)}")
        for q, k in zip(ordered, of, strict=True)
    ]
