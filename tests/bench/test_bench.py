"""The bench works: every workload runs, small, and no stream of it fails. Nothing is measured."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.gateways import BenchError
from bench.workloads import SMOKE

from bench import growth, padding, report

ROOT = Path(__file__).parents[2]
OTHER = f"legato@{ROOT.name}"
MACHINE = {
    "date": "2026-11-28",
    "cores": 2,
    "cpu": "",
    "kernel": "",
    "python": "",
    "nginx": "",
    "commit": "",
    "rounds": 2,
    "command": "",
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def has_nginx() -> bool:
    return bool(shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    arguments = ["--smoke", "--json", str(file)]
    if not has_nginx():
        arguments.append("--no-nginx")
    done = bench(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return file, json.loads(file.read_text())


def test_a_smoke_run_plays_every_workload_without_a_failed_stream(
    smoke: tuple[Path, dict[str, Any]],
) -> None:
    workloads = smoke[1]["workloads"]
    assert tuple(workloads) == SMOKE
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


def test_the_upstream_answers_in_all_formats_in_turn(smoke: tuple[Path, dict[str, Any]]) -> None:
    workloads = smoke[1]["workloads"]
    for name in ("W1", "W2", "W3", "W5"):
        counts = workloads[name]["legato"]["formats"]
        assert set(counts) == {"openai", "openrouter", "vllm", "llama.cpp"}
        assert max(counts.values()) - min(counts.values()) <= 1
    for name in ("W6", "W8"):
        assert set(workloads[name]["legato"]["formats"]) == {"anthropic"}


def test_what_a_run_wrote_is_shown_again_as_a_table_of_the_docs(
    smoke: tuple[Path, dict[str, Any]],
) -> None:
    done = bench("--read", str(smoke[0]), "--markdown")
    assert done.returncode == 0, done.stderr
    assert all(f"| {name} | " in done.stdout for name in SMOKE)
    assert "- no call failed at any gateway" in done.stdout
    assert "- upstream formats anthropic; answers: W6 " in done.stdout


def test_one_format_and_another_source_tree_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    chosen = ("--no-nginx", "--format", "llama.cpp", "--compare", str(ROOT), "--json", str(file))
    done = bench("W2", "--smoke", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    of = json.loads(file.read_text())["workloads"]["W2"]
    legato = of["legato"]
    assert {"direct", "legato", OTHER} == set(of)
    assert not any(each["failed"] for each in of.values())
    again = bench("--read", str(file), "--markdown")
    assert f" | {OTHER} | legato / {OTHER} | " in again.stdout
    assert set(legato["formats"]) == {"llama.cpp"}
    assert legato["formats"]["llama.cpp"] == legato["median"]["completed"]


def test_another_source_tree_must_have_legato_in_it(tmp_path: Path) -> None:
    done = bench("W1", "--no-nginx", "--compare", str(tmp_path))
    assert done.returncode == 2
    assert f"there is no src/legato in {tmp_path}" in done.stderr


def test_source_trees_are_compared_within_each_round() -> None:
    """The machine is twice as slow in the second round: the ratio of medians would be 0.5."""

    def rounds(*cpu: float) -> list[dict[str, Any]]:
        common = {"failed": 0, "failures": {}, "formats": {}}
        return [common | {"cpu_us_per_call": each} for each in cpu]

    workloads = report.summary({"W2": {"legato": rounds(8, 20), "legato@old": rounds(10, 20)}})
    configured = {"legato": "", "legato@old": ""}
    shown = report.markdown(
        {"machine": MACHINE, "workloads": workloads, "notes": {}, "configured": configured}
    )
    assert "| W2 | CPU per call, µs | 14 | 15 | 0.90 (0.80 to 1.00) | " in shown


def test_failed_calls_are_a_row_of_the_table() -> None:
    rounds = [{"failed": 2, "failures": {"cut after 3 chunks": 2}, "formats": {"vllm": 9}}]
    workloads = report.summary({"W2": {"legato": rounds}})
    result = {
        "machine": MACHINE,
        "workloads": workloads,
        "notes": {},
        "configured": {"legato": ""},
    }
    shown = report.markdown(result)
    assert report.failed(result) == 2
    assert report.failed(result, ignore={"legato"}) == 0
    assert "| W2 | failed calls | 2 | " in shown
    assert "- W2, legato: 2 failed: cut after 3 chunks" in shown
    assert "no call failed" not in shown


def test_rows_are_copied_with_some_columns_changed(tmp_path: Path) -> None:
    file = tmp_path / "some.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE calls (id TEXT PRIMARY KEY, received REAL, outcome TEXT)")
        with pytest.raises(BenchError, match="the table calls is empty"):
            growth.copy_row(file, "calls", 1, {})
        database.execute("INSERT INTO calls VALUES ('first', 1.0, 'complete')")
    growth.copy_row(file, "calls", 2, {"id": lambda at: f"copy {at}"})
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT * FROM calls").fetchall() == [
            ("first", 1.0, "complete"),
            ("copy 0", 1.0, "complete"),
            ("copy 1", 1.0, "complete"),
        ]
    database.close()


def test_padded_frames_have_one_size(tmp_path: Path) -> None:
    pieces = [" a", " word", " is", " something"]
    assert len(padding.sizes(pieces, tmp_path, pads=False)) == 4
    (size,) = padding.sizes(pieces, tmp_path, pads=True)
    assert size % 128 == 0
