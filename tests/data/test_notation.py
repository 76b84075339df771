# ruff: noqa: RUF001  # spellings are ambiguous on purpose

import time

import pytest

from tenner.data.text_hashing import tokens

SAME = [
    (r"\frac12", r"\frac{1}{2}", r"\dfrac 1 2", r"\tfrac1{2}", r"\frac{1}2", r"{1 \over 2}", "1/2", "½", "&frac12;"),
    (r"\frac12x", r"\frac{1}{2}x"),
    (r"\frac\pi2", r"\frac{\pi}{2}", "π/2", r"\frac{π}{2}"),
    (r"\frac{1+\frac{a^{2}}{b_{1}}}{3}", r"(1+\frac{a^2}{b_1})/3"),
    ("3½ apples", r"3\frac{1}{2} apples"),
    (r"\binom52", r"\dbinom{5}{2}", r"\tbinom{5}2", r"{5 \choose 2}", r"{{5} \choose {2}}"),
    ("n²", "n^2", "n^{2}", r"\(n^{2}\)", "$n^2$", "n<sup>2</sup>", "𝑛²", "n&sup2;"),
    ("x²y", "x^2y", "x^{2}y"),
    ("x¹⁰", "x^{10}", "x^10"),
    ("x⁻¹", "x^{-1}", "x^-1"),
    (r"x^ny \le 1", r"x^{n}y \leq 1"),
    (r"\(a_nx_1y\)", r"\(a_{n}x_{1}y\)", "$a_nx_1y$"),
    ("x₁₂", "x_{12}", "x_12"),
    (r"\log_264", r"\log_{2}64", r"\log_2 64"),
    (r"\sqrt3x", r"\sqrt{3}x", "√3x", r"√{3} x"),
    (r"\sqrt[3]{5}", "∛5"),
    (r"2 \times 3", r"2\cdot3", "2×3", "2·3", "2⋅3", "2*3"),
    (r"Evaluate \(2i\)", r"Evaluate $2{i}$", "_Evaluate_ 2i", r"\_Evaluate\_ 2i", "*Evaluate* 2i"),
    (r"_Emphasis_ in $x_ny$", r"Emphasis in $x_{n}y$"),
    (r"\\left( \\frac12 \\right) = 90^\\circ", r"\left( \frac{1}{2} \right) = 90^\circ"),
    (r"\begin{equation}\label{eq:1} a = b \tag{7} \end{equation}", "$$a = b$$"),
    (r"x\le 5", r"x\leq5", r"x \leqslant 5", "x ≤ 5", "x<=5", "x &le; 5", "x ⩽ 5"),
    (r"\pi r^2", "πr²"),
    (r"2\alpha\beta", "2αβ"),
    (r"\angle ABC = 90^\circ", r"∠ABC=90°", r"\angle ABC = 90^{\circ}", r"∠ABC=90^{\circ}", "∠ABC = 90&deg;"),
    ("90°", "90 degrees"),
    ("90º", "90 degrees"),
    ("ΔABC", r"\triangle ABC"),
    (r"\Delta ABC", "△ABC"),
    (r"0 \ne x \in A \cup \{\infty\}", "0 ≠ x ∈ A ∪ {∞}"),
    (r"f: \mathbb{R} \to \mathbb{R}", "f: ℝ → ℝ", r"f\colon \mathbb R \rightarrow \mathbb R"),
    (r"1, 2, \ldots, n", r"1,2,\dots,n", "1, 2, …, n", "1, 2, ..., n"),
    ("1,250", "1250", "1{,}250", r"1,\!250", r"1\,250", "1\u202f250", "１，２５０"),
    ("$1,000,000.50", "1000000.50"),
    ("(1,250 apples)", "(1250 apples)"),
    ("naïve résumé", "nai\u0308ve re\u0301sume\u0301", "NAÏVE RÉSUMÉ"),
    (r"\left(\frac{a}{b}\right)", r"\bigl(\frac ab\bigr)", r"(\frac{a}{b})"),
    (
        r"\begin{align*} x &= 1 \\ y &= 2 \end{align*}",
        r"\[x = 1, y = 2\]",
        r"\begin{array}{rl}x&=1\\[2pt]y&=2\end{array}",
    ),
    ("**Find** *the* “sum”", "Find the 'sum'", "Ｆｉｎｄ the sum", "Find&nbsp;the &quot;sum&quot;"),
    ("a &lt; b &amp; c", "a < b & c"),
    ("x − 3", "x - 3", "x \N{EN DASH} 3", r"x \minus{} 3"),
    (r"10 \pmod 3", r"10 (\bmod{3})", "10 (mod 3)"),
    (r"f'(x)", r"f^\prime(x)", r"f^{\prime}(x)", "f′(x)"),
    (r"5\text{ cm}", r"5\,\mathrm{cm}", "5 cm"),
    ("4^{th}", r"4^{\text{th}}", "4^th"),
    ("共有12个苹果，", "共有 12 个苹果"),
    ("zero\u200bwidth so\u00adft", "zerowidth soft"),
]
DIFFERENT = [
    ("1,2", "12"), ("1, 250", "1250"), ("(1,250)", "(1250)"), ("1,25", "125"), ("0,250", "250"), ("1,2500", "12500"),
    ("12,345,67", "1234567"), (r"\frac{12}{5}", r"\frac{1}{25}"), (r"\frac{1}{2}", "12"), ("n^2", "n2"), ("x^2", "x_2"),
    ("x₁₂", "x₁ + ₂"), ("x ≤ 5", "x ≥ 5"), ("x ≤ 5", "x < 5"), ("x ≠ 5", "x = 5"), ("√5", "5"), ("90°", "90"),
    (r"2^{10}", r"2^1 + 0"), ("2×3", "2+3"), ("αβ", "βα"), ("résumé", "resume"), ("A ∪ B", "A ∩ B"),
    ("苹果", "果苹"), (r"\frac{a}{b}", r"\frac{b}{a}"), (r"\sin x", r"\cos x"), ("∑", "∏"),
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME, ids=lambda spellings: spellings[0])
def test_spellings_of_one_text_are_the_same(spellings):
    assert [tokens(text) for text in spellings[1:]] == [tokens(spellings[0])] * (len(spellings) - 1)
    assert tokens(spellings[0])


@pytest.mark.parametrize(("text", "other"), DIFFERENT)
def test_different_texts_stay_different(text, other):
    assert tokens(text) != tokens(other)


def test_greek_words_are_not_spelled_out():
    assert tokens("Πόσα μήλα έχει") == ["πόσα", "μήλα", "έχει"]


@pytest.mark.parametrize(
    "part",
    ["{", r"\frac{", r"\frac", r"\frac{a", "1,000,", r"1{,}000", "^{", "a_", "²", "α", "\\", "&#", "&#0;", "&#xd800;",
     r"\begin{", "- ", r"\\[1", r"\hspace{", "中", "\0", "\ud83d", "</", r"\log_ "],
)  # fmt: skip
def test_long_and_broken_texts_are_read_in_linear_time(part):
    began = time.process_time()
    tokens(part * 20_000)
    assert time.process_time() - began < 2
