"""Headers that tell a client what is left of its limits."""

import math
import time
from collections.abc import Mapping
from typing import Final

from legato.store.live import Kind, Level

#: What OpenAI's headers and Anthropic's count.
KINDS: Final[tuple[Kind, ...]] = ("requests", "tokens")

_PARTS: Final = ("limit", "remaining", "reset")


#: Names of all of them, in lower case.
NAMES: Final = (
    *(f"x-ratelimit-{part}-{kind}" for kind in KINDS for part in _PARTS),
    *(f"anthropic-ratelimit-{kind}-{part}" for kind in KINDS for part in _PARTS),
)


def openai_lines(levels: Mapping[Kind, Level]) -> bytes:
    """`x-ratelimit-*`, as OpenAI's servers send them; `levels` by kind."""
    return b"".join(
        b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n"
        % (name, level.limit, name, _whole(level), name, duration(level.reset).encode())
        for name, level in _named(levels)
    )


def anthropic_lines(levels: Mapping[Kind, Level], now: float) -> bytes:
    """`anthropic-ratelimit-*`, as Anthropic's servers send them. `now`: Unix seconds."""
    return b"".join(
        b"anthropic-ratelimit-%b-limit: %d\r\n"
        b"anthropic-ratelimit-%b-remaining: %d\r\n"
        b"anthropic-ratelimit-%b-reset: %b\r\n"
        % (name, level.limit, name, _whole(level), name, _moment(now + level.reset))
        for name, level in _named(levels)
    )


def _named(levels: Mapping[Kind, Level]) -> list[tuple[bytes, Level]]:
    return [(kind.encode(), levels[kind]) for kind in KINDS if kind in levels]


def _whole(level: Level) -> int:
    """A part of a request is none."""
    return max(0, math.floor(level.remaining + 1e-9))


def duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `8.64s`, `6m0s`, `1h0m5s`. Rounded up."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    rest = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}"
    return f"{minutes}m{rest}" if minutes else rest


def _moment(unix: float) -> bytes:
    """RFC 3339, rounded up to a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(math.ceil(unix))).encode()
