"""An upper bound of the input tokens of a request, whatever the server's tokenizer and chat template make of it."""

import json
import unicodedata
from collections.abc import Mapping
from typing import Literal

TEMPLATE_TOKENS_MAX = 256
"""What a chat template adds around the messages, including a default system prompt."""
FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


def input_tokens_max(texts: list[str], parameters: Mapping[str, object]) -> int:
    """The most tokens that messages of these texts have, with the parameters that are sent beside them.

    A token is at least one byte of UTF-8. Tools, schemas and arguments of the chat template are written into the
    prompt, some templates indent them, and some servers escape what is not ASCII.
    """
    tokens = sum(map(normalized_bytes_max, texts)) + TEMPLATE_TOKENS_MAX
    if parameters:
        indented = (json.dumps(parameters, indent=4, ensure_ascii=ascii_only) for ascii_only in (False, True))
        tokens += max(map(normalized_bytes_max, indented))
    return tokens


def normalized_bytes_max(text: str) -> int:
    """The bytes of UTF-8 of a text in the longest of its normal forms: tokenizers normalise before they count.

    U+FDFA becomes 18 characters by NFKC.
    """
    forms = () if text.isascii() else (unicodedata.normalize(form, text) for form in FORMS)
    return max(len(form.encode("utf-8", "surrogatepass")) for form in (text, *forms))
