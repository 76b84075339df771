"""API keys come from the environment alone, so that no file has to hold one."""

import os

from tenner.core.errors import TennerError
from tenner.core.secrets import can_be_searched_for
from tenner.core.sections import PaidModel


def key_in_environment(variable: str | None) -> str:
    """The key in an environment variable; empty if `variable` is None. Raises TennerError if the variable is empty."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TennerError(
            f"the environment variable {variable} holds no key", hint=f"export {variable}=… and try again"
        )
    return key


def refuse_in_settings(key: str, section: PaidModel) -> None:
    """Raise TennerError where the key also stands in the settings, which are stored and shown."""
    if not key or not can_be_searched_for(key):
        return
    for name, value in section.model_dump().items():
        if key in str(value):
            raise TennerError(
                f"{section.PLACE}.{name} holds the key, and settings are stored",
                hint="leave it out there: the key is taken from the environment variable of api_key_env",
            )


def search_warning(key: str) -> str | None:
    """What to tell about a key that is not looked for in replies; None for any other."""
    if not key or can_be_searched_for(key):
        return None
    return (
        "warning: the key is short or like a word, so it is not looked for in replies: a server that repeats it there "
        "has it stored"
    )
