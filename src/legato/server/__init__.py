"""The HTTP edge: native endpoints in the protocol itself, all other paths in an ASGI application."""
