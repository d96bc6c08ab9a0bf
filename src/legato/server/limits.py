"""What a client's connection may do."""

from msgspec import Struct

from legato.core.errors import ApiError


class Limits(Struct, frozen=True):
    """What a peer may do. Sizes in bytes, times in seconds."""

    body: int = 32 * 1024 * 1024
    header: int = 64 * 1024
    connections: int = 20_000
    request_seconds: float = 30.0
    idle_seconds: float = 75.0
    cors_origins: frozenset[bytes] = frozenset()
    trusted_proxies: frozenset[str] = frozenset()


def too_large(limit: int) -> ApiError:
    """`limit`: bytes of a body, decoded."""
    return ApiError(413, "request_too_large", f"The request body is over {limit} bytes.")
