import pytest

from tenner.evaluation.grading.integer import canonical_integer

ARE = [
    ("25", "25"), ("025", "25"), ("000", "0"), ("-7", "-7"), ("-0", "0"), ("+7", "7"), ("27.0", "27"), ("27.", "27"),
    ("1,234", "1234"),
    ("1{,}234", "1234"), ("1\\,234", "1234"), ("m+n = 256+37 = 293", "293"), ("a+b+c = 12+25+25 = 62", "62"),
    ("$x = 5$", "5"),
    ("\\text{13}", "13"), ("**73**", "73"), ("\\$18", "18"), ("$18", "18"), ("18 dollars", "18"),
    ("45^\\circ", "45"), ("45^{\\circ}", "45"),
    ("\\(7\\)", "7"), ("(7)", "7"), ("7 ways.", "7"), ("\N{MINUS SIGN}7", "-7"), ("12\\text{ cm}^2", "12"),
    ("9" * 5000, "9" * 5000),
    ("30\\%", "30"), ("\\mathbf{12}", "12"),
]  # fmt: skip
ARE_NOT = [
    "", "x", "\\frac{50}{2}", "2^5", "25.5", "5 or 6", "5, 6", "5/6", "12,34", "5\\pi", "5i", "5 million",
    "5 times x", "3 + 4", "5 and 6",
    "-", "five", "٤٢", "1 2", "7!", "5 minus 3", "5e3", "\\sqrt{25}", "5" + " a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize(("text", "digits"), ARE)
def test_an_integer_is_read_in_its_dress(text, digits):
    assert canonical_integer(text) == digits


@pytest.mark.parametrize("text", ARE_NOT)
def test_nothing_is_computed_and_nothing_guessed(text):
    assert canonical_integer(text) is None
