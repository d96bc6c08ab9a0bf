"""Whether a native endpoint takes a request: decided by its head, before its body is read."""

from typing import Final

from legato.core.errors import ApiError
from legato.policy.keys import Key
from legato.server.context import ServerContext
from legato.server.reader import RequestHead

#: Content encodings that leave a body as it is.
_PLAIN: Final = (b"", b"identity")


def admit(context: ServerContext, head: RequestHead) -> Key:
    """Who sends the request. Raises `ApiError` 401, 413 or 415."""
    key = context.services.keyring.identify(head.fields.items())
    length = head.length
    if length is not None and length > context.limits.body:
        raise too_large(context.limits.body)
    if b"content-encoding" in head.fields:
        _check_encoding(head)
    return key


def too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The request body is over {limit} bytes.")


def _check_encoding(head: RequestHead) -> None:
    values = [value for name, value in head.headers if name == b"content-encoding"]
    for encoding in b",".join(values).split(b","):
        if (name := encoding.strip().lower()) not in _PLAIN:
            raise ApiError(
                415,
                "unsupported_encoding",
                f"The content encoding `{name.decode('latin-1')}` is not supported: "
                "send the body as it is.",
            )
