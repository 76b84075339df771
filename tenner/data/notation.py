r"""Reads the spellings of one mathematical text alike: LaTeX, Unicode and HTML become words and ASCII operators.

What is treated as the same:

| spelling | as |
| --- | --- |
| HTML entities; composed, decomposed and full-width characters (NFKC) | the character |
| `√ ≤ × π ∠ ∞ ∈ …` (`SIGNS`, Greek letters) | the LaTeX command |
| `n²`, `n^2`, `n^{2}`, `n<sup>2</sup>`; `x₁`, `x_1`, `x_{1}` | `n ^ 2`; `x 1` |
| `\frac12`, `\frac{1}{2}`, `\dfrac12`, `{1 \over 2}`, `½`, `1/2` | `1 / 2` |
| `\binom{n}{k}`, `{n \choose k}` | `binom n k` |
| `90°`, `90º`, `90^\circ`, `90^{\circ}`, `90 degrees` | `90 degrees` |
| `△ABC`, `ΔABC`, `\Delta ABC`, `\triangle ABC` | `triangle ABC` |
| `1,250`, `1{,}250`, `1,\!250`, `1\,250` | `1250` (but not `1,2`, `1, 250` and the point `(1,250)`) |
| `\le`, `\leq`, `\leqslant`, `≤`, `<=`; other synonyms in `SYNONYMS` | one of them |
| `2×3`, `2\cdot 3`, `2*3` | `2 3` |
| `\left(`, `\mathrm{..}`, `\begin{align}`, `\dots` and others that change only the look (`LOOK`) | nothing |

Plain ASCII text, without LaTeX, entities, `^` and thousands separators, is only lowered.
"""

import html
import re
import unicodedata

FRACTION_DEPTH_MAX = 8
"""Fractions within fractions are read so far; the numerator of deeper ones is not told from what follows."""

LOOK = frozenset(
    """
    left right middle big bigg bigl bigr bigm biggl biggr biggm limits nolimits displaystyle textstyle scriptstyle
    scriptscriptstyle text textbf textit textrm textsc textsf texttt textup textnormal emph mathrm mathbf mathit mathsf
    mathtt mathbb mathcal mathfrak mathscr boldsymbol bold bm bbb bf it rm sf tt cal operatorname mathop mathrel mathbin
    mbox hbox ensuremath tiny small normalsize large huge quad qquad enspace thinspace hfill noindent centering par
    newline linebreak nonumber notag hline item colon dots ldots cdots dotsc dotsb dotsm dotsi hdots vdots ddots mid
    vert lvert rvert langle rangle lbrace rbrace lbrack rbrack prime bullet
    times cdot ast
    """.split()
)
"""LaTeX commands that change only the look, or stand for what is nothing in ASCII, punctuation and `*` (Markdown's
emphasis as well); what they are applied to stays."""
SYNONYMS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "neq": "ne", "div": "/", "over": "/", "plus": "+", "minus": "-",
    "equal": "=", "rightarrow": "to", "longrightarrow": "to", "implies": "to", "leftrightarrow": "iff",
    "longleftrightarrow": "iff", "pmod": "mod", "bmod": "mod", "dbinom": "binom", "tbinom": "binom", "bar": "overline",
    "widehat": "hat", "overrightarrow": "vec", "land": "wedge", "lor": "vee", "lnot": "neg", "varnothing": "emptyset",
    "degree": "degrees", "deg": "degrees", "measuredangle": "angle", "bigtriangleup": "triangle", "ell": "l",
    "varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho", "varsigma": "sigma", "varpi": "pi",
    "frac": "/", "dfrac": "/", "tfrac": "/", "cfrac": "/", "box": "square",
}  # fmt: skip
"""Other names of LaTeX commands, in lower case. A command that is not here is the word that it reads."""
SIGNS = {
    "√": "sqrt", "∛": "sqrt 3", "∜": "sqrt 4", "≤": "le", "≥": "ge", "⩽": "le", "⩾": "ge", "≠": "ne", "×": "times",  # noqa: RUF001
    "·": "cdot", "⋅": "cdot", "∙": "cdot", "∗": "ast", "÷": "div", "∕": "div", "⁄": "div", "±": "pm", "∓": "mp",  # noqa: RUF001
    "°": "degree", "∠": "angle", "∡": "angle", "△": "triangle", "∆": "triangle", "□": "square",
    "⊥": "perp", "∥": "parallel", "∞": "infty", "∈": "in", "∉": "notin", "∋": "ni", "∅": "emptyset", "⌀": "emptyset",
    "∪": "cup", "∩": "cap", "⊂": "subset", "⊆": "subseteq", "⊃": "supset", "⊇": "supseteq", "∖": "setminus",  # noqa: RUF001
    "∑": "sum", "∏": "prod", "∫": "int", "∮": "oint", "∂": "partial", "∇": "nabla", "∝": "propto", "∀": "forall",
    "∃": "exists", "¬": "neg", "∧": "wedge", "∨": "vee", "≡": "equiv", "≈": "approx", "≅": "cong", "∼": "sim",  # noqa: RUF001
    "≃": "simeq", "≪": "ll", "≫": "gg", "≺": "prec", "≻": "succ", "→": "to", "⟶": "to", "⇒": "to", "⟹": "to",
    "←": "leftarrow", "↔": "iff", "⇔": "iff", "⟺": "iff", "↦": "mapsto", "↑": "uparrow", "↓": "downarrow",
    "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "∘": "circ", "⊕": "oplus", "⊗": "otimes", "⊙": "odot",
    "⋆": "star", "★": "star", "⋄": "diamond", "∴": "therefore", "∵": "because", "ħ": "hbar", "ℵ": "aleph",
    "∣": "mid", "′": "prime", "•": "bullet", "…": "dots", "⋯": "dots", "⋮": "vdots", "⋱": "ddots",  # noqa: RUF001
    "∤": "nmid", "∦": "nparallel", "⊄": "not \\subset", "⊈": "not \\subseteq",
}  # fmt: skip
"""The LaTeX commands of mathematical characters, as they are after NFKC."""
GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρσςτυφχψω",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau "
        "upsilon phi chi psi omega".split(),
        strict=True,
    )
)
ENVIRONMENTS = (
    "align aligned alignat alignedat gather gathered equation eqnarray multline split displaymath math array tabular "
    "center flushleft itemize enumerate document"
).split()
"""LaTeX environments that change only the look."""

_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_TAG = re.compile(r"<(?:(sup)|/sup|/?(?:sub|b|i|u|em|strong|p|span|div|br)\s*/?)>", re.I)
# Runs of superscripts and subscripts, vulgar fractions and thin spaces: NFKC would glue them to what is before them.
_SCRIPT = re.compile("([²³¹⁰ⁱ⁴-ⁿᵃ-ᵪʰ-ʸ]+)|([₀-ₜᵢ-ᵪⱼ]+)|([¼-¾⅐-⅞↉])|[\u2009\u202f]")
_NAMES = str.maketrans(
    {sign: f"\\{name} " for sign, name in SIGNS.items()}
    | dict.fromkeys("−–‐‑‒⁃", "-")  # noqa: RUF001
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff\ufe0e\ufe0f", "")
)
# Short runs of Greek letters are variables; longer ones are words of Greek.
_GREEK = re.compile(r"(?<![\u0370-\u03ff\u1f00-\u1fff])[α-ωΑ-Ω]{1,3}(?![\u0370-\u03ff\u1f00-\u1fff])")  # noqa: RUF001
_TRIANGLE = re.compile(r"(?:Δ|\\Delta)(?=\s*[A-Z]{3}(?![A-Za-z]))")
_SEPARATOR = r"(?:,\\!|\{?\\?,\}?)"
_MAYBE_THOUSANDS = re.compile(r",(?:\\!|\})?\d\d\d")
_THOUSANDS = re.compile(rf"(?<![\d.,])[1-9]\d{{0,2}}(?:{_SEPARATOR}\d{{3}})++(?!\d|,\d)")
_PUNCTUATION = re.compile(r"\D+")
_GROUP = r"\{((?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+)\}"
_ARGUMENTS = re.compile(rf"\\[dtc]?(frac|binom)\s*+(?:{_GROUP}|([a-z\d]|\\[a-z]+))\s*+([a-z\d])?")
_CHOOSE = re.compile(r"\{((?:[^{}]|\{[^{}]*+\})*?)\\choose(?![a-z])((?:[^{}]|\{[^{}]*+\})*+)\}")
_RADICAND = re.compile(r"\\sqrt\s*+(\d++)(?=[a-z])")
_LOG_BASE = re.compile(r"(\\log\s*_\s*\d)(?=\d)")
_LONE_VARIABLE = re.compile(r"\{(?<=\d\{)([a-z])\}(?![a-z\d])")
# An exponent or index without braces ends before a letter; a letter is one alone, but for ordinals: 10^th.
_SCRIPT_END = re.compile(
    r"([\^_](?:(?<=\^)|(?<=[a-z\d)\]}]_))(?:\d++(?=[a-z])|[a-z](?=[a-z\d])))(?!(?<=[snrt])(?:t|d|h)\b)"
)
_SUPERSCRIPT_SIGN = re.compile(r"\^[\s{]*+\\++(?:(circ|degree)|prime)(?![a-z])")
# JSON escaped twice has two backslashes before each command; a word after a line break is read alike.
_COMMAND = re.compile(
    rf"\\\\?(?:(?:begin|end)\s*\{{(?:{'|'.join(ENVIRONMENTS)})(?:\\?\*)?\}}(?:\[[a-z]\])?(?:\{{[lcr|\s]*\}})?"
    r"|(?:label|tag|[hv]space)\*?\s*\{[^{}]*\}|(?<=\\\\)\[[\d.]+[a-z]+\]|([a-z]+)|[^a-z\\]?)"
)


def plain(text: str) -> str:
    """The text in lower case, with the spellings above brought to one."""
    if "Δ" in text or "\\Delta" in text:
        text = _TRIANGLE.sub(r"\\triangle ", text)
    if "&" in text:
        text = _ENTITY.sub(lambda m: html.unescape(m[0]), text)
    if "</" in text:
        text = _TAG.sub(lambda m: "^{" if m[1] else "} ", text)
    if not text.isascii():
        text = _latex(text)
    text = text.casefold()
    if _MAYBE_THOUSANDS.search(text):
        text = _THOUSANDS.sub(_joined, text)
    if "{" in text:
        text = _LONE_VARIABLE.sub(r"\1", text)
    if "\\choose" in text:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    if "\\" in text:
        return _without_latex(text)
    return _SCRIPT_END.sub(r"\1 ", text) if "^" in text or ("_" in text and text.count("$") > 1) else text


def _latex(text: str) -> str:
    """Text with LaTeX for mathematical characters, the others in their normal form."""
    text = _SCRIPT.sub(_spelled_out, text)
    text = unicodedata.normalize("NFKC", text.replace("º", "°")).translate(_NAMES)  # NFKC has an o for the ordinal sign
    return _GREEK.sub(lambda m: "".join(f"\\{GREEK[letter]} " for letter in m[0].lower()), text)


def _spelled_out(match: re.Match[str]) -> str:
    characters = unicodedata.normalize("NFKC", match[0])
    if match[1]:
        return f"^{{{characters}}} "
    return f" {characters} " if match[2] or match[3] else r"\,"


def _joined(match: re.Match[str]) -> str:
    """A number without its separators, unless it is two numbers in brackets."""
    before, after = match.string[max(0, match.start() - 2) : match.start()], match.string[match.end() : match.end() + 1]
    if before.removesuffix("-").endswith(("(", "[")) and after in (")", "]"):
        return match[0]
    return _PUNCTUATION.sub("", match[0])


def _without_latex(text: str) -> str:
    """Text with words and operators for LaTeX commands."""
    text = text.replace("{}", " ").replace("\\_", "_")
    if "frac" in text or "binom" in text:
        for _ in range(FRACTION_DEPTH_MAX):
            text, found = _ARGUMENTS.subn(_apart, text)
            if not found or "frac" not in text:
                break
    if "\\sqrt" in text:
        text = _RADICAND.sub(r"\\sqrt \1 ", text)
    if "\\log" in text:
        text = _LOG_BASE.sub(r"\1 ", text)
    if "^" in text or "_" in text:
        text = _SUPERSCRIPT_SIGN.sub(lambda m: " degrees " if m[1] else " ", text)
        text = _SCRIPT_END.sub(r"\1 ", text)
    # Every other part is the name of a command, or None for what is only layout.
    parts = _COMMAND.split(text)
    parts[1::2] = [_COMMANDS[name] for name in parts[1::2]]
    return "".join(parts)


def _apart(match: re.Match[str]) -> str:
    """The arguments of a fraction with `/` between them, of a binomial behind its name."""
    kind, group, single, second = match.groups()
    first = single if group is None else group
    sign, between = ("", "/") if kind == "frac" else ("binom", "")
    return f" {sign} {first} {between} {second or ''} "


class _Commands(dict[str | None, str]):
    """What is read for a LaTeX command."""

    def __missing__(self, name: str | None) -> str:
        return f" {name} "


_COMMANDS = _Commands(
    {name: f" {name} " for name in (*SIGNS.values(), *GREEK.values(), *"begin end sin cos tan log ln overline".split())}
    | dict.fromkeys((None, *LOOK), " ")
    | {name: f" {same} " for name, same in SYNONYMS.items()}
)
