"""Cross-origin requests: which origins may read an answer (Fetch standard, section 3.2)."""

from collections.abc import Mapping
from typing import Final

from legato.policy import rate_headers

Headers = list[tuple[bytes, bytes]]

_EXPOSED: Final = ", ".join(
    ("x-request-id", "retry-after", "x-legato-deployment", "x-legato-attempts", *rate_headers.NAMES)
).encode()
_METHODS: Final = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"
#: Seconds for which a browser may keep the answer to a preflight.
_MAX_AGE: Final = b"600"


class Cors:
    """The origins that are allowed; `*` allows all of them."""

    __slots__ = ("_allows_all", "_origins")

    def __init__(self, origins: frozenset[bytes] = frozenset()) -> None:
        self._origins = origins
        self._allows_all = b"*" in origins

    def allows(self, origin: bytes | None) -> bool:
        return origin is not None and (self._allows_all or origin in self._origins)

    def headers(self, origin: bytes | None) -> Headers:
        """The headers of each answer to a page of `origin`, whatever its status."""
        if origin is None or not self.allows(origin):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]

    def preflight(self, fields: Mapping[bytes, bytes]) -> Headers | None:
        """The further headers of the answer to a preflight from an allowed origin, by the headers
        of the request; None for any other request.

        A private network's server has to allow a page of a public one expressly
        (Private Network Access, `access-control-request-private-network`).
        """
        method = fields.get(b"access-control-request-method")
        if method is None or not self.allows(fields.get(b"origin")):
            return None
        allowed = fields.get(b"access-control-request-headers") or b"*"
        answer = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", _MAX_AGE),
        ]
        if fields.get(b"access-control-request-private-network", b"").lower() == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return answer
