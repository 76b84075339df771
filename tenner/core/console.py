"""The console that tables and coloured text are printed with: they cannot steer the terminal, and are not cut by it."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tenner.core.terminal import visible

SPACE_BETWEEN_COLUMNS = 2


class SafeConsole(Console):
    """Rich's console, in which control characters of the text are visible (see `terminal.py`)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable; Rich's own control codes stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def by_column(names: Sequence[str], rows: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Rows of text as columns by their headers; at least one row."""
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def fitting_table(
    columns: Mapping[str, Sequence[str]], *, width: int, left: Collection[str], title: str | None = None,
    styles: Sequence[str] = (),
) -> Group:  # fmt: skip
    """Columns of text, by their headers, as one table; where `width` characters do not hold it, as several below it.

    A further table has the columns for which there was no room, and begins with those of `left` again: the names of
    the rows, which stand first. All others are aligned to the right. `styles` are those of the rows.
    """
    tables: list[list[str]] = [[]]
    for name in columns:
        if name not in left and _width(columns, [*tables[-1], name]) > width and set(tables[-1]) - set(left):
            tables.append([known for known in columns if known in left])
        tables[-1].append(name)
    parts: list[RenderableType] = []
    for names in tables:
        parts += [Text()] if parts else []
        parts.append(_table(columns, names, left, title=None if parts else title, styles=styles))
    return Group(*parts)


def _width(columns: Mapping[str, Sequence[str]], names: Sequence[str]) -> int:
    widths = [max(map(cell_len, [*name.splitlines(), *columns[name]])) for name in names]
    return sum(widths) + SPACE_BETWEEN_COLUMNS * (len(names) - 1)


def _table(
    columns: Mapping[str, Sequence[str]], names: Sequence[str], left: Collection[str], *, title: str | None,
    styles: Sequence[str],
) -> Table:  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left", title_style="bold")
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", overflow="fold")
    for place, row in enumerate(zip(*(columns[name] for name in names), strict=True)):
        table.add_row(*map(Text, row), style=styles[place] if styles else None)
    return table
