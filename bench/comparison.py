"""Workloads against gateways in turn, round by round; what is asked for on the command line."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import peers, pyspy, report, session, slow
from bench.gateways import (
    BenchError,
    Direct,
    Gateway,
    LeftOut,
    Legato,
    Nginx,
    Running,
    nginx,
)
from bench.session import Cores, Figures, Mock, Profile, fitted, undisturbed
from bench.workloads import DEFAULT, SMOKE, WORKLOADS, Workload, shrunk


def arguments() -> argparse.Namespace:
    shown = "\n".join(f"  {each.name}  {each.about}" for each in WORKLOADS.values())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="What a chunk, a call and an open stream cost, in Legato and in nginx.",
        epilog=f"workloads:\n{shown}\n\nOther benches: scripts/bench engine|growth|padding --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = parser.add_argument
    say("workloads", nargs="*", metavar="WORKLOAD", help=f"default: {' '.join(DEFAULT)}; or: all")
    say("--rounds", type=int, default=3, help="of each gateway in turn")
    say("--smoke", action="store_true", help="all of it, small: a working check")
    say("--json", type=Path, metavar="FILE", help="write every figure there")
    say("--read", type=Path, metavar="FILE", help="measure nothing: show what --json wrote")
    say("--markdown", action="store_true", help="tables as docs/performance.md has them")
    say("--peers", action="store_true", help=f"other gateways too: {peers.shown()}")
    say("--against", metavar="URL", help="another gateway, running already")
    say("--against-key", metavar="KEY", default="none")
    say("--upstream-port", type=int, default=0, help="the mock's, to set up --against with")
    say(
        "--tick-us",
        type=int,
        default=1000,
        help="the upstream sends at every such tick the chunks of the streams whose turn it is:"
        " W1 has 10 a tick of 1000, one a tick of 100 (default: 1000)",
    )
    say(
        "--patience",
        type=float,
        default=10.0,
        help="seconds to wait before each run for others to leave the cores alone; a run that they"
        " disturbed is repeated where it is short (0: never; default: 10)",
    )
    say("--no-nginx", action="store_true", help="do without the yardstick")
    say(
        "--profile",
        metavar="FILE",
        help="one more run of W1 (or of the first workload named) under py-spy:"
        " a flame graph for .svg, else collapsed stacks",
    )
    given = parser.parse_args()
    if given.workloads == ["all"]:
        given.workloads = list(WORKLOADS)
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    if given.rounds < 1 or not 50 <= given.tick_us <= 20_000:
        parser.error("--rounds is at least 1, --tick-us 50 to 20000")
    return given


class Comparison:
    """What has been measured so far. Reports every run as it ends."""

    def __init__(self, mock: Mock, cores: Cores, patience: float) -> None:
        self.mock = mock
        self.cores = cores
        self.patience = patience
        self.taken: report.Rounds = {}
        self.notes: dict[str, str] = {}
        self._left_out: set[str] = set()
        self.configured: dict[str, str] = {}
        self._began = time.monotonic()

    def run(self, workload: Workload, gateway: Gateway, number: int, of: int) -> None:
        """One round of one gateway, unless it is left out."""
        where = f"{workload.name}, {gateway.name}"
        if not gateway.takes(workload) or where in self._left_out or number > workload.rounds:
            return
        self.configured[gateway.name] = gateway.about
        workload, fewer = fitted(workload)
        if fewer:
            self.notes[workload.name] = fewer
        if workload.seconds > 20:
            self.progress(f"{where}: {workload.seconds:.0f} s or more ...")
        try:
            figures = undisturbed(
                workload,
                lambda: once(workload, gateway, self.mock, self.cores),
                self.cores,
                self.patience,
            )
        except LeftOut as reason:
            self.leave_out(where, reason)
            return
        self.taken.setdefault(workload.name, {}).setdefault(gateway.name, []).append(figures)
        self.progress(f"{workload.name} {number}/{of} {gateway.name:8} {report.short(figures)}")

    def leave_out(self, where: str, reason: LeftOut) -> None:
        self._left_out.add(where)
        self.notes[where] = f"left out: {reason}"
        self.progress(f"{where}: left out: {reason}")

    def progress(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:4.0f} s  {text}", file=sys.stderr, flush=True)


def once(
    workload: Workload,
    gateway: Gateway,
    mock: Mock,
    cores: Cores,
    profile: Profile | None = None,
) -> Figures:
    measure = slow.measure if workload.slow else session.measure
    return measure(workload, gateway, mock, cores, profile)


def compare(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rounds, and what they say: `{"machine", "workloads", "notes", "configured"}`."""
    names = given.workloads or (SMOKE if given.smoke else DEFAULT)
    workloads = [WORKLOADS[name] for name in names]
    cores = Cores()
    mock = Mock(cores, given.upstream_port, given.tick_us)
    done = Comparison(mock, cores, 0.0 if given.smoke else given.patience)
    try:
        if given.smoke:
            smoke(done, folder, [shrunk(each) for each in workloads], not given.no_nginx)
        else:
            in_turn(done, workloads, _gateways(given, folder, done), given.rounds)
        if given.profile:
            profiled(given.profile, workloads, folder, done)
    finally:
        mock.stop()
    for of in done.taken.values():
        report.add_differences(of)
    return {
        "machine": report.machine(1 if given.smoke else given.rounds),
        "workloads": report.summary(
            {name: done.taken[name] for name in names if name in done.taken}
        ),
        "notes": done.notes,
        "configured": done.configured,
    }


def _gateways(given: argparse.Namespace, folder: Path, done: Comparison) -> list[Gateway]:
    gateways: list[Gateway] = [Direct()]
    if not given.no_nginx:
        gateways.append(Nginx(folder))
    gateways.append(Legato(folder))
    if given.against:
        gateways.append(Running(given.against, given.against_key))
    return gateways + (peers.installed(folder, done) if given.peers else [])


def in_turn(
    done: Comparison, workloads: list[Workload], gateways: list[Gateway], rounds: int
) -> None:
    for number in range(1, rounds + 1):
        for workload in workloads:
            for gateway in gateways:
                done.run(workload, gateway, number, min(rounds, workload.rounds))


def smoke(done: Comparison, folder: Path, workloads: list[Workload], with_nginx: bool) -> None:
    """Nothing is measured, so all can go on at once: every workload through Legato, the first
    through the others."""

    def lane(gateway: Callable[[], Gateway], some: list[Workload]) -> Callable[[], None]:
        def play() -> None:
            runs = gateway()
            for workload in some:
                done.run(workload, runs, 1, 1)

        return play

    lanes = [lane(lambda: Legato(folder / "a"), workloads[::2])]
    lanes.append(lane(lambda: Legato(folder / "b"), workloads[1::2]))
    lanes.append(lane(Direct, workloads[:1]))
    if with_nginx:
        lanes.append(lane(lambda: Nginx(folder), workloads[:1]))
    with ThreadPoolExecutor(len(lanes)) as pool:
        for future in [pool.submit(each) for each in lanes]:
            future.result()


def profiled(file: str, workloads: list[Workload], folder: Path, done: Comparison) -> None:
    if pyspy.install() is None:
        raise BenchError("py-spy cannot be installed: is there a network?")
    workload = next((each for each in workloads if each.name == "W1"), workloads[0])
    spied = Legato(folder / "profiled")
    once(workload, spied, done.mock, done.cores, Profile(file, workload.seconds))
    done.progress(f"{workload.name} profiled in {file}")


def main() -> int:
    given = arguments()
    if given.read:
        said = json.loads(given.read.read_text())
    else:
        if not given.no_nginx and nginx() is None:
            print("There is no nginx. Install it (Debian: nginx-light), or say --no-nginx.")
            return 2
        with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
            said = compare(given, Path(folder))
    if given.json:
        given.json.write_text(json.dumps(said, indent=1))
    print(report.markdown(said) if given.markdown else report.text(said))
    return 1 if report.failed(said, but={each.name for each in peers.ALL}) else 0
