"""Mathematical notation as tokens: LaTeX, plain text and Unicode say the same thing with the same tokens."""

import re
from typing import Literal, NamedTuple

from tenner.evaluation.grading.maths.unit_symbols import SI_SYMBOLS

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
    "“": " ", "”": " ", "‘": " ", '"': " ", "Ω": r"\Omega ", "µ": r"\mu ", "¥": r"\yen ", "₹": r"\rupee ",
    "₩": r"\won ", "‒": "-", "≈": r"\approx ", "≅": r"\approx ", "≡": r"\equiv ", "′": "'", "″": "''",
    "ℤ": r"\mathbb{Z}", "∖": r"\setminus ", "∛": r"\sqrt[3]", "₽": r"\text{ ruble}", "¢": r"\text{ cent}",
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
    "abs": "abs", "colon": ":", "cosec": "csc", "isin": "in", "varnothing": "emptyset", "thickapprox": "approx",
    "simeq": "approx", "backslash": "setminus", "nicefrac": "frac", "sfrac": "frac", "lor": "or", "vee": "or",
    "equiv": "=",
}  # fmt: skip
FUNCTIONS = frozenset(
    ("sin cos tan cot sec csc asin acos atan sinh cosh tanh log ln exp sqrt abs floor ceil lg factorial cbrt").split()
)
PLAIN_NAMES = FUNCTIONS | frozenset(
    (
        "pi theta alpha beta gamma lambda infinity inf oo infty arcsin arccos arctan degrees degree deg percent "
        "percentage pct union cup phi mu omega sigma epsilon delta gcd lcm max min"
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
    r"\\(?:text|mbox|hbox|textbf|textit|textrm|textnormal|textsf|texttt|textsc|emph|operatorname\*?|mathrm|mathbf|mathit|mathsf|mathtt"
    r"|bold|boldsymbol|bm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
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
SCIENTIFIC = re.compile(  # 2e-3 may be 2e - 3; with a point, a capital or two digits (as computers print it) it is not
    r"(?<![\w.])([0-9]+\.[0-9]+(?:e|E)[-+]?[0-9]{1,4}|[0-9]+E[-+]?[0-9]{1,4}|[0-9]+e[-+]?[0-9]{2,4})(?!\w)"
)
SPACED_GROUPS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3}){1,12}(?![0-9 ]{0,4}[0-9/])")
CLOCK = re.compile(
    r"(?<=:[0-9][0-9])\s*(?:\\(?:text|mathrm)\s*\{\s*([aApP])\.?\s?[mM]\.?\s*\}|([aApP])\.?[mM](?:\.|(?![A-Za-z])))"
)
MICRO = re.compile(
    r"(?<=[0-9}\s{])(?:\\[ ,;]|~|\s)*\\mu\s*(?:\\(?:text|mathrm)\s*\{\s*([A-Za-z])\s*\}|([A-Za-z])(?![A-Za-z]))"
)
OHM = re.compile(
    r"(?:(?<=[0-9])|(?<=[0-9}][\s~])|(?<=\\[ ,;])|(?<=\{))\s*"
    r"(?:\\(?:text|mathrm)\s*\{\s*(?P<quoted>[kMm]?)\s*\}|(?P<prefix>[kMmG]))?\s*\\(?:Omega|ohm)(?![A-Za-z])"
)
KNOWN_SETS = {"Z": "integers", "Q": "rational numbers", "C": "complex numbers"}
KNOWN_SET = re.compile(r"\\mathbb\s*(?:\{\s*(?=[ZQC]\s*\}))?(?P<set>[ZQC])(?:\s*\}|(?![A-Za-z]))(?!\s*[\^_])")
UNIT_VECTORS = ("unit vector i", "unit vector j", "unit vector k")
UNIT_VECTOR = re.compile(
    r"\\(?P<style>mathbf|boldsymbol|bm|vec|hat|widehat|overrightarrow)\s*"
    r"(?:\{\s*(?:\\(?:mathbf|boldsymbol)\s*\{\s*)?\\?(?P<name>[ijk]|imath|jmath)\s*\}?\s*\}|\\?(?P<bare>[ijk]|imath|jmath)(?![A-Za-z]))"
)
CHOOSE = re.compile(
    r"(?:\{\s*\})?[\^_]\s*\{?\s*([0-9]{1,4})\s*\}?\s*(?:\\(?:text|mathrm)\s*\{\s*C\s*\}|C)\s*_\s*\{?\s*([0-9]{1,4})\s*\}?"
)
DEGREES_AND_MINUTES = re.compile(
    r"(?<![0-9.])([0-9]{1,3})\s*(?:°|\^\s*\\circ|\^\s*\{\s*\\circ\s*\})\s*([0-9]{1,2})\s*(?:['′’](?!['′’])|\^\s*\{?\\prime\}?)"
    r"(?:\s*([0-9]{1,2})\s*(?:''|\"|″|’’|”))?"
)
RATIO_IN_WORDS = re.compile(r"(?<=[0-9])\s*(?:\\text\s*\{\s*to\s*\}|(?<=\s)to(?=\s))\s*(?=[0-9])")
BOLD_REALS = re.compile(r"(?:^|(?<=\\in)|(?<=∈))\s*\\mathbf\s*(?:\{\s*R\s*\}|R)\s*$")
MODULUS = re.compile(
    r"\\pmod\s*\{?\s*([1-9][0-9]{0,8})\s*\}?"
    r"|\(\s*(?:\\(?:bmod|mod|(?:text|mathrm|operatorname)\s*\{\s*mod\s*\})|mod)(?:\\[ ,;]|~|\s)*([1-9][0-9]{0,8})\s*\)"
)
"""3 \\pmod 7 and 3 (mod 7); without brackets it may be computed."""
FEET_AND_INCHES = re.compile(r"""(?<![0-9.])([0-9]{1,6})\s*['′’]\s*([0-9]{1,2})\s*(?:''|"|″|’’|”)""")
ITEM_WORDS = r"(?:(?P<or>或者?|または|또는|или)|和|与|與|及|以及|および|と|와|과|그리고|и)"
BETWEEN_ITEMS = re.compile(rf"(?<=[0-9A-Za-z)\]}}$])\s*{ITEM_WORDS}\s*(?=[-0-9A-Za-z(\[{{$\\])")
"""Chinese, Japanese, Korean and Russian for "and" and "or", between what is not words of these languages."""
LETTER_DEGREE = re.compile(r"(?<=[0-9])\s*\^\s*(?:\{\s*(?:\\text\{\s*o\s*\}|o)\s*\}|o)(?![A-Za-z])")
PAIR = re.compile(r"(?<=[(\[{])(\s*[0-9]{1,3}),(?=[0-9]{3}\s*(?:[)\]]|\\\}))")
QUOTED, UNQUOTED = "\x01", "\x02"
ROWLESS = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|gathered|split|align\*?|gather\*?)\}")
NEXT_EQUATION = re.compile(
    r"(?<=[^\s,;\\])\s*(?:\\\\|\\newline|\\q?quad)\s*(?=[A-Za-z](?:_(?:\{\w{1,5}\}|\w))?\s*(?:=|\\(?:in|le|ge|ne)q?(?![A-Za-z])|[<>]))"
)
"""Where one equation ends and another begins: a new line, or a wide space."""
SPACED_EQUATIONS = re.compile(r"(=\s*-?(?:[0-9]+(?:\.[0-9]+)?|\\frac\{[^{}]*\}\{[^{}]*\}))\s+(?=[A-Za-z]\s*=)")
"""x = 3 y = 5, which is no chain."""
OVER = re.compile(r"\{\s*([^{}\\]{1,80})\\over(?![A-Za-z])\s*([^{}\\]{1,80})\}")
DECIMAL_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{1,2}(?![0-9])|[0-9]{4})|(?<=(?<![0-9.])0)\{,\}(?=[0-9])")
"""0{,}5 is 0.5; before three digits it groups, but for a zero."""
DIGIT_GROUPS = re.compile(r"(?<![\w.,'])[0-9]{1,3}(?P<mark>[.'_])[0-9]{3}(?:(?P=mark)[0-9]{3})+(?![\w]|[.'][0-9])")
"""1.250.000, 1'250'000 and 1_250_000; one such group alone may be something else."""
INDIAN_GROUPS = re.compile(
    r"((?:\u20b9|\\rupee|(?<![A-Za-z])Rs\.?|INR)\s*)([0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9,])"
)
CURRENCY_CODES = {"USD": r"\$", "US": r"\$", "EUR": r"\euro ", "GBP": r"\pounds ", "Rs": r"\rupee ", "INR": r"\rupee "}
CURRENCY_CODE = re.compile(
    r"(?<![A-Za-z\\])(?:\\text\s*\{\s*)?(?P<code>USD|US(?=\s*\\?\$)|EUR|GBP|Rs|INR)\.?\s*\}?\s*(?:\\?\$)?\s*(?=[0-9])"
)
ORDINAL = re.compile(
    r"(?<=[0-9])(?:\^\s*\{\s*\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}|\^\s*\{\s*(?:st|nd|rd|th)\s*\}"
    r"|\\text\s*\{\s*(?:st|nd|rd|th)\s*\}|(?:st|nd|rd|th)(?![A-Za-z]))"
)
THE_NTH, EACH = re.compile(r"第(?=\s*[0-9])"), re.compile(r"(?<=[\u4e00-\u9fff])每(?=[\u4e00-\u9fff])")
"""Chinese: the third, and per."""
TIMES_X = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")
SQUARE_OR_CUBIC = re.compile(r"(?<![A-Za-z\\])(sq|cu)\.?\s+(?=[a-z])")
UNIT_RATIO = re.compile(
    r"(?<=[0-9}])(?:\\[ ,;]|~|\s)*([A-Za-z]{1,4})\s*/\s*\(\s*([A-Za-z]{1,4})\s*(?:[·\u22c5*\s]|\\cdot)"
    r"\s*(°?[A-Za-z]{1,4})\s*\)"
)
SIMPLE_RATIO = re.compile(r"(?<=[0-9}])(?:\\[ ,;]|~|\s)+([A-Z])/([A-Za-z]{2,4})(?![A-Za-z(^])")
"""J/mol, whose first letter alone would be a factor."""
FOREIGN_INTERVAL = re.compile(r"\s*(?P<low>[\[\]])(?P<ends>[^\[\]]{1,80}[,;][^\[\]]{1,80})(?P<high>[\[\]])\s*")
BARE_SET = re.compile(r"(^|\\in|∈)\s*\{([^{}]*,[^{}]*|)\}(?=\s*$)")
SI_NUMBER = re.compile(r"\\num\s*\{([^{}]*)\}")
SI_QUANTITY = re.compile(r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}|\\(?:si|unit)\s*\{([^{}]*)\}")


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
        tokens = _tokens(kind, match[kind], spaced=spaced, quoted=quoted)
        if kind == "word" and _is_unit(match[kind], found, spaced=spaced, quoted=quoted):
            tokens = [Token("word", match[kind], spaced)]  # with its case: mW is not MW
        found.extend(tokens)
        spaced = False
    return found


def _tokens(kind: str, text: str, *, spaced: bool, quoted: bool) -> list[Token]:
    if kind == "number":
        return [Token("number", text.replace(",", ""), spaced)]
    if kind == "command":
        text = SAME_COMMAND.get(text, text)
        if text.startswith("unitvector"):
            return [Token("symbol", f"unit vector {text[-1]}", spaced)]
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
    if len(text) == 1 and text < FIRST_NON_LATIN_LETTER and not (quoted and text in UNIT_LETTERS):
        return [Token("symbol", text, spaced)]
    if len(text) == 2 and not quoted and lower not in TWO_LETTER_WORDS and text.isascii():
        return [Token("symbol", text[0], spaced), Token("symbol", text[1])]
    return [Token("word", lower, spaced)]


def _is_unit(symbol: str, before: list[Token], *, spaced: bool, quoted: bool) -> bool:
    """Whether a word is the symbol of a unit, and stands where one can: behind a number, or behind another unit.

    In roman type any unit is one; in italics only those of mixed case, as "ms" may be m times s.
    """
    if symbol not in SI_SYMBOLS or not before:
        return False
    last = before[-1]
    if quoted:
        return (last.kind in ("number", "word") and last.text not in CONNECTIVES) or last.text in (
            "}",
            ")",
            "cdot",
            "/",
            "pi",
            "*",
        )
    mixed = symbol.lower() != symbol and len(symbol) > 1 and not symbol.isupper()
    return spaced and (mixed or len(symbol) > 2) and (last.kind == "number" or last.text == "}")


ENDS_OF_OPERANDS = frozenset(("}", ")", "cdot", "/", "pi", "*"))
FIRST_NON_LATIN_LETTER = "\u0400"
"""Greek letters are symbols; a single Cyrillic, Chinese or Japanese character is a word."""
UNIT_LETTERS = frozenset("mgshlL")
TWO_LETTER_WORDS = frozenset("cm mm km kg mg ml ft in hr hz lb oz is to of no if we at by it as on be so do".split())


def _fraction(repeating: re.Match[str]) -> str:
    """0.1\\overline{6} is 15/90: the digits once through, less those before the bar, over as many nines and zeros."""
    whole, before, period = repeating.groups()
    top = int(whole + before + period) - int(whole + before or "0")
    return rf"\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(before)}}}"


def _degrees(match: re.Match[str]) -> str:
    """30°15' as a fraction of degrees, in seconds."""
    seconds = 3600 * int(match[1]) + 60 * int(match[2]) + int(match[3] or 0)
    return rf"\frac{{{seconds}}}{{3600}}^\circ "


def _power_of_ten(scientific: re.Match[str]) -> str:
    mantissa, exponent = scientific[0].lower().split("e")
    return rf"{mantissa}\cdot 10^{{{int(exponent)}}}"


def _usual(text: str) -> str:
    """What only some write, as others do: currencies by their codes, groups of digits, siunitx, French intervals."""
    text = SI_QUANTITY.sub(lambda m: rf"{m[1] or ''}\text{{ {_unit_in_macros(m[2] or m[3] or '')}}}", text)
    text = SI_NUMBER.sub(r"\1", text)
    text = INDIAN_GROUPS.sub(lambda m: m[1] + m[2].replace(",", ""), text)
    text = CURRENCY_CODE.sub(lambda m: CURRENCY_CODES[m["code"]], text)
    text = DIGIT_GROUPS.sub(lambda m: m[0].replace(m["mark"], ""), text)
    text = DECIMAL_COMMA.sub(".", text)
    text = OVER.sub(r"\\frac{\1}{\2}", text)
    text = ORDINAL.sub("", text)
    text = SQUARE_OR_CUBIC.sub(lambda m: {"sq": "square ", "cu": "cubic "}[m[1]], text)
    text = SIMPLE_RATIO.sub(_quoted_unit, UNIT_RATIO.sub(_quoted_unit, text))
    text = BOLD_REALS.sub(r" \\mathbb{R}", RATIO_IN_WORDS.sub(":", text))
    text = EACH.sub("/", THE_NTH.sub("", text))
    text = text.replace("+/-", r"\pm ").replace(r"\!:", ":").replace(r":\!", ":")
    text = BARE_SET.sub(r"\1\\{\2\\}", text)
    if r"\\" not in text and "&" not in text:
        text = ROWLESS.sub(" ", text)
    if r"\begin" not in text:
        text = SPACED_EQUATIONS.sub(r"\1, ", NEXT_EQUATION.sub(", ", text))
    if (interval := FOREIGN_INTERVAL.fullmatch(text)) and (interval["low"], interval["high"]) != ("[", "]"):
        low, high = {"[": "[", "]": "("}[interval["low"]], {"[": ")", "]": "]"}[interval["high"]]
        text = f"{low}{interval['ends'].replace(';', ',')}{high}"
    return text


def _unit_in_macros(macros: str) -> str:
    r"""The unit that siunitx writes as \meter\per\second\squared, in words."""
    return macros.replace(r"\per", "/").replace("\\", " ").strip()


def _quoted_unit(ratio: re.Match[str]) -> str:
    """J/mol and J/(mol·K) as text, if the letters are the symbols of units; a degree of difference is a kelvin."""
    top, *bottom = ("K" if name == "°C" else name for name in ratio.groups())
    return rf"\text{{ {top}/({' '.join(bottom)})}}" if SI_SYMBOLS.keys() >= {top, *bottom} else ratio[0]


def _plain(text: str) -> str:
    """One way of writing each thing: no delimiters, no spacing commands, text commands marked as quoted."""
    text = _usual(text)
    text = MODULUS.sub(lambda m: rf"\modulo {m[1] or m[2]}", text)
    text = DEGREES_AND_MINUTES.sub(_degrees, text)
    text = FEET_AND_INCHES.sub(lambda m: rf"{12 * int(m[1]) + int(m[2])}\text{{ inches}}", text)
    text = BETWEEN_ITEMS.sub(lambda m: " or " if m["or"] else " and ", text)
    if len({(m["name"] or m["bare"])[0] for m in UNIT_VECTOR.finditer(text)}) > 1:  # one alone may be imaginary
        text = UNIT_VECTOR.sub(lambda m: rf"\unitvector{(m['name'] or m['bare'])[0]} ", text)
    text = re.sub(r"[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(SUBSCRIPTS) + "}", text)
    text = "".join(UNICODE.get(character, character) for character in text)
    text = REPEATING.sub(_fraction, text)
    text = SCIENTIFIC.sub(_power_of_ten, text)
    text = re.sub(r"(?<![\w}.])([0-9]{1,4})\s*\\choose\s*([0-9]{1,4})(?!\w)", r"\\binom{\1}{\2}", text)
    text = CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = SPACED_GROUPS.sub(lambda m: m[0].replace(" ", ""), text)
    text = TIMES_X.sub(r"\\cdot ", text)
    text = CLOCK.sub(lambda m: rf"\text{{{m[1] or m[2]}m}}", text)
    text = MICRO.sub(lambda m: rf"\text{{ μ{m[1] or m[2]}}}", text)
    text = OHM.sub(lambda m: rf"\text{{ {m['prefix'] or m['quoted'] or ''}Ω}}", text)
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
    text = re.sub(r"\\+\s*$", "", text)
    # A row's end is two backslashes: what comes after it is no command of spacing.
    text = r"\\".join(DROPPED.sub(" ", part) for part in text.split(r"\\"))
    for _ in range(3):
        text, times = TEXT.subn(lambda m: QUOTED + m[1] + UNQUOTED, text)
        if not times:
            break
    text = KNOWN_SET.sub(lambda m: f"{QUOTED}all {KNOWN_SETS[m['set']]}{UNQUOTED}", text)
    text = re.sub(r"\\math(?:bb|cal|frak)\s*\{\s*R\s*\}|\\math(?:bb)\s*R(?![A-Za-z])", r"\\reals ", text)
    text = text.strip()
    return re.sub(r"[.,;:\s]+$", "", text) if not text.endswith("...") else text.replace("...", r"\ldots ")
