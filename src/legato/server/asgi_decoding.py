"""Compressed request bodies for the ASGI application."""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from legato.server.encoded_body import EncodedBody, encoding_of

_HEADER: Final = b"content-encoding"


class DecodedRequests:
    """An ASGI application that is given each body decoded, in one piece, when it asks for it.

    `limit`: bytes of a decoded body. What is wrong with a body is raised as an `ApiError` (400, 413
    or 415) where the application receives it.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
        if any(name == _HEADER for name, _ in headers):
            receive = _decoding(headers, receive, self._limit)
        await self._app(scope, receive, send)


def _decoding(headers: Any, receive: Receive, limit: int) -> Receive:
    is_decoded = False

    async def decoded() -> Message:
        nonlocal is_decoded
        if is_decoded or not (encoding := encoding_of(headers)):
            return await receive()
        body = EncodedBody(encoding, limit)
        has_more = True
        while has_more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body.append(message.get("body", b""))
            has_more = message.get("more_body", False)
        is_decoded = True
        return {"type": "http.request", "body": await body.finish(), "more_body": False}

    return decoded
