"""The bench works: every workload runs, small, and no stream of it fails. Nothing is measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bench.workloads import SMOKE

from bench import plot

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    arguments = ["--smoke", "--json", str(file)]
    if not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")):
        arguments.append("--no-nginx")
    done = bench(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return file, json.loads(file.read_text())


def test_a_smoke_run_plays_every_workload_without_a_failed_stream(
    smoke: tuple[Path, dict[str, Any]],
) -> None:
    workloads = smoke[1]["workloads"]
    assert tuple(workloads) == SMOKE == ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "S1")
    for gateways in workloads.values():
        for of in gateways.values():
            assert of["failed"] == 0, of["failures"]
            assert of["median"]["chunks"] > 0
        assert gateways["legato"]["median"]["cpu_us_per_chunk"] > 0
    assert {"direct", "legato"} <= set(workloads["W1"])
    assert workloads["W4"]["legato"]["median"]["cpu_us_per_chunk_open"] > 0
    assert {"alone_p99_us", "reading_p99_us", "slow_above_mb"} <= set(
        workloads["S1"]["legato"]["median"]
    )


def test_what_a_run_wrote_is_shown_again_as_a_table_of_the_docs(
    smoke: tuple[Path, dict[str, Any]],
) -> None:
    done = bench("--read", str(smoke[0]), "--markdown")
    assert done.returncode == 0, done.stderr
    assert all(f"| {name} | " in done.stdout for name in SMOKE)
    assert "| W2 | failed calls | " in done.stdout


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `bench`")
    file = tmp_path / "plot.svg"
    plot.bars(file, "a < b & c", "µs", {"one": 1.0, "two": 2.0})
    assert ElementTree.parse(file).getroot().tag == f"{SVG}svg"
    plot.lines(file, "lines", "streams", "µs", {"a": [(50, 1.0), (5000, 3.0)]})
    assert ElementTree.parse(file).getroot().tag == f"{SVG}svg"
