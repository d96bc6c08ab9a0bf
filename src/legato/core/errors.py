"""Errors as a client sees them: an HTTP status and OpenAI's error object.

Split by whose fault it is. Everything that is not an `ApiError` is our own bug and becomes a 500
that tells nothing of our insides.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from legato.core.error_phrases import actual_status, is_spent, is_too_long

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


_TRY_AGAIN: Final = "Try again later."

#: The same advice at the end of an upstream's message.
_RETRY_ADVICE: Final = re.compile(
    r"[\s,;:-]*(?:\b(?:and|then) )?(?:\bplease,? )?\b(?:try|retry)(?: again)? later[\s.!]*$",
    re.IGNORECASE,
)
_SENTENCE_ENDS: Final = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f")

#: Statuses of failures that another try may cure, and codes of those that stay until the operator
#: has done something.
_CURABLE: Final = frozenset({429, 502, 503, 504})
_INCURABLE: Final = frozenset(
    {"insufficient_quota", "upstream_quota", "upstream_tls", "upstream_proxy"}
    | {f"upstream_{status}" for status in (401, 402, 403, 404, 405)}
)


#: OpenAI's words for a prompt that is too long. LiteLLM, and with it aider, reads them and no code.
_TOO_LONG: Final = "This model's maximum context length is"


class ErrorSource(Struct, frozen=True):
    """An upstream's answer that an error was read from, for clients of its own `format`."""

    format: str
    status: int
    body: bytes


class ApiError(Exception):
    """An answer that is an error.

    `status` is the HTTP status before the first frame is committed; after it, only the error
    object is sent, as the stream's last frame. `retry_after` is in seconds. `source`: the error as
    the upstream sent it, where a client may see that.
    """

    source: ErrorSource | None = None

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
        self.is_curable = status in _CURABLE and code not in _INCURABLE
        """Whether the same request may succeed later."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code}: {self.message}>"

    @property
    def public_message(self) -> str:
        """The message for the client. Agents decide by its last words whether to try again."""
        if not self.is_curable:
            return self.message
        message = _RETRY_ADVICE.sub("", self.message)
        if not message.strip():
            return _TRY_AGAIN
        if not message.rstrip().endswith(_SENTENCE_ENDS):
            message = f"{message.rstrip()}."
        return f"{message} {_TRY_AGAIN}"

    def as_object(self) -> dict[str, Any]:
        """OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""
        message = self.public_message
        if self.code == "context_length_exceeded" and _TOO_LONG.lower() not in message.lower():
            message = f"{_TOO_LONG} exceeded: {message}"
        return {
            "error": {
                "message": message,
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


def bad_gateway(message: str, *, code: str = "upstream_error") -> UpstreamError:
    """The upstream answered, and the answer cannot be relied on: 502."""
    return UpstreamError(502, code, message)


def malformed(error: Exception) -> UpstreamError:
    return bad_gateway(f"The upstream sent a malformed event: {error}", code="upstream_malformed")


def gateway_timeout(message: str, *, code: str = "upstream_timeout") -> UpstreamError:
    """The upstream sent nothing that counts as progress in time: 504."""
    return UpstreamError(504, code, message)


def service_unavailable(message: str, *, code: str = "service_unavailable") -> UpstreamError:
    """No deployment can take the call now: 503."""
    return UpstreamError(503, code, message)


def cannot_continue(reason: str) -> UpstreamError:
    """An answer that broke elsewhere cannot be gone on with exactly."""
    return bad_gateway(
        f"The answer broke off, and cannot be taken up: {reason}.", code="cannot_continue"
    )


def internal() -> ApiError:
    return ApiError(
        500, "internal_error", "The server had an internal error. It is not your fault."
    )


def broken_off(error: ApiError) -> UpstreamError:
    """A refusal of the caller's request that came in the middle of an answer."""
    failure = UpstreamError(502, error.code, error.message, param=error.param)
    failure.is_curable = error.is_curable
    return failure


def from_status(
    status: int,
    code: str | None,
    message: str,
    *,
    param: str | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """What an upstream's error status means to our client. A 400 is the caller's own and is passed
    on; what concerns our credential or our use of the upstream is ours, and becomes a 502."""
    status = actual_status(status, code, message)
    if status in (*_CALLERS, 404) and is_too_long(code, message):
        return ApiError(400, "context_length_exceeded", _shown(message), param="messages")
    if is_spent(code, message, retry_after):
        return UpstreamError(502, "upstream_quota", "What is paid for at the upstream is used up.")
    if status in _CALLERS:
        return ApiError(400, code or "invalid_request", _shown(message), param=param)
    if status in _OURS:  # the message may show a part of our key, or name our account
        text = f"The upstream {_OURS[status]} ({status})."
        return UpstreamError(502, f"upstream_{status}", text, retry_after=retry_after)
    return UpstreamError(
        public_status(status),
        "upstream_rate_limited" if status == 429 else f"upstream_{status}",
        f"The upstream answered {status}: {_shown(message)}",
        retry_after=retry_after,
    )


#: Statuses that say that the caller's request is at fault.
_CALLERS: Final = (400, 413, 422)

#: What is wrong with our own account there.
_OURS: Final = {
    401: "does not take our key",
    402: "wants to be paid first",
    403: "does not let our key do this",
}


def from_stream_event(
    status: int,
    code: str | None,
    message: str,
    *,
    param: str | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """An error that came as an event of a stream, by the status that it would have had. Servers
    that begin every answer with a 200 also send there what is the caller's own fault."""
    status = actual_status(status, code, message)
    if status != 429 and is_too_long(code, message):
        status = 400
    is_missing = status == 404 and code in _MISSING
    if status in (*_CALLERS, *_OURS) or is_missing or is_spent(code, message, retry_after):
        return from_status(status, code, message, param=param, retry_after=retry_after)
    public = public_status(status)
    code = code or "upstream_error"
    return UpstreamError(public, code, _shown(message), retry_after=retry_after)


#: Codes of a 404 that say no more than that.
_MISSING: Final = (
    *(None, "ModelNotFound", "NotFoundError"),
    *("model_not_found", "not_found", "not_found_error"),
)


def _shown(message: str) -> str:
    return message[:_LONGEST]


_LONGEST: Final = 500


def error_code(value: Any) -> str | None:
    """An upstream's code for an error, as one word that is fit for a frame and a ledger."""
    if not isinstance(value, str) or not value.isprintable():
        return None
    return _NO_WORD.sub("_", value[:64]).strip("_") or None


_NO_WORD: Final = re.compile(r"[^\w.:/-]+")


def public_status(status: int) -> int:
    """The status that a client gets for an upstream's."""
    return {408: 504, 429: 429, 503: 503, 504: 504, 529: 503}.get(status, 502)


def blames_parameter(error: ApiError, name: str) -> bool:
    """Whether an upstream's refusal of a request is about its parameter `name`, or a part of it."""
    if isinstance(error, UpstreamError):
        return False
    pattern = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    return any(re.search(pattern, text) for text in (error.param or "", error.message))
