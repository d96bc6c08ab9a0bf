"""`python -m bench`: workloads against gateways in turn, round by round, and the result shown."""

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import pyspy, report
from bench.gateways import BenchError, Direct, Gateway, Legato, Nginx, Running, nginx
from bench.session import Cores, Figures, Mock, Profile, measure, undisturbed
from bench.workloads import DEFAULT, WORKLOADS, Workload, shrunk


def arguments() -> argparse.Namespace:
    shown = "\n".join(f"  {each.name}  {each.about}" for each in WORKLOADS.values())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="What a chunk, a call and an open stream cost, in Legato and in nginx.",
        epilog=f"workloads:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each gateway in turn")
    parser.add_argument("--smoke", action="store_true", help="all of it, small: a working check")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--against", metavar="URL", help="another gateway, running already")
    parser.add_argument("--against-key", metavar="KEY", default="none")
    parser.add_argument(
        "--upstream-port", type=int, default=0, help="the mock's, for --against to be set up with"
    )
    parser.add_argument(
        "--tick-us",
        type=int,
        default=1000,
        help="the upstream sends at every such tick the chunks of the streams whose turn it is:"
        " W1 has 10 a tick of 1000, one a tick of 100 (default: 1000)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        help="seconds to wait before each run for others to leave the cores alone; a run that they"
        " disturbed is repeated where it is short (0: never; default: 10)",
    )
    parser.add_argument("--no-nginx", action="store_true", help="do without the yardstick")
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="one more run of W1 (or of the first workload named) under py-spy:"
        " a flame graph for .svg, else collapsed stacks",
    )
    given = parser.parse_args()
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    if given.rounds < 1 or not 50 <= given.tick_us <= 20_000:
        parser.error("--rounds is at least 1, --tick-us 50 to 20000")
    return given


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
    if figures["failed"]:
        parts.append(f"{figures['failed']} FAILED")
    return ", ".join(parts)


def run(given: argparse.Namespace, folder: Path) -> int:
    workloads = [WORKLOADS[name] for name in given.workloads or DEFAULT]
    rounds = given.rounds
    if given.smoke:
        workloads, rounds = [shrunk(each) for each in workloads], 1
    gateways: list[Gateway] = [Direct()]
    if not given.no_nginx:
        gateways.append(Nginx(folder))
    gateways.append(Legato(folder))
    if given.against:
        gateways.append(Running(given.against, given.against_key))
    cores = Cores()
    patience = 0.0 if given.smoke else given.patience
    began = time.monotonic()
    mock = Mock(cores, given.upstream_port, given.tick_us)
    try:
        taken: report.Rounds = {each.name: {g.name: [] for g in gateways} for each in workloads}
        for number in range(1, rounds + 1):
            for workload in workloads:
                for gateway in gateways:
                    figures = undisturbed(workload, gateway, mock, cores, patience)
                    taken[workload.name][gateway.name].append(figures)
                    where = f"{workload.name} {number}/{rounds} {gateway.name}"
                    progress(f"{time.monotonic() - began:4.0f} s  {where:16} {short(figures)}")
        if given.profile:
            profile(given.profile, workloads, folder, mock, cores)
    finally:
        mock.stop()
    for of in taken.values():
        report.add_differences(of)
    said = report.summary(taken)
    about = report.machine(cores.number)
    show(about, workloads, said, rounds)
    if given.json:
        given.json.write_text(json.dumps({"machine": about, "workloads": said}, indent=1))
    failed = sum(of["failed"] for each in said.values() for of in each.values())
    return 1 if failed else 0


def profile(file: str, workloads: list[Workload], folder: Path, mock: Mock, cores: Cores) -> None:
    if pyspy.install() is None:
        raise BenchError("py-spy cannot be installed: is there a network?")
    workload = next((each for each in workloads if each.name == "W1"), workloads[0])
    spied = folder / "profiled"
    spied.mkdir()
    measure(workload, Legato(spied), mock, cores, Profile(file, workload.seconds))
    progress(f"{workload.name} profiled in {file}")


def show(
    about: dict[str, object], workloads: list[Workload], said: report.Rounds, rounds: int
) -> None:
    print(
        f"{about['date']}, {about['cores']} cores ({about['cpu']}), Linux {about['kernel']},"
        f" Python {about['python']}, nginx {about['nginx']},"
        f" commit {about['commit']}{' and changes' if about['changed'] else ''}"
    )
    print(f"medians of {rounds} round{'s' if rounds > 1 else ''}\n")
    print(report.table(workloads, said))
    print()
    for line in (report.start_line(said), *report.remarks(said)):
        if line:
            print(line)


def main() -> int:
    given = arguments()
    if not given.no_nginx and nginx() is None:
        progress("There is no nginx. Install it (Debian: nginx-light), or say --no-nginx.")
        return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Ended from outside, it still ends its children.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
        try:
            return run(given, Path(folder))
        except BenchError as error:
            progress(f"bench: {error}")
            return 2


if __name__ == "__main__":
    sys.exit(main())
