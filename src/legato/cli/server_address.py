"""Which server a command talks to: base URL, API key and certificate."""

import contextlib
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from legato.cli.terminal import stop
from legato.settings import Settings

#: Addresses to connect to for servers that listen on all addresses.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ServerAddress(Struct, frozen=True):
    """`is_local`: the server runs on this machine, so that no proxy is used. `certificate`: a PEM
    file to trust."""

    base_url: str
    key: str | None
    is_local: bool
    certificate: str | None = None


def server_address(settings: Settings, base_url: str | None, key: str | None) -> ServerAddress:
    """The address from the options, or else from the settings.

    The key that the server created on its first start is only sent to this machine. Ends the
    program if the address is unknown or the key cannot be sent.
    """
    server = settings.server
    host = _LOOPBACK.get(server.host, server.host)
    if base_url is None:
        if server.port == 0:
            stop("with port 0 in the settings, --base-url is required", 2)
        authority = f"[{host}]" if ":" in host else host
        base_url = f"{'https' if server.tls_cert else 'http'}://{authority}:{server.port}/v1"
    is_local = _host(base_url) in {host, server.host, "127.0.0.1", "::1", "localhost"}
    if key is None and is_local:
        with contextlib.suppress(OSError):
            key = (settings.data_dir / "key").read_text()
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable()):
        stop("the API key contains characters that are not allowed in a header", 2)
    return ServerAddress(base_url, key, is_local, server.tls_cert if is_local else None)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
