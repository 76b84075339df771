"""The frame of the report's charts: panels drawn by matplotlib become SVG text that the page can hold."""

import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Width = Literal["wide", "narrow"]
PANEL_GAP_PT = 7
WIDTH_PT: dict[Width, float] = {"wide": 520, "narrow": 300}

NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # nothing that differs between identical runs


class Ink(NamedTuple):
    """A colour as matplotlib draws it (light paper) and its name and dark twin in the SVG's style sheet."""

    light: str
    name: str
    dark: str


TEXT = Ink("#3a3d42", "text", "#c6c9ce")
RULE = Ink("#dcdee1", "rule", "#34383e")
BASE = Ink("#9a6412", "base", "#d9a55a")
DISTILLED = Ink("#1259b8", "distilled", "#78b0ff")
INKS = (TEXT, RULE, BASE, DISTILLED)
STUDENT_INKS = {"base": BASE, "distilled": DISTILLED}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the reader's own font
    "svg.hashsalt": "tenner",  # the same run gives the same bytes
    "font.family": ["DejaVu Sans"],  # measured with the font that comes with matplotlib
    "font.size": 10,
    "text.color": TEXT.light,
    "axes.labelcolor": TEXT.light,
    "axes.edgecolor": RULE.light,
    "xtick.color": TEXT.light,
    "ytick.color": TEXT.light,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def plain_axes(axes: Axes, heading: str, *, grid: Literal["x", "y"] = "y") -> None:
    """The report's look of a panel: a heading at the left, and fine lines across."""
    axes.set_title(heading, loc="left", fontsize=10, x=0)
    axes.grid(True, axis=grid, color=RULE.light, linewidth=0.8)


def svg(
    name: str, draws: Sequence[Callable[[Axes], None]], width: Width, heights_pt: Sequence[float], *, title: str,
    description: str,
) -> str:  # fmt: skip
    """Draw panels below each other into an SVG that scales, follows the light or dark mode, and can be read aloud."""
    name, width_pt, height_pt = f"{name}-{width}", WIDTH_PT[width], sum(heights_pt)
    gap = {"figure.constrained_layout.h_pad": PANEL_GAP_PT / 72} if len(draws) > 1 else {}
    with mpl.rc_context(STYLE | gap):
        figure = Figure(figsize=(width_pt / 72, height_pt / 72), layout="constrained")
        grid = figure.add_gridspec(len(draws), 1, height_ratios=list(heights_pt))
        for number, draw in enumerate(draws):
            draw(figure.add_subplot(grid[number]))
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata=NO_METADATA)
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = drawing.replace("'DejaVu Sans'", "system-ui, sans-serif")
    # On a page with other charts: no shared ids, and no style that reaches beyond the chart.
    drawing = drawing.replace('<style type="text/css">*{', "<style>.chart * {")
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    for ink in INKS:
        drawing = drawing.replace(ink.light, f"var(--chart-{ink.name})")
    light = "; ".join(f"--chart-{ink.name}: {ink.light}" for ink in INKS)
    dark = "; ".join(f"--chart-{ink.name}: {ink.dark}" for ink in INKS)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="chart" viewBox="0 0 {width_pt:g} {height_pt:g}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc">\n'
        f' <title id="{name}-title">{escape(title)}</title>\n'
        f' <desc id="{name}-desc">{escape(description)}</desc>\n'
        f" <style>.chart {{ {light} }} @media (prefers-color-scheme: dark) {{ .chart {{ {dark} }} }}</style>"
    )
    return head + drawing[drawing.index(">") + 1 :]
