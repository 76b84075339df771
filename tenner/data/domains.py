"""Domain labels from clusters of questions, for sources that name no domain."""

import importlib.util
from collections.abc import Sequence

from tenner.core.errors import TennerError
from tenner.core.records import Label, Question
from tenner.core.sections import Domains
from tenner.core.seeds import rng

NAME_TERMS = 3  # in the name of a cluster


def check(rules: Domains) -> None:
    """Check, before anything runs, that the libraries for `rules.by` are installed. Raises TennerError if not."""
    if rules.by == "clusters" and importlib.util.find_spec("sklearn") is None:
        raise TennerError("clusters need scikit-learn", hint="pip install 'tenner[clusters]'")


def clusters(questions: Sequence[Question], *, count: int, seed: int) -> list[Label]:
    """Cluster questions by their words (TF-IDF, k-means), and name each cluster by its heaviest terms."""
    if not questions:
        return []
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    ordered = sorted(questions, key=lambda q: q.id)
    words = TfidfVectorizer(stop_words="english", token_pattern=r"[^\W\d_]{3,}", max_features=20_000, sublinear_tf=True)
    try:
        weights_QW = words.fit_transform(q.question for q in ordered)  # sparse: questions, words of the vocabulary
    except ValueError:  # no words at all
        return [Label(question_id=q.id, domain="no words", evidence="clusters") for q in ordered]
    draw = rng(seed, "clusters").randrange(2**32)
    kmeans = MiniBatchKMeans(min(count, len(ordered)), random_state=draw, n_init=3)
    cluster_of = kmeans.fit_predict(weights_QW)
    terms = words.get_feature_names_out()
    names = [" ".join(terms[i] for i in centre.argsort()[::-1][:NAME_TERMS]) for centre in kmeans.cluster_centers_]
    return [
        Label(question_id=q.id, domain=names[k], evidence=f"cluster {k} of {len(names)}")
        for q, k in zip(ordered, cluster_of, strict=True)
    ]
