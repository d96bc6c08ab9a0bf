"""Plots: what is drawn, and what happens without the library that draws."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.gateways import BenchError

from bench import plot

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BenchError, match=r"plots need matplotlib .*pip install '\.\[bench\]'"):
        plot.required()


def test_a_higher_value_is_drawn_higher(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (scripts/setup bench)")
    file = tmp_path / "plot.svg"
    plot.lines(file, "a < b & c", "streams", "µs", {"a": [(5000, 3.0), (50, 1.0)]})
    root = ElementTree.parse(file).getroot()
    assert root.attrib["aria-label"] == "a < b & c"
    markers = [
        each for each in root.findall(f".//{SVG}use") if plot.COLOURS[0] in each.attrib["style"]
    ]
    first, last = markers[:2]
    assert float(last.attrib["y"]) < float(first.attrib["y"])
    assert float(last.attrib["x"]) > float(first.attrib["x"])


def test_plots_have_no_background_and_are_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (scripts/setup bench)")
    files = [tmp_path / name for name in ("one.svg", "two.svg")]
    for file in files:
        plot.bars(file, "bars", "µs", {"one": 1.0, "two": 2.0})
    assert files[0].read_text() == files[1].read_text()
    assert "#ffffff" not in files[0].read_text()
    plot.histogram(files[1], "sizes", "bytes", "%", {"plain": {200: 50.0, 201: 50.0}})
    assert ElementTree.parse(files[1]).getroot().tag == f"{SVG}svg"
