"""`python -m bench` compares gateways; other benches are subcommands, see `BENCHES`."""

import signal
import sys
from collections.abc import Callable
from typing import Final

from bench import affinity, agents, comparison, continuation, engine, growth, limits, padding
from bench.gateways import BenchError

#: The benches that have a name of their own.
BENCHES: Final[dict[str, Callable[[], int]]] = {
    "affinity": affinity.main,
    "agents": agents.main,
    "continuation": continuation.main,
    "engine": engine.main,
    "growth": growth.main,
    "limits": limits.main,
    "padding": padding.main,
}


def main() -> int:
    # SystemExit, so that children are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bench = BENCHES.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if bench is not None:
        sys.argv.pop(1)
    try:
        return (bench or comparison.main)()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
