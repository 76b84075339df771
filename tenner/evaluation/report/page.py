"""The layout that all HTML pages of reports share: one file that opens offline and runs no script but its own."""

import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

HERE = Path(__file__).parent


def render(template: str, *, script: str = "", **values: Any) -> str:
    """A page of the layout; values are escaped. The page's policy names `script` by its hash, and allows no other."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = breakable
    script_hash = f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
    return environment.get_template(template).render(script=Markup(script), script_hash=script_hash, **values)


def breakable(text: str) -> Markup:
    """A cell's text, which may go on in another line after each slash: `provider/model` is longer than a column."""
    return escape(text).replace("/", Markup("/<wbr>"))
