"""Tables that fit the terminal: columns are shortened or left out, and no cell wraps."""

import os
import sys
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from legato.cli.terminal import clean

#: A cell: text, or (text, style).
Cell = str | tuple[str, str]

_GAP: Final = 2
_NARROW_GAP: Final = 1

#: Bars of none to eight eighths of a cell.
_BLOCKS: Final = ("", *"▏▎▍▌▋▊▉█")


class Column(Struct, frozen=True):
    """One column. Widths are in terminal cells."""

    name: str
    drop_order: int = 0
    """In a terminal that is too narrow, the column with the lowest order is left out first; 0:
    never."""
    min_width: int | None = None
    """The width to which cells may be shortened; None: they are not."""
    is_number: bool = False
    """Aligned to the right."""
    keeps_end: bool = False
    """Shortened at the start, as for paths."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Prints a table to standard output. In a pipe, without COLUMNS, the width is not limited."""
    console = Console(highlight=False)
    limited = console.is_terminal or "COLUMNS" in os.environ
    texts = [[_line(cell if isinstance(cell, str) else cell[0]) for cell in row] for row in rows]
    natural = [
        max(map(cell_len, [column.name, *(row[index] for row in texts)]))
        for index, column in enumerate(columns)
    ]
    widths, gap = layout(columns, natural, console.width if limited else None)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    ellipsis = "…" if _has_blocks() else ".."
    for index, width in widths.items():
        column = columns[index]
        table.add_column(
            Text(_shorten(column.name, width, ellipsis, keeps_end=False)),
            width=width,
            no_wrap=True,
            justify="right" if column.is_number else "left",
        )
    for row, cells in zip(texts, rows, strict=True):
        table.add_row(
            *(
                Text(
                    _shorten(row[index], width, ellipsis, keeps_end=columns[index].keeps_end),
                    style="" if isinstance(cell := cells[index], str) else cell[1],
                )
                for index, width in widths.items()
            )
        )
    total = sum(widths.values()) + gap * (len(widths) - 1)
    console.width = max(total, 1)
    console.print(table)


def bar(share: float, width: int) -> str:
    """A bar for a share (0 to 1) of `width` cells. What is more than nothing is never empty."""
    if _has_blocks():
        eighths = min(max(round(share * width * 8), int(share > 0)), width * 8)
        return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8]
    return "#" * min(max(round(share * width), int(share > 0)), width)


def _has_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def layout(
    columns: Sequence[Column], natural: Sequence[int], width: int | None
) -> tuple[dict[int, int], int]:
    """(width of each column that is shown, by index; width of the gap between columns).

    `natural`: the widths that the contents need; `width`: of the terminal, None for no limit.
    """
    if width is None:
        return dict(enumerate(natural)), _GAP
    widths = {
        index: min(full, columns[index].min_width or full) for index, full in enumerate(natural)
    }
    gap = _GAP if _total(widths, _GAP) <= width else _NARROW_GAP
    order = sorted(
        (each for each in widths if columns[each].drop_order),
        key=lambda index: columns[index].drop_order,
    )
    while order and _total(widths, gap) > width:
        del widths[order.pop(0)]
    _widen(widths, natural, width - _total(widths, gap))
    return widths, gap


def _total(widths: dict[int, int], gap: int) -> int:
    return sum(widths.values()) + gap * (len(widths) - 1)


def _widen(widths: dict[int, int], natural: Sequence[int], spare: int) -> None:
    """Gives spare cells to the columns that were shortened, the narrowest first."""
    while spare > 0:
        short = [index for index in widths if widths[index] < natural[index]]
        if not short:
            return
        narrowest = min(short, key=widths.__getitem__)
        widths[narrowest] += 1
        spare -= 1


def _line(text: str) -> str:
    return " ".join(clean(text).split())


def _shorten(text: str, width: int, ellipsis: str, *, keeps_end: bool) -> str:
    if cell_len(text) <= width:
        return text
    room = width - len(ellipsis)
    while cell_len(text) > room:
        text = text[1:] if keeps_end else text[:-1]
    return ellipsis + text if keeps_end else text + ellipsis
