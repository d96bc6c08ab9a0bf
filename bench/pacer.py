"""Ticks finer than a millisecond, which is the resolution of libuv's own timers: a timerfd."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final

_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Pacer:
    """While it runs, calls `tick(number)` for every period that has passed, without omissions."""

    def __init__(self, period_us: int, tick: Callable[[int], None]) -> None:
        self._period_us = period_us
        self._tick = tick
        self._number = 0
        self._fd: int | None = None

    def start(self) -> None:
        if self._fd is not None:
            return
        fd = _libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        seconds, rest = divmod(self._period_us * 1000, 1_000_000_000)
        # struct itimerspec: the interval, then the first expiry
        if fd < 0 or _libc.timerfd_settime(
            fd, 0, struct.pack("@llll", seconds, rest, seconds, rest), None
        ):
            raise OSError(ctypes.get_errno(), "timerfd")
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._expired)

    def stop(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _expired(self) -> None:
        assert self._fd is not None
        try:
            (passed,) = struct.unpack("@Q", os.read(self._fd, 8))
        except BlockingIOError:
            return
        for _ in range(passed):
            self._number += 1
            self._tick(self._number)
            if self._fd is None:
                return
