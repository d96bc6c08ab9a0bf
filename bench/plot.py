"""Plots as small SVG files: lines over a logarithmic axis, bars, and histograms.

Text is dark on white whatever the page is; sizes are pixels.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Final

_WIDTH: Final = 720
_HEIGHT: Final = 360
_LEFT: Final = 64
_RIGHT: Final = 16
_TOP: Final = 56
_BOTTOM: Final = 52
COLOURS: Final = ("#1f6feb", "#d4721b", "#2f8f46", "#8250df")
_INK: Final = "#24292f"
_FAINT: Final = "#d0d7de"

Points = Sequence[tuple[float, float]]


class _Chart:
    """A frame with a vertical axis from 0, and what is drawn into it."""

    def __init__(self, title: str, x_title: str, y_title: str, highest: float) -> None:
        self.step = _step(highest or 1.0)
        self.top = math.ceil((highest or 1.0) / self.step) * self.step
        self._title = title
        self._parts: list[str] = []
        self.text(_LEFT, 22, title, size=15, weight="600")
        self.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_title, anchor="middle")
        self.text(14, (_TOP + _HEIGHT - _BOTTOM) / 2, y_title, anchor="middle", turned=True)
        for number in range(round(self.top / self.step) + 1):
            value = number * self.step
            self.line(_LEFT, self.y(value), _WIDTH - _RIGHT, self.y(value), _FAINT)
            self.text(_LEFT - 8, self.y(value) + 4, f"{value:,.10g}", anchor="end")

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)

    def x(self, share: float) -> float:
        """From 0, the left edge, to 1."""
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def tick(self, share: float, label: str) -> None:
        self.text(self.x(share), _HEIGHT - _BOTTOM + 18, label, anchor="middle")

    def legend(self, names: Sequence[str]) -> None:
        at = float(_LEFT)
        for colour, name in zip(COLOURS, names, strict=False):
            self.box(at, 34, 10, 10, colour)
            self.text(at + 15, 43, name)
            at += 32 + 6.6 * len(name)

    def line(
        self, x: float, y: float, to_x: float, to_y: float, colour: str, width: int = 1
    ) -> None:
        self._parts.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
            f' stroke="{colour}" stroke-width="{width}"/>'
        )

    def dot(self, x: float, y: float, colour: str) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{colour}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        said: str,
        *,
        size: int = 12,
        weight: str = "400",
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
            f' text-anchor="{anchor}"{turn}>{escape(said)}</text>'
        )

    def write(self, file: Path) -> None:
        body = "\n".join(self._parts)
        file.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
            f' width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif"'
            f' fill="{_INK}" role="img" aria-label="{escape(self._title)}">\n'
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def lines(file: Path, title: str, x_title: str, y_title: str, series: Mapping[str, Points]) -> None:
    """Lines with a dot at every point; x is logarithmic and marked where there are points."""
    points = [point for each in series.values() for point in each]
    chart = _Chart(title, x_title, y_title, max(y for _, y in points))
    low, high = (math.log(pick(x for x, _ in points)) for pick in (min, max))

    def at(x: float) -> float:
        return 0.04 + 0.92 * (math.log(x) - low) / ((high - low) or 1)

    for x in sorted({x for x, _ in points}):
        chart.tick(at(x), f"{x:,.10g}")
    for colour, each in zip(COLOURS, series.values(), strict=False):
        places = [(chart.x(at(x)), chart.y(y)) for x, y in sorted(each)]
        for (x, y), (to_x, to_y) in pairwise(places):
            chart.line(x, y, to_x, to_y, colour, 2)
        for x, y in places:
            chart.dot(x, y, colour)
    chart.legend(list(series))
    chart.write(file)


def bars(file: Path, title: str, y_title: str, values: Mapping[str, float]) -> None:
    """One bar for each value, which stands above it."""
    chart = _Chart(title, "", y_title, max(values.values()) * 1.1)
    width = 1 / len(values)
    for number, (label, value) in enumerate(values.items()):
        left = chart.x((number + 0.2) * width)
        right = chart.x((number + 0.8) * width)
        chart.box(left, chart.y(value), right - left, chart.y(0) - chart.y(value), COLOURS[0])
        chart.text((left + right) / 2, chart.y(value) - 5, f"{value:,.0f}", anchor="middle")
        chart.tick((number + 0.5) * width, label)
    chart.write(file)


def histogram(
    file: Path, title: str, x_title: str, y_title: str, series: Mapping[str, Mapping[int, float]]
) -> None:
    """Values by whole numbers, such as bytes: a thin bar for each."""
    keys = [key for each in series.values() for key in each]
    low, high = min(keys) - 2, max(keys) + 2
    step = _step(high - low)
    highest = max(value for each in series.values() for value in each.values())
    chart = _Chart(title, x_title, y_title, highest)

    def at(key: float) -> float:
        return (key - low) / (high - low)

    tick = math.ceil(low / step) * step
    while tick <= high:
        chart.tick(at(tick), f"{tick:,.10g}")
        tick += step
    thick = max(2.0, chart.x(at(low + 1)) - chart.x(0) - 1)
    for colour, each in zip(COLOURS, series.values(), strict=False):
        for key, value in sorted(each.items()):
            left = chart.x(at(key)) - thick / 2
            chart.box(left, chart.y(value), thick, chart.y(0) - chart.y(value), colour)
    chart.legend(list(series))
    chart.write(file)


def _step(highest: float) -> float:
    """A round number that goes into `highest` four to ten times."""
    power = 10.0 ** math.floor(math.log10(highest))
    for part in (0.1, 0.2, 0.5, 1.0):
        if highest / (power * part) <= 8:
            return power * part
    return power * 2
