"""The HTTP edge: native endpoints in the protocol, all other paths in an ASGI application."""
