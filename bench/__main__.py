"""`python -m bench`: gateways compared; or the engine, what grows, a call from inside, padding."""

import signal
import sys
from collections.abc import Callable
from typing import Final

from bench import comparison, engine, frames, growth, inside, seams
from bench.gateways import BenchError

#: The benches that are called by a word of their own.
BENCHES: Final[dict[str, Callable[[], int]]] = {
    "engine": engine.main,
    "growth": growth.main,
    "inside": inside.main,
    "padding": frames.main,
    "seams": seams.main,
}


def main() -> int:
    # Ended from outside, it still ends its children.
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
