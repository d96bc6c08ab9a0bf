"""Runs workloads against gateways in turn, round by round, as the command line asks."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import peers, pyspy, report, session, slow
from bench.gateways import Direct, Gateway, LeftOut, Legato, Nginx, OtherTree, Running, nginx
from bench.session import Cores, Figures, Mock, Profile, fitted, undisturbed
from bench.upstream_formats import FORMAT_NAMES
from bench.workloads import DEFAULT, SMOKE, WORKLOADS, Workload, shrunk


def arguments() -> argparse.Namespace:
    workloads = "\n".join(f"  {each.name}  {each.about}" for each in WORKLOADS.values())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures what a chunk, a call and an open stream cost in Legato and in nginx.",
        epilog=f"workloads:\n{workloads}\n\n"
        "Other benches: scripts/bench engine|growth|padding|continuation --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"default: {' '.join(DEFAULT)}; or: all")
    add("--rounds", type=int, default=3, help="how often each gateway has its turn (default: 3)")
    add("--smoke", action="store_true", help="everything, small: shows that it works")
    add(
        "--format",
        choices=FORMAT_NAMES,
        default="mix",
        help="whose format the upstream's answers have; mix: those of OpenAI, OpenRouter, vLLM and"
        " llama.cpp in turn; constant: OpenAI's, with the same id and time in every answer"
        " (default: mix)",
    )
    add(
        "--compare",
        type=Path,
        metavar="CHECKOUT",
        help="Legato from another source tree too, in the same rounds",
    )
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    add("--read", type=Path, metavar="FILE", help="measure nothing: show a FILE of --json")
    add("--markdown", action="store_true", help="print tables as in docs/performance.md")
    add("--peers", action="store_true", help=f"other gateways too: {peers.summary()}")
    add(
        "--peer",
        action="append",
        choices=peers.NAMES,
        default=[],
        help="only this one of them; may be repeated",
    )
    add("--against", metavar="URL", help="another gateway too, which already runs")
    add("--against-key", metavar="KEY", default="none")
    add("--upstream-port", type=int, default=0, help="the mock's port, to set up --against with")
    add(
        "--tick-us",
        type=int,
        default=1000,
        help="the upstream sends the chunks that are due at every such tick: in W1 10 chunks"
        " at each tick of 1000, one at each of 100 (default: 1000)",
    )
    add(
        "--patience",
        type=float,
        default=10.0,
        help="seconds to wait before each run until other processes leave the cores idle; a short"
        " run that they disturb is repeated (0: never; default: 10)",
    )
    add("--no-nginx", action="store_true", help="measure without the reference")
    add(
        "--profile",
        metavar="FILE",
        help="one more run of W1 (or of the first workload named) under py-spy: a flame graph for"
        " .svg, else collapsed stacks",
    )
    given = parser.parse_args()
    if given.workloads == ["all"]:
        given.workloads = list(WORKLOADS)
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    if given.rounds < 1 or not 50 <= given.tick_us <= 20_000:
        parser.error("--rounds must be at least 1, --tick-us 50 to 20000")
    return given


class Comparison:
    """The figures so far. Prints every run as it ends."""

    def __init__(self, mock: Mock, cores: Cores, patience: float) -> None:
        self.mock = mock
        self.cores = cores
        self.patience = patience
        self.rounds: report.Rounds = {}
        self.notes: dict[str, str] = {}
        self._left_out: set[str] = set()
        self.configured: dict[str, str] = {}
        self._began = time.monotonic()

    def run(
        self,
        workload: Workload,
        gateway: Gateway,
        number: int,
        of: int,
        mock: Mock | None = None,
    ) -> None:
        """One round of one gateway, unless it is left out. `mock`: another upstream than usual."""
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
                lambda: once(workload, gateway, mock or self.mock, self.cores),
                self.cores,
                self.patience,
            )
        except LeftOut as reason:
            self.leave_out(where, reason)
            return
        self.rounds.setdefault(workload.name, {}).setdefault(gateway.name, []).append(figures)
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


def compare(given: argparse.Namespace, folder: Path) -> report.Report:
    """Runs all rounds."""
    names = given.workloads or (SMOKE if given.smoke else DEFAULT)
    workloads = [WORKLOADS[name] for name in names]
    cores = Cores()
    mock = Mock(cores, given.upstream_port, given.tick_us, upstream_format=given.format)
    done = Comparison(mock, cores, 0.0 if given.smoke else given.patience)
    try:
        if given.smoke:
            smoke(done, folder, [shrunk(each) for each in workloads], given)
        else:
            in_turn(done, workloads, _gateways(given, folder, done), given.rounds)
        if given.profile:
            profiled(given.profile, workloads, folder, done)
    finally:
        mock.stop()
    for gateways in done.rounds.values():
        report.add_differences(gateways)
    return {
        "machine": report.machine(1 if given.smoke else given.rounds),
        "workloads": report.summary(
            {name: done.rounds[name] for name in names if name in done.rounds}
        ),
        "notes": done.notes,
        "configured": done.configured,
    }


def _gateways(given: argparse.Namespace, folder: Path, done: Comparison) -> list[Gateway]:
    gateways: list[Gateway] = [Direct()]
    if not given.no_nginx:
        gateways.append(Nginx(folder))
    gateways.append(Legato(folder))
    if given.compare:
        gateways.append(OtherTree(folder, given.compare))
    if given.against:
        gateways.append(Running(given.against, given.against_key))
    return gateways + peers.installed(folder, peers.NAMES if given.peers else given.peer, done)


def in_turn(
    done: Comparison, workloads: list[Workload], gateways: list[Gateway], rounds: int
) -> None:
    """Every second round has the gateways in the opposite order: the machine's speed changes."""
    for number in range(1, rounds + 1):
        for workload in workloads:
            for gateway in gateways if number % 2 else reversed(gateways):
                done.run(workload, gateway, number, min(rounds, workload.rounds))


def smoke(
    done: Comparison, folder: Path, workloads: list[Workload], given: argparse.Namespace
) -> None:
    """Every workload through Legato, and the first through the other gateways. Nothing is measured,
    so all of it runs at the same time, each with its own upstream."""

    def runner(gateway: Callable[[], Gateway], some: list[Workload]) -> Callable[[], None]:
        def run() -> None:
            started = gateway()
            mock = Mock(done.cores, 0, given.tick_us, upstream_format=given.format)
            try:
                for workload in some:
                    done.run(workload, started, 1, 1, mock)
            finally:
                mock.stop()

        return run

    runners = [runner(lambda: Legato(folder / "a"), workloads[::2])]
    runners.append(runner(lambda: Legato(folder / "b"), workloads[1::2]))
    runners.append(runner(Direct, workloads[:1]))
    if not given.no_nginx:
        runners.append(runner(lambda: Nginx(folder), workloads[:1]))
    if given.compare:
        runners.append(runner(lambda: OtherTree(folder, given.compare), workloads[:1]))
    with ThreadPoolExecutor(len(runners)) as pool:
        for future in [pool.submit(each) for each in runners]:
            future.result()


def profiled(file: str, workloads: list[Workload], folder: Path, done: Comparison) -> None:
    workload = next((each for each in workloads if each.name == "W1"), workloads[0])
    legato = Legato(folder / "profiled")
    once(workload, legato, done.mock, done.cores, Profile(file, workload.seconds))
    done.progress(f"{workload.name} profiled in {file}")


def main() -> int:
    given = arguments()
    if given.read:
        result = json.loads(given.read.read_text())
    else:
        if not given.no_nginx and nginx() is None:
            print("nginx is not installed. Install it (Debian: nginx-light), or use --no-nginx.")
            return 2
        if given.profile:
            pyspy.required()
        with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
            result = compare(given, Path(folder))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))
    print(report.markdown(result) if given.markdown else report.text(result))
    ignored = {each.name for each in peers.ALL}
    ignored |= {name for name in result["configured"] if name.startswith("legato@")}
    return 1 if report.failed(result, ignore=ignored) else 0
