import random

from tenner.core.records import Question
from tenner.data.dedup import find, jaccard, sketch
from tenner.data.text_hashing import hashed

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so") for b in ("bar", "den", "fil", "gor", "tum", "wex")]


def prose(r, n=40):
    return [r.choice(WORDS) for _ in range(n)]


def drops(texts, answers=None, near_similarity=0.8):
    answers = answers or [None] * len(texts)
    pool = [Question(id=f"q{i}", question=t, answer=answers[i], source="test") for i, t in enumerate(texts)]
    text = hashed(texts)
    return find(pool, sketch(text, text.words(), near=near_similarity < 1), near_similarity=near_similarity)


def test_of_equal_questions_the_first_stays_and_is_named():
    assert [d and d.evidence for d in drops(["What is 2+2?", "what is 2 + 2", "No."])] == [
        None,
        "same words as q0",
        None,
    ]


def test_a_question_in_another_spelling_is_a_duplicate_and_with_another_exponent_is_not():
    first, same, other = drops(
        [
            r"Find $\frac{1}{2}x^{2}$ for x ≥ 1250.",
            r"Find $\dfrac12x^2$ for $x\geq1{,}250$",
            r"Find $\frac12x^3$ for x ≥ 1250.",
        ]
    )
    assert (first, same.reason, other) == (None, "duplicate", None)


def test_one_word_of_many_makes_a_near_duplicate():
    words = prose(random.Random(0))
    changed = [*words[:20], "other", *words[21:]]
    first, second = drops([" ".join(words), " ".join(changed)])
    assert first is None
    assert second.reason == "near duplicate"
    assert second.evidence.endswith("alike with q0")
    assert drops([" ".join(words), " ".join(changed)], near_similarity=1.0) == [None, None]


def test_other_numbers_or_another_answer_make_another_question():
    text = f"{' '.join(prose(random.Random(1)))} is 17"
    assert drops([text, text.replace("17", "18")]) == [None, None]
    flipped = text.replace(text.split()[9], "tails", 1)
    assert drops([text, flipped], ["1", "2"]) == [None, None]
    assert drops([text, flipped], ["1", " 1."])[1] is not None


def test_planted_near_duplicates_are_found_in_a_large_pool():
    r = random.Random(2)
    texts = [prose(r, r.randint(30, 90)) for _ in range(1500)]
    planted = {}
    for i in range(0, 300, 3):
        copy = list(texts[i])
        copy[r.randrange(len(copy))] = "changed"
        planted[len(texts)] = i
        texts.append(copy)
    found = drops([" ".join(t) for t in texts])
    assert {j for j, d in enumerate(found) if d} == set(planted)
    assert all(found[j].evidence.endswith(f" q{i}") for j, i in planted.items())


def test_many_questions_of_one_template_are_near_duplicates():
    r = random.Random(3)
    alike = [" ".join(["the same words in every one of these questions"] * 4 + [r.choice(WORDS)]) for _ in range(3000)]
    found = drops(alike)
    assert sum(d is None for d in found) <= len(WORDS)


def test_the_similarity_is_of_pairs_of_words():
    assert jaccard("a b c", "a b d") == 1 / 3
    assert jaccard("", "") == 0
