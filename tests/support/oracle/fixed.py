"""What differs from run to run in a server, made the same: the time of day and random ids."""

import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from typing import Final

#: Unix time at which the clock of a conversation has 0.
_EPOCH: Final = 1_750_000_000.0


@contextmanager
def fixed_sources(clock: Callable[[], float]) -> Generator[None, None, None]:
    """For a while, ids are numbers of the order in which they are made, and the time is `clock`'s.

    So two runs differ in an id where they make another number of them, or in another order.
    """
    numbers = count()
    token_hex, time_of_day = secrets.token_hex, time.time

    def numbered(size: int | None = None) -> str:
        return f"{next(numbers):0{2 * (size or 32)}x}"

    secrets.token_hex, time.time = numbered, lambda: _EPOCH + clock()
    try:
        yield
    finally:
        secrets.token_hex, time.time = token_hex, time_of_day
