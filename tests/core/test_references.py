import pytest

from tenner.core.references import NOT_REFERENCES, is_reference, reference_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1e-05", "1e-05"),
        (12, "12"), (25.0, "25.0"), (0.00001, "0.00001"), (1e-7, "0.0000001"), (-2.5e-06, "-0.0000025"),
        (1e23, "100000000000000000000000"), (True, "true"), ([1, 2], "1, 2"), (["7"], "7"), ([0.5, "x"], "0.5, x"),
        (None, None), (float("nan"), None), ([], None), ([1, None], None), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_values_of_json_are_read_as_what_they_are(value, text):
    assert reference_text(value) == text


@pytest.mark.parametrize("value", [{"a": 1}, [[1], [2]], [{"a": 1}], b"7"])
def test_what_is_no_answer_is_an_error(value):
    with pytest.raises(ValueError, match="which is no answer"):
        reference_text(value)


@pytest.mark.parametrize(
    "text",
    [None, "", "  ", "NaN", "nan", "None", "null", "proof", "Proof.", "not found", "Not Found", "not_found", "N/A",
     "n/a.", "see solution", "(See solution.)", r"\text{Not found}", r"$\boxed{\text{proof}}$", "[]", "None.", "-",
     "<NA>"],
)  # fmt: skip
def test_words_that_stand_for_no_answer(text):
    assert not is_reference(text, "maths")


@pytest.mark.parametrize(
    "text",
    ["0", "7", "no solution", "undefined", "Na", "infinity", "false", "-1", "A", "none of these", "the empty set",
     r"\{\}", "not prime", "5!", "inf", "unknown", "no"],
)  # fmt: skip
def test_answers_are_answers(text):
    assert is_reference(text, None)


def test_of_kind_text_every_word_is_an_answer():
    assert all(is_reference(word, "text") for word in NOT_REFERENCES if word)
    assert not is_reference(" ", "text")
