"""Whether a native endpoint takes a request: decided by its head, before its body is read."""

from legato.policy.keys import Key
from legato.server.context import ServerContext
from legato.server.encoded_body import encoding_of
from legato.server.limits import too_large
from legato.server.reader import RequestHead


def admit(context: ServerContext, head: RequestHead) -> Key:
    """Who sends the request. Raises `ApiError` 401, 413 or 415."""
    key = context.services.keyring.identify(head.fields.items())
    length = head.length
    if length is not None and length > context.limits.body:
        raise too_large(context.limits.body)
    if b"content-encoding" in head.fields:
        encoding_of(head.headers)
    return key
