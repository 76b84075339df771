import pytest

from tenner.evaluation.grading.choice import canonical_choice

CHOSEN = [
    ("E", "E"), ("(E)", "E"), ("e", "E"), ("E.", "E"), ("\\text{E}", "E"), ("\\text{(E)}", "E"), ("**E**", "E"),
    ("E: A polygenic score", "E"),
    ("E) A polygenic score", "E"), ("(E) A polygenic score", "E"), ("E. A polygenic score", "E"),
    ("B because C is not valid", "B"), ("B/B", "B"),
    ("Option B", "B"), ("the correct answer is (B)", "B"), ("B, since C is not valid", "B"), ("B or B", "B"),
    ("$\\mathbf{B}$", "B"),
]  # fmt: skip
NOT_CHOSEN = [
    "", "A/B/C", "A or B", "D/H", "A and B", "A, B", "A gene is lost", "Actually this one is tricky",
    "Error: rate limited", "42", "AB",
    "\\langle H\\rangle \\ll \\Delta E", "none of these", "(A) or (B)", "(A), (B)", "A; B",
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), CHOSEN)
def test_one_letter_is_chosen(text, letter):
    assert canonical_choice(text) == letter


@pytest.mark.parametrize("text", NOT_CHOSEN)
def test_no_letter_is_chosen_by_default(text):
    assert canonical_choice(text) is None
