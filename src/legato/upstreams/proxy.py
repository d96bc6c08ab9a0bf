"""The way through a proxy: which one, and the CONNECT that opens a tunnel in it.

Plain HTTP goes through a tunnel too, which saves a second way to write requests; a proxy may allow
CONNECT to some ports alone, and then answers 403.
"""

import asyncio
import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from legato.core.errors import UpstreamError, bad_gateway

#: Bytes of a proxy's answer that are read at most.
HEAD_LIMIT: Final = 64 * 1024

_HOST_PORT: Final = re.compile(r"(\[[^\]]+\]|[^:]+)(?::(\d+))?")


class Proxy(Struct, frozen=True):
    """Where it listens. `credentials`: what its `Proxy-Authorization` says, if it wants one."""

    host: str
    port: int
    credentials: str | None = None

    def __repr__(self) -> str:
        return f"<Proxy {self.host}:{self.port}>"

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """Raises ValueError where `url` is no http:// URL with a host; it does not repeat the URL,
        which may hold a password."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        behind = parts.path.strip("/") or parts.query or parts.fragment  # half a password, say
        if parts.scheme != "http" or not host or behind:
            raise ValueError("is not an http:// URL with a host")
        credentials = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            credentials = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(host, port or 80, credentials)


def proxy_for(host: str, port: int, tls: bool, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for an endpoint, by the usual variables. What is on this
    machine is never asked for through one. Raises ValueError for a variable that is no URL."""

    def said(name: str) -> str:
        return environment.get(name.lower()) or environment.get(name.upper()) or ""

    if _is_spared(host.lower().rstrip("."), port, said("no_proxy")):
        return None
    url = said("https_proxy" if tls else "http_proxy") or said("all_proxy")
    return Proxy.of(url) if url else None


def _is_spared(host: str, port: int, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    here = address is not None and (address.is_loopback or address.is_unspecified)
    if here or _covers("localhost", host, address):
        return True
    for entry in no_proxy.lower().replace(",", " ").split():
        parts = _HOST_PORT.fullmatch(entry)  # None for a bare IPv6 address
        name, number = parts.groups() if parts else (entry, None)
        if number is not None and int(number) != port:
            continue
        if name == "*" or _covers(name.strip("[]"), host, address):
            return True
    return False


def _covers(
    entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
) -> bool:
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    entry = entry.removeprefix("*").removeprefix(".")
    return bool(entry) and (host == entry or host.endswith("." + entry))


class Tunnel(asyncio.Protocol):
    """A connection to a proxy until it says that the tunnel is open; then another protocol's."""

    def __init__(self, proxy: Proxy, authority: str) -> None:
        """`authority`: host:port of the endpoint behind it."""
        self._proxy = proxy
        self._authority = authority
        self._said = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        lines = [f"CONNECT {self._authority} HTTP/1.1", f"host: {self._authority}"]
        if self._proxy.credentials is not None:
            lines.append(f"proxy-authorization: {self._proxy.credentials}")
        request = "\r\n".join([*lines, "", ""]).encode("latin-1")
        cast(asyncio.Transport, transport).write(request)

    def data_received(self, data: bytes) -> None:
        self._said += data
        head, end, rest = self._said.partition(b"\r\n\r\n")
        if not end:
            if len(self._said) > HEAD_LIMIT:
                self._fail("its answer is too large")
            return
        version, _, status = head.split(b"\r\n")[0].partition(b" ")
        code = status[:3].decode("latin-1")
        if not version.startswith(b"HTTP/") or not code.isdigit():
            self._fail("it does not speak HTTP")
        elif not code.startswith("2"):
            self._fail(f"it answered {code}")
        elif rest:
            self._fail("it spoke before it was asked")
        elif not self.opened.done():
            self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("it closed the connection")

    def _fail(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(refused(reason))
            self.opened.exception()  # perhaps nobody waits for it any more


def refused(reason: str) -> UpstreamError:
    return bad_gateway(f"The proxy gave no way to the upstream: {reason}.", code="upstream_proxy")
