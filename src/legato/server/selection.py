"""Which kind of exchange answers a request: decided when its head is complete."""

from typing import Final

from legato.core.errors import ApiError
from legato.server.admission import admit
from legato.server.asgi import AsgiExchange
from legato.server.context import NATIVE, front_at
from legato.server.exchange import Connection, Exchange, NativeExchange
from legato.server.reader import RequestHead
from legato.server.static import StaticExchange

#: Paths at which some clients first try a WebSocket. On a 426 they use HTTP at once, on another
#: status they try again for seconds.
_WEBSOCKET_PATHS: Final = (b"/v1/responses",)

#: RFC 9110, sections 7.8 and 15.5.22: what to use instead.
_UPGRADE: Final = [(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade")]


def exchange_for(connection: Connection, head: RequestHead) -> Exchange:
    context = connection.context
    origin = head.fields.get(b"origin")
    front = NATIVE.get((head.method, head.path))
    if front is not None:
        try:
            return NativeExchange(connection, front, admit(context, head), head)
        except ApiError as error:
            return StaticExchange.refusal(connection, front, error, origin=origin, head=head)
    if head.method == b"GET" and b"upgrade" in head.fields and head.path in _WEBSOCKET_PATHS:
        return _upgrade_required(connection, head)
    if head.method == b"OPTIONS":
        headers = context.cors.preflight(head.fields)
        if headers is not None:
            return StaticExchange(connection, 204, headers, origin=origin, head=head)
    return AsgiExchange(connection, head)


def _upgrade_required(connection: Connection, head: RequestHead) -> Exchange:
    path = head.path.decode("latin-1")
    error = ApiError(
        426,
        "websocket_not_supported",
        f"{path} has no WebSocket: send POST {path} over HTTP/1.1.",
    )
    return StaticExchange.refusal(
        connection,
        front_at(head.path),
        error,
        origin=head.fields.get(b"origin"),
        head=head,
        headers=_UPGRADE,
    )
