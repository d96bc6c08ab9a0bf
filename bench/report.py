"""Turns the figures of all rounds into medians, and these into tables and JSON."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from bench.gateways import commit, nginx
from bench.session import NOISE, Figures
from bench.workloads import WORKLOADS, Measure

REFERENCE: Final = "nginx"
_FAILED: Final = Measure("failed", "failed calls", 0)

#: workload ▸ gateway ▸ one entry per round
Rounds = dict[str, dict[str, list[Figures]]]
#: All that a run reports, as in its JSON: `{"machine", "workloads", "notes", "configured"}`.
Report = dict[str, Any]


def short(figures: Figures) -> str:
    """One line about a round."""
    parts: list[str] = []
    if "cpu_us_per_chunk" in figures:
        parts.append(f"{figures['cpu_us_per_chunk']:.1f} µs CPU a chunk")
        parts.append(f"{figures['cpu_us_per_call']:.0f} a call")
    if "latency_p50_us" in figures:
        parts.append(
            f"latency {figures['latency_p50_us']:.0f}, p99 {figures['latency_p99_us']:.0f}"
        )
    if "kb_per_stream" in figures:
        parts.append(f"{figures['kb_per_stream']:.1f} KB a stream")
    if "slow_memory_mb" in figures:
        parts.append(f"{figures['slow_memory_mb']:.1f} MB for the slow client")
    if figures["failed"]:
        parts.append(f"{figures['failed']} FAILED")
    return ", ".join(parts)


def add_differences(rounds: dict[str, list[Figures]]) -> None:
    """Adds, round by round, the latency that a gateway adds: its own less that of the direct way in
    the same round."""
    for name, figures in rounds.items():
        if name == "direct":
            continue
        # A gateway that was left out at some point has fewer rounds.
        for own, direct in zip(figures, rounds.get("direct", ()), strict=False):
            for part in ("p50", "p99"):
                for whole, added in (("latency", "added"), ("ttft", "added_ttft")):
                    key = f"{whole}_{part}_us"
                    if key in own and key in direct:
                        own[f"{added}_{part}_us"] = own[key] - direct[key]


def summary(rounds: Rounds) -> dict[str, Any]:
    """Medians, the ratios of medians to the reference's, and the rounds they are computed from."""
    result: dict[str, Any] = {}
    for workload, gateways in rounds.items():
        medians = {name: _medians(figures) for name, figures in gateways.items()}
        result[workload] = {
            name: {
                "failed": sum(each["failed"] for each in figures),
                "failures": _sums(figures, "failures"),
                "formats": _sums(figures, "formats"),
                "median": medians[name],
                "ratio": _ratios(medians[name], medians.get(REFERENCE)),
                "rounds": figures,
            }
            for name, figures in gateways.items()
        }
    return result


def failed(report: Report, ignore: Collection[str] = ()) -> int:
    """Failed calls of all gateways except those to ignore."""
    return sum(
        of["failed"]
        for gateways in report["workloads"].values()
        for name, of in gateways.items()
        if name not in ignore
    )


def text(report: Report) -> str:
    """For a terminal: an aligned table, and notes."""
    rows = [["", "", *_columns(report)]]
    for workload, measure in _measures(report):
        cells = _cells(report, workload, measure)
        rows.append([workload, measure.title, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    for number, row in enumerate(rows):
        if number and row[0] != rows[number - 1][0]:
            lines.append("  ".join("-" * width for width in widths))
        shown = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(shown).rstrip())
    return "\n".join([heading(report["machine"]), "", *lines, "", *_notes(report)])


def markdown(report: Report) -> str:
    """For docs/performance.md: the same, with Legato's targets in a last column."""
    columns = [*_columns(report), "target"]
    lines = [f"| | | {' | '.join(columns)} |", "|---|---|" + "--:|" * len(columns)]
    for workload, measure in _measures(report):
        target = measure.target.replace(" x", " times nginx")
        cells = [workload, measure.title, *_cells(report, workload, measure), target]
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    configured = [
        f"- {name}: {about}" for name, about in report["configured"].items() if name != "direct"
    ]
    notes = [f"- {each}" for each in _notes(report)]
    return "\n".join([heading(report["machine"]), "", *lines, "", *configured, "", *notes])


def heading(machine: dict[str, Any]) -> str:
    """When, where and how it was measured."""
    rounds = f"medians of {machine['rounds']} rounds, " if machine["rounds"] > 1 else "one round, "
    return (
        f"{machine['date']}, {machine['cores']} cores ({machine['cpu']}), Linux"
        f" {machine['kernel']}, Python {machine['python']}, nginx {machine['nginx']}, commit"
        f" {machine['commit']}; {rounds}`{machine['command']}`"
    )


def machine(rounds: int) -> dict[str, Any]:
    arguments = sys.orig_argv[sys.orig_argv.index("bench") + 1 :]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _nginx_version(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        # Folders of this machine are of no interest.
        "command": " ".join(["scripts/bench", *(each.rpartition("/")[2] for each in arguments)]),
        "rounds": rounds,
    }


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _columns(report: Report) -> list[str]:
    """Gateways, the reference and Legato first. After Legato come its ratio to the reference and,
    after another source tree, Legato's ratio to that; others have their ratio in brackets."""
    names = [name for name in report["configured"] if name != "direct"]
    names.sort(key=lambda name: name not in (REFERENCE, "legato"))
    columns: list[str] = []
    for name in names:
        columns.append(name)
        if name == "legato" and REFERENCE in names:
            columns.append(f"legato / {REFERENCE}")
        if name.startswith("legato@"):
            columns.append(f"legato / {name}")
    return columns


def _measures(report: Report) -> list[tuple[str, Measure]]:
    """Workloads and their measures; failed calls are one of them if there are any."""
    more = (_FAILED,) if failed(report) else ()
    workloads = [WORKLOADS[name] for name in report["workloads"]]
    return [(each.name, measure) for each in workloads for measure in (*each.measures, *more)]


def _cells(report: Report, workload: str, measure: Measure) -> list[str]:
    return [_cell(report["workloads"][workload], column, measure) for column in _columns(report)]


def _cell(gateways: dict[str, Any], column: str, measure: Measure) -> str:
    name, _, other = column.partition(" / ")
    figures = gateways.get(name)
    if figures is None:
        return "-"
    if measure is _FAILED:
        return "" if other else str(figures["failed"])
    if other.startswith("legato@"):
        return _paired(figures["rounds"], gateways.get(other, {}).get("rounds", ()), measure.key)
    ratio = figures["ratio"].get(measure.key)
    times = "" if ratio is None else number(ratio, 2 if ratio < 100 else 0)
    if other:
        return times
    value = number(figures["median"].get(measure.key), measure.digits)
    return f"{value} ({times})" if times and name not in (REFERENCE, "legato") else value


def _paired(own: list[Figures], other: list[Figures], key: str) -> str:
    """The median of the ratios within each round, and their range: the speed of a machine changes
    between rounds more than within one."""
    ratios = [
        mine[key] / theirs[key]
        for mine, theirs in zip(own, other, strict=False)
        if key in mine and theirs.get(key, 0) > 0
    ]
    if not ratios:
        return ""
    shown = number(statistics.median(ratios), 2)
    return shown if len(ratios) == 1 else f"{shown} ({min(ratios):.2f} to {max(ratios):.2f})"


def _notes(report: Report) -> list[str]:
    notes = [] if failed(report) else ["no call failed at any gateway"]
    notes += [line for line in (_start_line(report["workloads"]),) if line]
    notes += _format_lines(report["workloads"])
    notes += [f"{where}: {what}" for where, what in report["notes"].items()]
    disturbed: list[str] = []
    for workload, gateways in report["workloads"].items():
        for name, of in gateways.items():
            for reason, count in of["failures"].items():
                notes.append(f"{workload}, {name}: {count} failed: {reason}")
            noise = max((each.get("foreign_busy", 0.0) for each in of["rounds"]), default=0.0)
            if noise > NOISE:
                disturbed.append(f"{workload} {name} {noise:.0%}")
    if disturbed:
        notes.append(f"CPU of other processes, share of a core at most: {', '.join(disturbed)}")
    return notes


def _format_lines(workloads: dict[str, Any]) -> list[str]:
    """Which formats the upstream answered in, and how often; a line for each set of formats."""
    lines: dict[str, list[str]] = {}
    for workload, gateways in workloads.items():
        total = sum((Counter(of["formats"]) for of in gateways.values()), Counter[str]())
        if total:
            lines.setdefault(", ".join(sorted(total)), []).append(f"{workload} {total.total():,}")
    return [
        f"upstream formats {names}; answers: {', '.join(counts)}" for names, counts in lines.items()
    ]


def _start_line(workloads: dict[str, Any]) -> str | None:
    """Start and idle memory of Legato, from all its starts."""
    starts = [
        (each["start_seconds"], each.get("memory_mb_before", 0.0))
        for gateways in workloads.values()
        for each in gateways.get("legato", {}).get("rounds", ())
        if "start_seconds" in each
    ]
    if not starts:
        return None
    seconds = statistics.median(each for each, _ in starts)
    memory = statistics.median(each for _, each in starts)
    return (
        f"legato: start to ready {seconds:.2f} s, memory after a warm-up {memory:.1f} MB"
        f" (median of {len(starts)} starts)"
    )


def _medians(figures: list[Figures]) -> dict[str, float]:
    keys = {
        key for each in figures for key, value in each.items() if isinstance(value, int | float)
    }
    return {
        key: statistics.median(each[key] for each in figures if key in each) for key in sorted(keys)
    }


def _ratios(own: dict[str, float], reference: dict[str, float] | None) -> dict[str, float]:
    return {
        key: value / reference[key]
        for key, value in own.items()
        if reference and reference.get(key, 0) > 0
    }


def _sums(figures: list[Figures], key: str) -> dict[str, int]:
    """The counts below `key`, over all rounds."""
    return dict(sum((Counter(each[key]) for each in figures), Counter[str]()))


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
