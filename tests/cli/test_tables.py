"""Tables that fit the terminal: which columns are shown, and how wide they are."""

import pytest
from rich.cells import cell_len

from legato.cli import tables
from legato.cli.tables import Cell, Column, bar, layout, print_table

COLUMNS = (
    Column("name", min_width=4),
    Column("first", drop_order=2),
    Column("second", drop_order=1, is_number=True),
    Column("last", is_number=True),
)
NATURAL = (20, 10, 8, 6)

LAYOUTS: dict[int | None, tuple[dict[int, int], int]] = {
    # terminal width: (column widths, gap)
    None: ({0: 20, 1: 10, 2: 8, 3: 6}, 2),
    80: ({0: 20, 1: 10, 2: 8, 3: 6}, 2),
    50: ({0: 20, 1: 10, 2: 8, 3: 6}, 2),
    49: ({0: 19, 1: 10, 2: 8, 3: 6}, 2),
    34: ({0: 4, 1: 10, 2: 8, 3: 6}, 2),
    33: ({0: 6, 1: 10, 2: 8, 3: 6}, 1),
    31: ({0: 4, 1: 10, 2: 8, 3: 6}, 1),
    30: ({0: 12, 1: 10, 3: 6}, 1),
    22: ({0: 4, 1: 10, 3: 6}, 1),
    21: ({0: 14, 3: 6}, 1),
    11: ({0: 4, 3: 6}, 1),
    5: ({0: 4, 3: 6}, 1),  # too narrow: what is never left out is shown all the same
}


@pytest.mark.parametrize("width", LAYOUTS)
def test_a_layout(width: int | None) -> None:
    assert layout(COLUMNS, NATURAL, width) == LAYOUTS[width]


@pytest.mark.parametrize("width", range(11, 60))
def test_a_layout_never_exceeds_the_terminal(width: int) -> None:
    widths, gap = layout(COLUMNS, NATURAL, width)
    assert sum(widths.values()) + gap * (len(widths) - 1) <= width


def test_spare_width_goes_to_the_narrowest_column() -> None:
    columns = (Column("a", min_width=4), Column("b", min_width=8))
    assert layout(columns, (30, 30), 32) == ({0: 15, 1: 15}, 2)
    assert layout(columns, (6, 30), 32) == ({0: 6, 1: 24}, 2)
    assert layout(columns, (30, 30), 16) == ({0: 6, 1: 8}, 2)


CELLS: dict[str, tuple[Column, Cell, str]] = {
    # a column of 8 cells, a cell, what is printed
    "fits": (Column("name", min_width=8), "12345678", "12345678"),
    "shortened": (Column("name", min_width=8), "123456789", "1234567…"),
    "shortened at the start": (
        Column("name", min_width=8, keeps_end=True),
        "123456789",
        "…3456789",
    ),
    "wide characters": (Column("name", min_width=8), "日本語日本語", "日本語…"),
    "markup is text": (Column("name", min_width=8), "[red]a", "[red]a"),
    "a line end": (Column("name", min_width=8), "a\r\nb\tc", "a b c"),
    "an escape sequence": (Column("name", min_width=8), "\x1b[31ma", "[31ma"),
    "with a style": (Column("name", min_width=8), ("open", "red"), "open"),
    "a number": (Column("name", min_width=8, is_number=True), "1234", "    1234"),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    column, cell, printed = CELLS[name]
    monkeypatch.setenv("COLUMNS", "8")
    print_table([column], [[cell], ["12345678"]])
    heading, line, _ = capsys.readouterr().out.splitlines()
    assert heading.strip() == "name"
    assert line.rstrip() == printed
    assert cell_len(line) <= 8


def test_in_a_pipe_nothing_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table([Column("a", drop_order=1), Column("b", min_width=1)], [["x" * 200, "y" * 200]])
    assert capsys.readouterr().out.splitlines()[1] == "x" * 200 + "  " + "y" * 200


BARS = {
    # (share, width): the bar in UTF-8, and in ASCII
    (0.0, 4): ("", ""),
    (1e-9, 4): ("▏", "#"),
    (0.25, 4): ("█", "#"),
    (0.5, 3): ("█▌", "##"),
    (0.99, 4): ("████", "####"),
    (1.0, 4): ("████", "####"),
    (1.5, 4): ("████", "####"),
}


@pytest.mark.parametrize(("share", "width"), BARS)
def test_a_bar(monkeypatch: pytest.MonkeyPatch, share: float, width: int) -> None:
    found: list[str] = []
    for has_blocks in (True, False):
        monkeypatch.setattr(tables, "_has_blocks", lambda has_blocks=has_blocks: has_blocks)
        found.append(bar(share, width))
    assert tuple(found) == BARS[share, width]
