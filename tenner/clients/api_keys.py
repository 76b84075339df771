"""API keys come from the environment alone, so that no file has to hold one."""

import os

from tenner.core.errors import TennerError


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
