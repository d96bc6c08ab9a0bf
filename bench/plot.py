"""Plots for the docs as SVG files, drawn by matplotlib, which the extra `bench` installs.

The background is transparent and all colours are of middle lightness, so that a plot is readable on
a light page and on a dark one.
"""

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Final

from bench.gateways import BenchError

COLOURS: Final = ("#3d8bfd", "#dd7a22", "#3fa45b", "#a46ff0")
#: Text and axes; its contrast is above 4 both on white and on #0d1117.
INK: Final = "#76808c"
_SIZE: Final = (7.2, 3.6)  # inches

Points = Sequence[tuple[float, float]]

_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "legato",  # the same ids each time
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # what text is measured with; the file adds sans-serif
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def required() -> Any:
    """The module `matplotlib.figure`. Raises `BenchError` if matplotlib is not installed."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BenchError(f"plots need matplotlib ({error}): pip install '.[bench]'") from None


def add_option(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Adds `--plots [FOLDER]`, with `folder` as its default value."""
    parser.add_argument(
        "--plots",
        type=Path,
        nargs="?",
        const=folder,
        metavar="FOLDER",
        help=f"draw plots too (default: in {folder.name})",
    )


def lines(file: Path, title: str, x_title: str, y_title: str, series: Mapping[str, Points]) -> None:
    """A line with markers for each series; x is logarithmic, with a tick at every point."""
    with _axes(file, title, x_title, y_title) as axes:
        for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
            xs, ys = zip(*sorted(points), strict=True)
            axes.plot(xs, ys, marker="o", color=colour, label=name)
        axes.set_xscale("log")
        ticks = sorted({x for points in series.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{x:,.10g}" for x in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend(loc="lower right")


def bars(file: Path, title: str, y_title: str, values: Mapping[str, float]) -> None:
    """A bar for each value, with the value above it."""
    with _axes(file, title, "", y_title) as axes:
        drawn = axes.bar(list(values), list(values.values()), width=0.6, color=COLOURS[0])
        axes.bar_label(drawn, fmt="{:,.0f}", padding=2, color=INK)
        axes.set_ylim(bottom=0)
        axes.margins(y=0.12)
        axes.grid(axis="y")


def histogram(
    file: Path, title: str, x_title: str, y_title: str, series: Mapping[str, Mapping[int, float]]
) -> None:
    """Shares of whole numbers, such as bytes: a thin bar for each."""
    with _axes(file, title, x_title, y_title) as axes:
        for colour, (name, shares) in zip(COLOURS, series.items(), strict=False):
            axes.bar(list(shares), list(shares.values()), width=0.9, color=colour, label=name)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend(loc="upper center")


@contextmanager
def _axes(file: Path, title: str, x_title: str, y_title: str) -> Iterator[Any]:
    figures = required()
    with importlib.import_module("matplotlib").rc_context(_STYLE):
        figure = figures.Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=x_title, ylabel=y_title)
        yield axes
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    _describe(file, title)


def _describe(file: Path, title: str) -> None:
    """Names the image for screen readers."""
    svg = file.read_text()
    file.write_text(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
