import pytest

from tenner.distill import labels


def test_the_subjects_are_the_61_of_s1():
    assert len(labels.subjects()) == 61
    assert labels.subjects()["11"] == "Number theory"
    assert "11 Number theory" in labels.system_prompt()


@pytest.mark.parametrize(
    ("answer", "subject"),
    [
        ("It is about primes.\n11", "Number theory"), ("11", "Number theory"), ("So:\n**05**.", "Combinatorics"),
        ("The answer is 51 ", "Geometry"), ("99", None), ("2011", None), ("11\nor perhaps not", None), ("", None),
    ],
)  # fmt: skip
def test_the_last_line_names_the_subject(answer, subject):
    assert labels.parse(answer) == subject
