"""The chat page: its files, and the headers that they are served with."""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import NamedTuple

from aiohttp import web

FOLDER = resources.files("tenner.inference.server") / "web"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".woff2": "font/woff2"}
INDEX = "index.html"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Only files and answers of this server; no text can become a script."""
FILES = (
    INDEX, "page.css", "page.js", "formatted_text.js", "vendor/markdown-it.umd.min.js", "vendor/temml.min.js",
    "vendor/Temml-Local.css", "vendor/Temml.woff2",
)  # fmt: skip


class _File(NamedTuple):
    """A file in memory; text is in UTF-8."""

    body: bytes
    media_type: str

    async def respond(self, _: web.Request) -> web.Response:
        charset = "utf-8" if self.media_type.startswith("text/") else None
        return web.Response(body=self.body, content_type=self.media_type, charset=charset, headers=HEADERS)


def routes() -> list[web.RouteDef]:
    """The page at `/`, and all that it loads under `/web/`."""
    found = []
    for name in FILES:
        file = _File(FOLDER.joinpath(name).read_bytes(), MEDIA_TYPES[f".{name.rpartition('.')[2]}"])
        respond: Callable[[web.Request], Awaitable[web.StreamResponse]] = file.respond
        found.append(web.get("/" if name == INDEX else f"/web/{name}", respond))
    return found
