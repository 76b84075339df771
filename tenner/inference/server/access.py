"""Who may use a server: everybody on this machine, or whoever has the key."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from tenner.core.errors import TennerError


def check_exposure(host: str, api_key: str | None) -> None:
    """Raise TennerError where a server without a key would answer other machines, and any page in a browser there."""
    if api_key is None and not is_loopback(host):
        raise TennerError(
            f"--host {host or repr(host)} lets other machines use this server without a key",
            hint="name the environment variable that holds a key with --api-key-env, or leave --host out",
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_loopback(host_header: str) -> bool:
    """Whether a Host header names this machine: a page that reaches it by DNS rebinding sends its own site's name."""
    try:
        return is_loopback(urlsplit(f"//{host_header}").hostname or "")
    except ValueError:  # malformed
        return False


def is_key(authorization: str, api_key: str) -> bool:
    """Whether an Authorization header has the key; takes the same time for every wrong one."""
    given = authorization.removeprefix("Bearer ")
    return hmac.compare_digest(_bytes(given), _bytes(api_key))


def _bytes(text: str) -> bytes:
    """Those that a header or the environment had, in whatever encoding."""
    return text.encode("utf-8", "surrogateescape")
