"""`scripts/bench growth`: the cost of a chunk with more open streams, and of a call with more keys,
routes and calls in the ledger. Prints tables; `--plots` draws them too.
"""

import argparse
import json
import math
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from bench import plot, report
from bench.gateways import ROOT, BenchError, Gateway, LeftOut, Legato, Nginx, nginx
from bench.session import SETTLE, Cores, Figures, Mock, failures, fitted, measure, undisturbed
from bench.workloads import W1, W2, Workload

#: Chunks per second of all streams together, however many there are: those of W1.
RATE: Final = 10_000
STREAMS: Final = (50, 200, 1_000, 5_000)
ROWS: Final = 1_000_000
STEADY: Final = 5.0


def open_streams(number: int, steady: float) -> Workload:
    """`number` open streams with `RATE` chunks per second in all. The first to be opened stays open
    until the measurement ends."""
    interval = number / RATE
    ramp = number * W1.ramp_us / 1e6
    return replace(
        W1,
        name=f"{number:,} streams",
        streams=number,
        interval_us=round(interval * 1e6),
        chunks=math.ceil((ramp + SETTLE + steady + 1.0) / interval),
        steady=steady,
    )


def copy_row(
    database: Path, table: str, number: int, changes: dict[str, Callable[[int], Any]]
) -> None:
    """Inserts `number` copies of a row of `table`, with some columns changed. Raises `BenchError`
    if the table is empty."""
    with sqlite3.connect(database) as connection:
        cursor = connection.execute(f"SELECT * FROM {table} LIMIT 1")
        row = cursor.fetchone()
        if row is None:
            raise BenchError(f"the table {table} is empty")
        columns = [each[0] for each in cursor.description]
        makers = [
            changes.get(name, lambda _, value=value: value)
            for name, value in zip(columns, row, strict=True)
        ]
        names = ", ".join(f'"{name}"' for name in columns)
        places = ", ".join("?" for _ in columns)
        connection.executemany(
            f"INSERT INTO {table} ({names}) VALUES ({places})",
            ([make(each) for make in makers] for each in range(number)),
        )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def add_keys(legato: Legato, number: int) -> None:
    """Makes it `number` keys, with the one that exists."""
    copy_row(
        legato.database,
        "keys",
        number - 1,
        {"id": lambda at: f"key_{at:016x}", "digest": lambda _: secrets.token_bytes(32)},
    )


def add_calls(legato: Legato, number: int) -> None:
    """Adds `number` calls to the ledger, one a second, like the one that exists."""
    now = time.time()
    copy_row(
        legato.database,
        "calls",
        number,
        {
            "id": lambda _: f"chatcmpl-{secrets.token_hex(16)}",
            "received": lambda at: now - at - 1,
        },
    )


def routes(number: int) -> str:
    """Settings with `number` deployments, each with its own route, with the one that exists."""
    return "".join(
        f'[[deployments]]\nname = "other-{each}"\nmodel = "bench"\n'
        'base_url = "http://127.0.0.1:9/v1"\n'
        for each in range(number - 1)
    )


class Growth:
    """The figures: `chunks` by gateway and number of streams, `calls` by server; one per round."""

    def __init__(self, folder: Path, mock: Mock, cores: Cores, given: argparse.Namespace) -> None:
        self.chunks: dict[str, dict[int, list[Figures]]] = {}
        self.calls: dict[str, list[Figures]] = {}
        self.sizes: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        self._folder = folder
        self._mock = mock
        self._cores = cores
        self._given = given
        self._began = time.monotonic()

    def run(self) -> None:
        small = self._given.small
        rows, most_keys = (1_000, 100) if small else (ROWS, 100_000)
        gateways: list[Gateway] = [Nginx(self._folder)] if nginx() else []
        gateways.append(Legato(self._folder))
        legatos = {
            "1 key": self._legato("one"),
            "100 keys": self._legato("100", lambda each: add_keys(each, 100)),
            f"{most_keys:,} keys": self._legato("keys", lambda each: add_keys(each, most_keys)),
            "50 routes": self._legato("routes", more=routes(50)),
            f"{rows:,} calls": self._legato("calls", lambda each: self._fill_ledger(each, rows)),
        }
        self.sizes = {
            name: each.database.stat().st_size
            for name, each in legatos.items()
            if name in ("1 key", f"{rows:,} calls")
        }
        for number in range(1, self._given.rounds + 1):
            if not self._given.calls:
                self._chunks(gateways, number)
            for name, legato in legatos.items():
                self._calls(name, legato, number)

    def _legato(
        self, name: str, fill: Callable[[Legato], None] = lambda _: None, more: str = ""
    ) -> Legato:
        self._progress(f"preparing a server: {name} ...")
        legato = Legato(self._folder / name, more)
        legato.create_key()
        fill(legato)
        return legato

    def _fill_ledger(self, legato: Legato, rows: int) -> None:
        """One real call, then copies of its row."""
        measure(replace(W2, calls=1), legato, self._mock, self._cores)
        add_calls(legato, rows)

    def _chunks(self, gateways: list[Gateway], number: int) -> None:
        small = self._given.small
        for streams in STREAMS[:2] if small else STREAMS:
            for gateway in gateways:
                workload = open_streams(streams, 0.3 if small else STEADY)
                figures = self._measured(workload, gateway, number)
                if figures is not None:
                    found = self.chunks.setdefault(gateway.name, {}).setdefault(streams, [])
                    found.append(figures)

    def _calls(self, name: str, legato: Legato, number: int) -> None:
        calls = 50 if self._given.small else W2.calls
        figures = self._measured(replace(W2, name=name, calls=calls), legato, number)
        if figures is not None:
            self.calls.setdefault(name, []).append(figures)

    def _measured(self, workload: Workload, gateway: Gateway, number: int) -> Figures | None:
        workload, fewer = fitted(workload)
        if fewer:
            self.notes[workload.name] = fewer
        try:
            figures = undisturbed(
                workload,
                lambda: measure(workload, gateway, self._mock, self._cores),
                self._cores,
                0.0 if self._given.small else self._given.patience,
            )
        except LeftOut as reason:
            self.notes[f"{workload.name}, {gateway.name}"] = f"left out: {reason}"
            return None
        where = f"{workload.name} {number}/{self._given.rounds} {gateway.name}"
        self._progress(f"{where:32} {report.short(figures)}")
        return figures

    def _progress(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:4.0f} s  {text}", file=sys.stderr, flush=True)


def _median(figures: list[Figures], key: str) -> float:
    return statistics.median(each[key] for each in figures)


def draw(grown: Growth, folder: Path) -> list[Path]:
    """The files: what was not measured is not drawn anew."""
    files = [folder / "growth-calls.svg"]
    plot.bars(
        files[0],
        "CPU per call",
        "µs",
        {name: _median(each, "cpu_us_per_call") for name, each in grown.calls.items()},
    )
    if not grown.chunks:
        return files
    files.append(folder / "growth-streams.svg")
    plot.lines(
        files[1],
        f"CPU per chunk, {RATE:,} chunks per second in all",
        "open streams",
        "µs",
        {
            name: [
                (streams, _median(each, "cpu_us_per_chunk_open")) for streams, each in of.items()
            ]
            for name, of in grown.chunks.items()
        },
    )
    return files


def tables(grown: Growth) -> str:
    """As docs/performance.md has them."""
    lines: list[str] = []
    if grown.chunks:
        lines += [*_stream_table(grown), ""]
    lines += ["| | CPU per call, µs | TTFT p50, µs | start, s |", "|---|--:|--:|--:|"]
    for name, each in grown.calls.items():
        keys = (("cpu_us_per_call", 0), ("ttft_p50_us", 0), ("start_seconds", 2))
        shown = [report.number(_median(each, key), digits) for key, digits in keys]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    (_, empty), (rows, full) = grown.sizes.items()
    number = int(rows.partition(" ")[0].replace(",", ""))
    lines += ["", f"The database: {full / 1e6:,.1f} MB with {rows}, {empty / 1e6:.2f} MB without:"]
    lines[-1] += f" {(full - empty) / number:.0f} bytes a call."
    lines += [f"\n{where}: {what}" for where, what in grown.notes.items()]
    return "\n".join(lines)


def _stream_table(grown: Growth) -> list[str]:
    names = list(grown.chunks)
    lines = [f"| open streams | {' | '.join(f'{name}, µs a chunk' for name in names)} |"]
    lines.append("|--:|" + "--:|" * len(names))
    for streams in sorted({each for of in grown.chunks.values() for each in of}):
        found = [grown.chunks[name].get(streams) for name in names]
        shown = [f"{_median(each, 'cpu_us_per_chunk_open'):.1f}" if each else "-" for each in found]
        lines.append(f"| {streams:,} | {' | '.join(shown)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="shows that it works")
    parser.add_argument("--calls", action="store_true", help="the cost of a call alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    plot.add_option(parser, ROOT / "docs")
    parser.add_argument(
        "--patience", type=float, default=10.0, help="seconds to wait for idle cores before a run"
    )
    given = parser.parse_args()
    if given.plots:
        plot.required()
    cores = Cores()
    mock = Mock(cores, 0, 1000)
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
        grown = Growth(Path(folder), mock, cores, given)
        try:
            grown.run()
        finally:
            mock.stop()
    machine = report.machine(given.rounds)
    print(f"{report.heading(machine)}\n\n{tables(grown)}\n")
    if given.plots:
        print("written:", *draw(grown, given.plots))
    result: dict[str, Any] = {"machine": machine, "chunks": grown.chunks, "calls": grown.calls}
    if given.json:
        given.json.write_text(json.dumps(result | {"bytes": grown.sizes}, indent=1))
    runs = [each for of in grown.chunks.values() for found in of.values() for each in found]
    runs += [each for found in grown.calls.values() for each in found]
    failed = failures(runs)
    if failed["failed"]:
        print(f"failed calls: {failed['failures']}")
    return 1 if failed["failed"] else 0
