"""LaTeX that changes how an answer looks and not what it says: colours, underlining, sizes, spacing, labels."""

import re

SWITCHES = (
    "underline uline emph uuline tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge scriptstyle "
    "scriptscriptstyle displaystyle textstyle boldmath bfseries itshape nonumber notag enspace thinspace hfill "
    "checkmark blacksquare square qed centering noindent relax framebox ensuremath fbox"
).split()
"""Commands that are dropped; a group that follows stays."""
WITH_ARGUMENT = "color textcolor colorbox hspace vspace hphantom phantom vphantom tag label class style".split()
"""Commands that are dropped together with their first argument: a colour, a length, a label."""

DECORATION = re.compile(
    r"(?P<row>\\\\)"
    rf"|\\(?:{'|'.join(SWITCHES)})(?![A-Za-z])\*?"
    rf"|\\fcolorbox\s*\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}}"
    r"|\\bbox(?:\[[^\[\]]*\])?(?=\s*\{)"
    r"|\\text\s*\{\s*[.,;]?\s*\}\s*$"
    rf"|\\(?:{'|'.join(WITH_ARGUMENT)})\*?\s*(?:\[[^\[\]]*\]\s*)?\{{[^{{}}]*\}}"
)
PICTURES = (
    "".join(chr(code) for low, high in ((0x25A0, 0x27BF), (0x1F300, 0x1FAFF)) for code in range(low, high + 1))
    + "\u220e\ufe0f"
)
"""Check marks and pictures behind an answer."""
TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textsc|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|"
    r"operatorname|boldsymbol|bm|rm|bf)(?![A-Za-z])\*?"
)
QUOTED_TEXT = re.compile(rf"(?:{TEXT_COMMAND.pattern})\s*\{{([^{{}}]*)\}}")
TAG = re.compile(r"</?(?:b|i|u|em|strong|mark|span|p|br|center)(?:\s[^<>]{0,40})?/?>")
ESCAPED = re.compile(r"\\([_&%#])")
DELIMITERS = re.compile(r"\\[()\[\],;:! ]|(?<!\\)\$")
FULL_STOP = re.compile(r"(?<=[A-Za-z][a-z])\.\s*\}$")
GROUP = re.compile(r"^\{([^{}]*)\}$")
LEADING_SIGN = re.compile(r"^(\$*)\s*(?:(?:\\(?:therefore|implies|Rightarrow|Longrightarrow|to)(?![A-Za-z])|=)\s*)+")


def undecorated(text: str) -> str:
    """The text without decoration. A group that was only part of it keeps its braces."""
    if not text.isascii():
        text = text.rstrip(PICTURES)
    if "</" in text:
        text = TAG.sub("", text)
    if "\\" in text:
        plain = DECORATION.sub(lambda match: match["row"] or " ", text).strip()
        text = FULL_STOP.sub("}", GROUP.sub(r"\1", plain) if plain != text else text)
    return LEADING_SIGN.sub(r"\1", text).strip()


def unquoted(text: str) -> str:
    """The text without text commands: `\\mathrm{H_2O}` and `\\text{H}_2\\text{O}` are H_2O.

    Text with powers or other commands stays as it is, as braces matter there; so do spaces: 2 1/3 is not 21/3.
    """
    plain = QUOTED_TEXT.sub(r"\1", text)
    return text if "\\" in plain or "^" in plain else " ".join(plain.split())


def as_text(text: str) -> str:
    """An answer in words, without the LaTeX around it: `$\\text{Alice}$` and `\\textbf{Alice}` are Alice."""
    without = ESCAPED.sub(r"\1", DELIMITERS.sub(" ", TEXT_COMMAND.sub("", text)))
    if without == text:
        return text
    return " ".join(without.replace("{", "").replace("}", "").split())
