"""Errors as a client sees them: an HTTP status and OpenAI's error object.

Split by whose fault it is. Everything that is not an `ApiError` is our own bug and becomes a 500
that tells nothing of our insides.
"""

from typing import Any, Final

import msgspec

#: The `type` that goes with a status, after section 4 of the contract.
TYPES: Final[dict[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "internal_error",
    502: "upstream_error",
    503: "service_unavailable",
    504: "upstream_timeout",
}


class ApiError(Exception):
    """An answer that is an error.

    `status` is the HTTP status before the first frame is committed; after it, only the error
    object is sent, as the stream's last frame. `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = TYPES.get(status, "invalid_request_error" if status < 500 else "upstream_error")
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code}: {self.message}>"

    def as_object(self) -> dict[str, Any]:
        """OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def as_json(self) -> bytes:
        return msgspec.json.encode(self.as_object())


class UpstreamError(ApiError):
    """The upstream's fault, or that of the way there: another deployment may do better."""


def invalid(message: str, *, param: str | None = None, code: str = "invalid_request") -> ApiError:
    return ApiError(400, code, message, param=param)


def broken(message: str, *, code: str = "upstream_error") -> UpstreamError:
    """The upstream answered, and the answer cannot be relied on: 502."""
    return UpstreamError(502, code, message)


def malformed(error: Exception) -> UpstreamError:
    return broken(f"The upstream sent a malformed event: {error}", code="upstream_malformed")


def timed_out(message: str, *, code: str = "upstream_timeout") -> UpstreamError:
    """The upstream said nothing that counts as progress in time: 504."""
    return UpstreamError(504, code, message)


def unavailable(message: str, *, code: str = "service_unavailable") -> UpstreamError:
    """No deployment can take the call now: 503."""
    return UpstreamError(503, code, message)


def internal() -> ApiError:
    return ApiError(
        500, "internal_error", "The server had an internal error. It is not your fault."
    )


def refused(
    status: int,
    code: str | None,
    message: str,
    *,
    param: str | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """What an upstream's error status means to our client. A 400 is the caller's own and is passed
    on; what concerns our credential or our use of the upstream is ours, and becomes a 502."""
    if status in (400, 404, 413, 422):
        if code in _TOO_LONG or _says_too_long(message):
            return ApiError(400, "context_length_exceeded", message, param="messages")
        if status != 404:
            return ApiError(400, code or "invalid_request", message, param=param)
    return UpstreamError(
        public_status(status),
        "upstream_rate_limited" if status == 429 else f"upstream_{status}",
        f"The upstream answered {status}: {message}",
        retry_after=retry_after,
    )


def public_status(status: int) -> int:
    """The status that a client gets for an upstream's."""
    return {408: 504, 429: 429, 503: 503, 504: 504, 529: 503}.get(status, 502)


_TOO_LONG: Final = ("context_length_exceeded", "exceed_context_size_error")


def _says_too_long(message: str) -> bool:
    message = message.lower()
    return any(
        words in message for words in ("context length", "context size", "prompt is too long")
    )
