"""Which kind of exchange answers a request: decided when its head is complete."""

from legato.core.errors import ApiError
from legato.server.admission import admit
from legato.server.asgi import AsgiExchange
from legato.server.context import NATIVE
from legato.server.exchange import Connection, Exchange, NativeExchange
from legato.server.reader import RequestHead
from legato.server.static import StaticExchange


def exchange_for(connection: Connection, head: RequestHead) -> Exchange:
    context = connection.context
    origin = head.fields.get(b"origin")
    front = NATIVE.get((head.method, head.path))
    if front is not None:
        try:
            return NativeExchange(connection, front, admit(context, head), head)
        except ApiError as error:
            return StaticExchange.refusal(connection, front, error, origin=origin, head=head)
    if head.method == b"OPTIONS":
        headers = context.cors.preflight(head.fields)
        if headers is not None:
            return StaticExchange(connection, 204, headers, origin=origin, head=head)
    return AsgiExchange(connection, head)
