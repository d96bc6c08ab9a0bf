"""Rounds to medians, medians to a table and to JSON."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from bench.gateways import nginx
from bench.session import NOISE, Figures
from bench.workloads import WORKLOADS, Measure

YARDSTICK: Final = "nginx"
RATIO: Final = f"legato / {YARDSTICK}"
_FAILED: Final = Measure("failed", "failed calls", 0)

#: workload ▸ gateway ▸ one entry a round
Rounds = dict[str, dict[str, list[Figures]]]
#: What a bench has to say: `{"machine", "workloads", "notes", "configured"}`, as in its JSON.
Said = dict[str, Any]


def short(figures: Figures) -> str:
    """A round in a few words."""
    parts: list[str] = []
    if "cpu_us_per_chunk" in figures:
        parts.append(f"{figures['cpu_us_per_chunk']:.1f} µs CPU a chunk")
        parts.append(f"{figures['cpu_us_per_call']:.0f} a call")
    if "latency_p50_us" in figures:
        parts.append(f"{figures['latency_p50_us']:.0f} / {figures['latency_p99_us']:.0f} µs late")
    if "kb_per_stream" in figures:
        parts.append(f"{figures['kb_per_stream']:.1f} KB a stream")
    if "slow_memory_mb" in figures:
        parts.append(f"{figures['slow_memory_mb']:.1f} MB for the slow client")
    if figures["failed"]:
        parts.append(f"{figures['failed']} FAILED")
    return ", ".join(parts)


def add_differences(rounds: dict[str, list[Figures]]) -> None:
    """What a gateway adds, round by round: its own less what the direct way took in that round."""
    for name, figures in rounds.items():
        if name == "direct":
            continue
        # One that was left out in the end has fewer rounds.
        for mine, direct in zip(figures, rounds.get("direct", ()), strict=False):
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


def failed(said: Said, but: Collection[str] = ()) -> int:
    """Failed calls of all gateways but some."""
    return sum(
        of["failed"]
        for gateways in said["workloads"].values()
        for name, of in gateways.items()
        if name not in but
    )


def text(said: Said) -> str:
    """For a terminal: a table as wide as it has to be, and what has to be known beside it."""
    rows = [["", "what", *_columns(said)]]
    for workload, measure in _measures(said):
        cells = _cells(said, workload, measure)
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
    return "\n".join([heading(said["machine"]), "", *lines, "", *_notes(said)])


def markdown(said: Said) -> str:
    """The same as docs/performance.md has it, with what is wanted of Legato in a last column."""
    columns = [*_columns(said), "target"]
    lines = [f"| | what | {' | '.join(columns)} |", "|---|---|" + "--:|" * len(columns)]
    for workload, measure in _measures(said):
        target = measure.target.replace(" x", " times nginx")
        cells = [workload, measure.title, *_cells(said, workload, measure), target]
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    configured = [
        f"- {name}: {about}" for name, about in said["configured"].items() if name != "direct"
    ]
    notes = [f"- {each}" for each in _notes(said)]
    return "\n".join([heading(said["machine"]), "", *lines, "", *configured, "", *notes])


def heading(machine: dict[str, Any]) -> str:
    """Where, when and how it was measured."""
    changes = " and changes" if machine["changed"] else ""
    rounds = f"medians of {machine['rounds']} rounds, " if machine["rounds"] > 1 else "one round, "
    return (
        f"{machine['date']}, {machine['cores']} cores ({machine['cpu']}), Linux"
        f" {machine['kernel']}, Python {machine['python']}, nginx {machine['nginx']}, commit"
        f" {machine['commit']}{changes}; {rounds}`{machine['command']}`"
    )


def machine(rounds: int) -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _nginx_version(),
        "commit": _said(["git", "rev-parse", "--short", "HEAD"]),
        "changed": bool(_said(["git", "status", "--porcelain", "src"])),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "command": " ".join(["scripts/bench", *sys.orig_argv[sys.orig_argv.index("bench") + 1 :]]),
        "rounds": rounds,
    }


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _columns(said: Said) -> list[str]:
    """Gateways, the yardstick and Legato first; Legato has a second column for its ratio to the
    yardstick, others have theirs in brackets."""
    names = [name for name in said["configured"] if name != "direct"]
    names.sort(key=lambda name: name not in (YARDSTICK, "legato"))
    if YARDSTICK in names and "legato" in names:
        names.insert(names.index("legato") + 1, RATIO)
    return names


def _measures(said: Said) -> list[tuple[str, Measure]]:
    workloads = [WORKLOADS[name] for name in said["workloads"]]
    return [(each.name, measure) for each in workloads for measure in (*each.measures, _FAILED)]


def _cells(said: Said, workload: str, measure: Measure) -> list[str]:
    return [_cell(said["workloads"][workload], column, measure) for column in _columns(said)]


def _cell(of: dict[str, Any], column: str, measure: Measure) -> str:
    figures = of.get("legato" if column == RATIO else column)
    if figures is None:
        return "-"
    if measure is _FAILED:
        return "" if column == RATIO else str(figures["failed"])
    ratio = figures["ratio"].get(measure.key)
    times = "" if ratio is None else number(ratio, 2 if ratio < 100 else 0)
    if column == RATIO:
        return times
    value = number(figures["median"].get(measure.key), measure.digits)
    return f"{value} ({times})" if times and column not in (YARDSTICK, "legato") else value


def _notes(said: Said) -> list[str]:
    """What a reader of the table has to know beside it."""
    notes = [line for line in (_start_line(said["workloads"]),) if line]
    noises: list[str] = []
    notes += [f"{where}: {what}" for where, what in said["notes"].items()]
    for workload, gateways in said["workloads"].items():
        for name, of in gateways.items():
            for reason, count in of["failures"].items():
                notes.append(f"{workload}, {name}: {count} failed: {reason}")
            noise = max((each.get("foreign_busy", 0.0) for each in of["rounds"]), default=0.0)
            if noise > NOISE:
                noises.append(f"{workload} {name} {noise:.0%}")
    if noises:
        notes.append(f"others took of a core, at most: {', '.join(noises)}")
    return notes


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
        f"legato: start to ready {seconds:.2f} s, memory when warm {memory:.1f} MB"
        f" (median of {len(starts)} starts)"
    )


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
        for reason, count in each["failures"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return reasons


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
