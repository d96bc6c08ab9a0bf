"""What a client's connection may do."""

from msgspec import Struct


class Limits(Struct, frozen=True):
    """What a peer may do. Sizes in bytes, times in seconds."""

    body: int = 32 * 1024 * 1024
    header: int = 64 * 1024
    connections: int = 20_000
    request_seconds: float = 30.0
    idle_seconds: float = 75.0
    cors_origins: frozenset[bytes] = frozenset()
    trusted_proxies: frozenset[str] = frozenset()
