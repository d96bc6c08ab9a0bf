"""`scripts/bench growth`: what a chunk costs with more streams open, and a call with more keys,
routes and calls in the ledger. Tables, and plots for docs/performance.md.
"""

import argparse
import json
import math
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import asdict, replace

from bench import plot, report
from bench.gateways import Gateway, LeftOut, Legato, Nginx, nginx
from bench.session import SETTLE, Cores, Figures, Mock, failures, fitted, measure, undisturbed
from bench.workloads import W1, W2, Workload
from legato.policy.keys import digest
from legato.policy.ledger import Row

ROOT: Final = Path(__file__).parent.parent

#: Chunks a second of all streams together, however many there are: W1's.
RATE: Final = 10_000
STREAMS: Final = (50, 200, 1_000, 5_000)
ROWS: Final = 1_000_000
STEADY: Final = 5.0


def open_streams(number: int, steady: float) -> Workload:
    """`number` open streams that bring `RATE` chunks a second between them. The first to be opened
    stays until what is measured is over."""
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


def add_keys(legato: Legato, number: int) -> None:
    """So many keys, with the one that is there."""
    rows = [
        (f"key_{each:016x}", f"user {each}", digest(f"lg-{each}".encode()), time.time())
        for each in range(number - 1)
    ]
    with sqlite3.connect(legato.database) as database:
        database.executemany(
            "INSERT INTO keys (id, name, digest, created) VALUES (?, ?, ?, ?)", rows
        )
    database.close()


def add_calls(legato: Legato, number: int) -> None:
    """So many calls in the ledger, a second apart, as a complete stream leaves them."""
    row = Row(
        "",
        0.0,
        key="key_0123456789abcdef",
        route="bench",
        upstream_id="chatcmpl-bench",
        deployments="bench",
        streamed=True,
        outcome="complete",
        prompt_tokens=200,
        completion_tokens=200,
        prompt_from="exact",
        completion_from="exact",
        ttft=0.123456,
        itl_p50=0.0201234,
        itl_p99=0.0312345,
        longest_gap=0.0412345,
        duration=4.123456,
        frames=202,
        bytes=46_000,
        attempts=1,
    )
    fields = asdict(row)
    del fields["id"], fields["received"]
    names = ", ".join(f'"{name}"' for name in fields)
    values = ", ".join("?" for _ in fields)
    with sqlite3.connect(legato.database) as database:
        database.execute(
            f"INSERT INTO calls (id, received, {names})"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" SELECT 'chatcmpl-' || lower(hex(randomblob(16))), ? - i, {values} FROM n",
            (number, time.time(), *fields.values()),
        )
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def routes(number: int) -> str:
    """So many deployments, each with a route of its own, with the one that is there."""
    return "".join(
        f'[[deployments]]\nname = "other-{each}"\nmodel = "bench"\n'
        'base_url = "http://127.0.0.1:9/v1"\n'
        for each in range(number - 1)
    )


class Growth:
    """What has been measured so far."""

    def __init__(self, folder: Path, mock: Mock, cores: Cores, given: argparse.Namespace) -> None:
        self.chunks: dict[str, dict[int, list[Figures]]] = {}
        self.calls: dict[str, list[Figures]] = {}
        self.sizes: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        self._folder, self._mock, self._cores, self._given = folder, mock, cores, given
        self._began = time.monotonic()

    def run(self) -> None:
        small = self._given.small
        rows, most_keys = (1_000, 100) if small else (ROWS, 10_000)
        gateways: list[Gateway] = [Nginx(self._folder)] if nginx() else []
        gateways.append(Legato(self._folder))
        legatos = {
            "1 key": self._legato("one"),
            "100 keys": self._legato("100", lambda each: add_keys(each, 100)),
            f"{most_keys:,} keys": self._legato("keys", lambda each: add_keys(each, most_keys)),
            "50 routes": self._legato("routes", more=routes(50)),
            f"{rows:,} calls": self._legato("calls", lambda each: add_calls(each, rows)),
        }
        self.sizes = {
            name: each.database.stat().st_size
            for name, each in legatos.items()
            if name in ("1 key", f"{rows:,} calls")
        }
        for number in range(1, self._given.rounds + 1):
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
    files = [folder / "growth-streams.svg", folder / "growth-calls.svg"]
    plot.lines(
        files[0],
        f"CPU per chunk, {RATE:,} chunks a second in all",
        "open streams",
        "µs",
        {
            name: [
                (streams, _median(each, "cpu_us_per_chunk_open")) for streams, each in of.items()
            ]
            for name, of in grown.chunks.items()
        },
    )
    plot.bars(
        files[1],
        "CPU per call",
        "µs",
        {name: _median(each, "cpu_us_per_call") for name, each in grown.calls.items()},
    )
    return files


def tables(grown: Growth) -> str:
    """As docs/performance.md has them."""
    names = list(grown.chunks)
    lines = [f"| open streams | {' | '.join(f'{name}, µs a chunk' for name in names)} |"]
    lines.append("|--:|" + "--:|" * len(names))
    for streams in sorted({each for of in grown.chunks.values() for each in of}):
        found = [grown.chunks[name].get(streams) for name in names]
        shown = [f"{_median(each, 'cpu_us_per_chunk_open'):.1f}" if each else "-" for each in found]
        lines.append(f"| {streams:,} | {' | '.join(shown)} |")
    lines += ["", "| | CPU per call, µs | TTFT p50, µs | start, s |", "|---|--:|--:|--:|"]
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--small", action="store_true", help="shows that it works, measures nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--svg", type=Path, metavar="FOLDER", help="where the plots go (default: docs)"
    )
    parser.add_argument(
        "--patience", type=float, default=10.0, help="seconds to wait for quiet cores before a run"
    )
    given = parser.parse_args()
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
    if given.svg or not given.small:
        print("written:", *draw(grown, given.svg or ROOT / "docs"))
    said: dict[str, Any] = {"machine": machine, "chunks": grown.chunks, "calls": grown.calls}
    if given.json:
        given.json.write_text(json.dumps(said | {"bytes": grown.sizes}, indent=1))
    runs = [each for of in grown.chunks.values() for found in of.values() for each in found]
    runs += [each for found in grown.calls.values() for each in found]
    failed = failures(runs)
    if failed["failed"]:
        print(f"failed calls: {failed['failures']}")
    return 1 if failed["failed"] else 0
