"""Rounds to medians, medians to a table and to JSON."""

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.gateways import nginx
from bench.session import NOISE, Figures
from bench.workloads import Workload

YARDSTICK: Final = "nginx"

#: workload ▸ gateway ▸ one entry a round
Rounds = dict[str, dict[str, list[Figures]]]


def add_differences(rounds: dict[str, list[Figures]]) -> None:
    """What a gateway adds, round by round: its own less what the direct way took in that round."""
    for name, figures in rounds.items():
        if name == "direct":
            continue
        for mine, direct in zip(figures, rounds["direct"], strict=True):
            for part in ("p50", "p99"):
                for whole, added in (("latency", "added"), ("ttft", "added_ttft")):
                    key = f"{whole}_{part}_us"
                    if key in mine and key in direct:
                        mine[f"{added}_{part}_us"] = mine[key] - direct[key]


def summary(rounds: Rounds) -> dict[str, Any]:
    """Medians, ratios of medians to the yardstick's, and every round they come from."""
    said: dict[str, Any] = {}
    for workload, gateways in rounds.items():
        medians = {name: _medians(figures) for name, figures in gateways.items()}
        said[workload] = {
            name: {
                "failed": sum(each["failed"] for each in figures),
                "failures": _failures(figures),
                "median": medians[name],
                "ratio": _ratios(medians[name], medians.get(YARDSTICK)),
                "rounds": figures,
            }
            for name, figures in gateways.items()
        }
    return said


def table(workloads: list[Workload], said: dict[str, Any]) -> str:
    """Plain text, as wide as it has to be."""
    names = [name for name in next(iter(said.values())) if name != "direct"]
    others = [name for name in names if name != YARDSTICK]
    with_ratio = YARDSTICK in names
    ratios = [f"{name} / {YARDSTICK}" for name in others] if with_ratio else []
    rows = [["", "what", *names, *ratios]]
    for workload in workloads:
        of = said[workload.name]
        for measure in workload.measures:
            row = [workload.name, measure.title]
            row += [_number(of[name]["median"].get(measure.key), measure.digits) for name in names]
            if with_ratio:
                row += [_number(of[name]["ratio"].get(measure.key), 2) for name in others]
            rows.append(row)
        failed = [str(of[name]["failed"]) for name in names]
        rows.append([workload.name, "failed calls", *failed, *("" for _ in ratios)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    for number, row in enumerate(rows):
        if number and row[0] != rows[number - 1][0]:
            lines.append("  ".join("-" * width for width in widths))
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def remarks(said: dict[str, Any]) -> list[str]:
    """What a reader of the table has to know beside it."""
    notes: list[str] = []
    for workload, gateways in said.items():
        for name, of in gateways.items():
            for reason, number in of["failures"].items():
                notes.append(f"{workload}, {name}: {number} failed: {reason}")
            noise = max((each.get("foreign_busy", 0.0) for each in of["rounds"]), default=0.0)
            if noise > NOISE:
                notes.append(f"{workload}, {name}: others took up to {noise:.0%} of a core")
    return notes


def start_line(said: dict[str, Any]) -> str | None:
    """Start and idle memory of Legato, from all its starts."""
    starts = [
        (each["start_seconds"], each.get("memory_mb_before", 0.0))
        for gateways in said.values()
        for each in gateways.get("legato", {}).get("rounds", ())
        if "start_seconds" in each
    ]
    if not starts:
        return None
    seconds = statistics.median(each for each, _ in starts)
    memory = statistics.median(each for _, each in starts)
    return (
        f"legato: start to ready {seconds:.2f} s, memory when warm {memory:.1f} MB"
        f" (median of {len(starts)} starts)"
    )


def machine(cores: int) -> dict[str, Any]:
    return {
        "cores": cores,
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _nginx_version(),
        "commit": _said(["git", "rev-parse", "--short", "HEAD"]),
        "changed": bool(_said(["git", "status", "--porcelain", "src"])),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "command": " ".join(["scripts/bench", *sys.argv[1:]]),
    }


def _medians(figures: list[Figures]) -> dict[str, float]:
    keys = {
        key for each in figures for key, value in each.items() if isinstance(value, int | float)
    }
    return {
        key: statistics.median(each[key] for each in figures if key in each) for key in sorted(keys)
    }


def _ratios(mine: dict[str, float], yardstick: dict[str, float] | None) -> dict[str, float]:
    return {
        key: value / yardstick[key]
        for key, value in mine.items()
        if yardstick and yardstick.get(key, 0) > 0
    }


def _failures(figures: list[Figures]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for each in figures:
        for reason, number in each["failures"].items():
            reasons[reason] = reasons.get(reason, 0) + number
    return reasons


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _nginx_version() -> str | None:
    binary = nginx()
    if binary is None:
        return None
    shown = subprocess.run([binary, "-v"], capture_output=True, text=True)
    return shown.stderr.strip().rpartition("/")[2]


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
