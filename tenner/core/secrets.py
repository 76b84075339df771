"""API keys in texts: found where they should not be, and replaced where they can be told from words."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

LONG_CHARS, MIXED_CHARS = 24, 10
KEY_NAME = re.compile(
    r"(.*[-_])?(api[-_]?key|authorization|(access|auth|bearer)[-_]?token|bearer|passw(or)?d|secret([-_]key)?)",
    re.IGNORECASE,
)
"""Names of settings that hold a key."""
KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|gsk|xai|hf|nvapi|pplx)[-_](?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}"
    r"|AIza[A-Za-z0-9_-]{30,}|Bearer\s+[A-Za-z0-9._-]{12,})"
)
"""What looks like a provider's key."""


class KeyInSettings(ValueError):
    """A setting is or may be a key, which would be stored with the others. Messages must not repeat it."""


def key_in(where: str) -> KeyInSettings:
    """The error for a key in a setting."""
    return KeyInSettings(
        f"{where} holds a key, and settings are stored: put it into an environment variable, and name that by "
        "api_key_env"
    )


def refuse_key_in_url(url: str) -> None:
    """Raise KeyInSettings for a URL with a user, a password or a query, or with what looks like a key."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or KEY.search(url):
        raise key_in("the URL")
    if any(KEY_NAME.fullmatch(field.partition("=")[0]) for field in re.split("[&;?]", parts.query)):
        raise key_in("the query of the URL")


def refuse_key_in_parameters(value: object, name: str = "") -> None:
    """Raise KeyInSettings for a text in nested parameters that is, or is named like, a key."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            refuse_key_in_parameters(item, str(inner))
    elif isinstance(value, list):
        for item in value:
            refuse_key_in_parameters(item, name)
    elif isinstance(value, str) and value and (KEY_NAME.fullmatch(name) or KEY.search(value)):
        raise key_in(f"the parameter {name}" if KEY_NAME.fullmatch(name) else "a parameter")


def can_be_searched_for(key: str) -> bool:
    """Whether a key is so long, or so unlike a word, that a text that holds it can only mean the key."""
    mixed = len(key) >= MIXED_CHARS and re.search(r"\d", key) and re.search(r"[A-Za-z]", key)
    return bool(mixed) or len(key) >= LONG_CHARS


def redact_message(text: str, key: str) -> str:
    """A server's message with the key replaced; a short or wordlike one only where it stands alone."""
    if not key:
        return text
    if can_be_searched_for(key):
        return text.replace(key, "[key]")
    return re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "[key]", text)


def redact_body(body: bytes, key: str) -> bytes:
    """A response with the key replaced, if it can be told from a word: the texts of others stay as they came."""
    return body.replace(key.encode(), b"[key]") if key and can_be_searched_for(key) else body
