"""The edge: HTTP on one port, the hot endpoint in the protocol itself, the rest in Starlette."""
