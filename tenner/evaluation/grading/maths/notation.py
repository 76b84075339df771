"""Mathematical notation as tokens: LaTeX, plain text and Unicode say the same thing with the same tokens."""

import re
from typing import Literal, NamedTuple

TEXT_CHARS_MAX = 2_000
"""Longer answers are not read."""

Kind = Literal["number", "symbol", "word", "command", "sign"]


class Token(NamedTuple):
    """One token. Commands are without their backslash, words lower case; `spaced` says that a space stood before it."""

    kind: Kind
    text: str
    spaced: bool = False


class Unreadable(Exception):
    """The text cannot be read to its last character."""


UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "∕": "/",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "π": r"\pi ",
    "√": r"\sqrt ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ",
    "…": r"\ldots ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "μ": r"\mu ", "ω": r"\omega ", "∠": r"\angle ", "△": r"\triangle ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "½": r"\frac12 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "¼": r"\frac14 ",
    "¾": r"\frac34 ", "⅕": r"\frac15 ", "⅙": r"\frac16 ", "⅛": r"\frac18 ", "⅜": r"\frac38 ", "⅝": r"\frac58 ",
    "⅞": r"\frac78 ", "⁄": "/", "€": r"\euro ", "£": r"\pounds ", "∅": r"\emptyset ", "\u00a0": " ", "’": "'",
    "“": " ", "”": " ", "‘": " ", '"': " ",
}  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

SAME_COMMAND = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge",
    "neq": "ne", "times": "cdot", "ast": "cdot", "div": "/", "varphi": "phi", "varepsilon": "epsilon", "inf": "infty",
    "infinity": "infty", "oo": "infty", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dbinom": "binom",
    "tbinom": "binom", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "degree": "degree", "degrees": "degree",
    "deg": "degree", "percent": "%", "percentage": "%", "pct": "%", "arcsin": "asin", "arccos": "acos",
    "arctan": "atan", "lbrack": "[", "rbrack": "]", "lbrace": "{s", "rbrace": "}s", "union": "cup", "plusminus": "pm",
    "abs": "abs", "colon": ":", "cosec": "csc", "isin": "in", "varnothing": "emptyset",
}  # fmt: skip
FUNCTIONS = frozenset(
    ("sin cos tan cot sec csc asin acos atan sinh cosh tanh log ln exp sqrt abs floor ceil lg factorial cbrt").split()
)
PLAIN_NAMES = FUNCTIONS | frozenset(
    (
        "pi theta alpha beta gamma lambda infinity inf oo infty arcsin arccos arctan degrees degree percent "
        "percentage pct union cup phi mu omega sigma epsilon delta"
    ).split()
)
"""Words that mean in plain text what the command of that name means."""
CONNECTIVES = frozenset(("and", "or"))

DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|rm|bf|it|cal|mathstrut|phantom\{[^{}]*\})(?![A-Za-z])\.?"
    r"|\\[,;:! >]|\\q?quad(?![A-Za-z])|~"
)
GROUPING = re.compile(r"(?<=[0-9])(?:,\\[!,;]|\{,\}|\\[,;:!])\s*(?=[0-9]{3}(?![0-9]))")
TEXT = re.compile(
    r"\\(?:text|mbox|hbox|textbf|textit|textrm|textnormal|operatorname\*?|mathrm|mathbf|mathit|mathsf|bold|boldsymbol|bm)\s*\{([^{}]*)\}"
)
MATH_DELIMITER = re.compile(r"\\[()\[\]]|\$\$")
LEXEME = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?<![0-9],)[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|\\(?P<command>[A-Za-z]+)"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<newrow>\\\\)"
    r"|\\(?P<escaped>[{}$%&|#_])"
    r"|(?P<sign>\*\*|<=|>=|!=|==|[-+*/^_=<>(){}\[\],;:!|%&'.$])"
)
REPEATING = re.compile(r"([0-9]{0,30})\.([0-9]{0,30})\\(?:overline|bar|dot)\s*\{([0-9]{1,30})\}")
SCIENTIFIC = re.compile(r"(?<![\w.])([0-9]+\.[0-9]+)[eE]([-+]?[0-9]{1,4})(?!\w)")  # 2e-3 may be 2e - 3, 2.0e-3 is not
LETTER_DEGREE = re.compile(r"(?<=[0-9])\s*\^\s*(?:\{\s*(?:\\text\{\s*o\s*\}|o)\s*\}|o)(?![A-Za-z])")
PAIR = re.compile(r"(?<=[(\[{])(\s*[0-9]{1,3}),(?=[0-9]{3}\s*(?:[)\]]|\\\}))")
QUOTED, UNQUOTED = "\x01", "\x02"


def tokens_of(text: str) -> list[Token]:
    """The tokens of an answer. Raises Unreadable for a character that has no meaning here, and for a long text."""
    if len(text) > TEXT_CHARS_MAX:
        raise Unreadable(f"longer than {TEXT_CHARS_MAX:,} characters")
    found: list[Token] = []
    spaced = quoted = False
    text, at = _plain(text), 0
    while at < len(text):
        if text[at] in (QUOTED, UNQUOTED):
            quoted, spaced, at = text[at] == QUOTED, True, at + 1
            continue
        match = LEXEME.match(text, at)
        if match is None:
            raise Unreadable(f"the character {text[at]!r}")
        at = match.end()
        kind = str(match.lastgroup)
        if kind == "space":
            spaced = True
            continue
        found.extend(_tokens(kind, match[kind], spaced=spaced, quoted=quoted))
        spaced = False
    return found


def _tokens(kind: str, text: str, *, spaced: bool, quoted: bool) -> list[Token]:
    if kind == "number":
        return [Token("number", text.replace(",", ""), spaced)]
    if kind == "command":
        text = SAME_COMMAND.get(text, text)
        return [Token("command" if text[0].isalpha() else "sign", text, spaced)]
    if kind == "newrow":
        return [Token("sign", r"\\", spaced)]
    if kind == "escaped":
        return [Token("sign", {"{": "{s", "}": "}s"}.get(text, text), spaced)]
    if kind == "sign":
        return [Token("sign", {"**": "^", "==": "=", "<=": "le", ">=": "ge", "!=": "ne"}.get(text, text), spaced)]
    return _word(text, spaced=spaced, quoted=quoted)


def _word(text: str, *, spaced: bool, quoted: bool) -> list[Token]:
    """A letter is a symbol, and two are the product of two; what is longer is a name that is known, or a word."""
    lower = text.lower()
    if lower in PLAIN_NAMES and (text == lower or len(text) > 2):
        name = SAME_COMMAND.get(lower, lower)
        return [Token("command" if name[0].isalpha() else "sign", name, spaced)]
    if lower in CONNECTIVES:
        return [Token("word", lower, spaced)]
    if len(text) == 1 and not (quoted and text in UNIT_LETTERS):
        return [Token("symbol", text, spaced)]
    if len(text) == 2 and not quoted and lower not in TWO_LETTER_WORDS and text.isascii():
        return [Token("symbol", text[0], spaced), Token("symbol", text[1])]
    return [Token("word", lower, spaced)]


UNIT_LETTERS = frozenset("mgshlL")
TWO_LETTER_WORDS = frozenset("cm mm km kg mg ml ft in hr hz lb oz is to of no if we at by it as on be so do".split())


def _fraction(repeating: re.Match[str]) -> str:
    """0.1\\overline{6} is 15/90: the digits once through, less those before the bar, over as many nines and zeros."""
    whole, before, period = repeating.groups()
    top = int(whole + before + period) - int(whole + before or "0")
    return rf"\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(before)}}}"


def _plain(text: str) -> str:
    """One way of writing each thing: no delimiters, no spacing commands, text commands marked as quoted."""
    text = re.sub(r"[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(SUBSCRIPTS) + "}", text)
    text = "".join(UNICODE.get(character, character) for character in text)
    text = REPEATING.sub(_fraction, text)
    text = SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", text)
    text = LETTER_DEGREE.sub(r"^\\circ ", text)
    text = text.strip("*`_ \t\n\r")
    text = re.sub(r"\*\*(?![\w(\\])|(?<![\w)}])\*\*", " ", text)  # markdown; what stands between operands is a power
    text = re.sub(r"\\\\\s*\[[^\[\]]*(?:pt|ex|em|mm|cm)\]", r"\\\\ ", text)  # a row's end with extra space
    text = MATH_DELIMITER.sub(" ", text)
    if re.match(r"[^$]*\$[^$]*$", text):  # a single one is money
        text = re.sub(r"(?<!\\)\$(?=\s*[-\d.])", r"\\$", text)
    text = re.sub(r"(?<!\\)\$", " ", text)
    text = GROUPING.sub("", text)
    text = PAIR.sub(r"\1, ", text)  # (12,102) is two numbers
    text = re.sub(r"\\\\(?=\s*$)", "", text)
    # A row's end is two backslashes: what comes after it is no command of spacing.
    text = r"\\".join(DROPPED.sub(" ", part) for part in text.split(r"\\"))
    for _ in range(3):
        text, times = TEXT.subn(lambda m: QUOTED + m[1] + UNQUOTED, text)
        if not times:
            break
    text = re.sub(r"\\math(?:bb|cal|frak)\s*\{\s*R\s*\}|\\math(?:bb)\s*R(?![A-Za-z])", r"\\reals ", text)
    text = text.strip()
    return re.sub(r"[.,;:\s]+$", "", text) if not text.endswith("...") else text.replace("...", r"\ldots ")
