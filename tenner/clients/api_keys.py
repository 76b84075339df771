"""Where a key comes from: the environment, and nowhere else, so that no file has to hold one."""

import os

from tenner.core.errors import TennerError


def key_in_environment(variable: str | None) -> str:
    """The key in an environment variable; empty where none is named. Raises TennerError where it holds none."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TennerError(
            f"the environment variable {variable} holds no key", hint=f"export {variable}=… and try again"
        )
    return key
