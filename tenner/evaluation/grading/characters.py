"""Full-width characters, East Asian punctuation, odd dashes and spaces, and the digits of all scripts as ASCII."""

import unicodedata

FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
PUNCTUATION = {
    "\u3000": " ", "\uff0c": ", ", "\u3001": ", ", "\u3002": ". ", "\uff61": ". ", "\uff1b": "; ",
    "\u3010": "[", "\u3011": "]", "\u300c": '"', "\u300d": '"', "\u300e": '"', "\u300f": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\ufe63": "-", "\u2009": " ", "\u202f": " ", "\u2062": "",
    "\u200b": "", "\ufeff": "", "\u00ad": "",
}  # fmt: skip
TABLE = FULL_WIDTH | {ord(character): ascii_ for character, ascii_ in PUNCTUATION.items()}
"""A full-width comma separates the items of a list: it becomes ", " so that it groups no digits."""


def as_ascii(text: str) -> str:
    """The text, composed (NFC), with the characters of the table and all decimal digits as ASCII."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    return "".join(character if character.isascii() else _ascii(character) for character in text)


def _ascii(character: str) -> str:
    if (known := TABLE.get(ord(character))) is not None:
        return known
    return str(unicodedata.decimal(character)) if character.isdecimal() else character
