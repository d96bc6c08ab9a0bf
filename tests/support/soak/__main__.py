"""`python -m tests.support.soak NAME` runs one of `SOAKS`."""

import sys
from collections.abc import Callable
from typing import Final

from tests.support.soak import exact, kill, limits, valkey

SOAKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "exact": exact.main,
    "kill": kill.main,
    "limits": limits.main,
    "valkey": valkey.main,
}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in SOAKS:
        print(f"soak: choose one of {', '.join(SOAKS)}", file=sys.stderr)
        return 2
    try:
        SOAKS[name](sys.argv[2:])
    except AssertionError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
