"""HTTP proxies: which proxy applies to an endpoint, and the CONNECT request that opens a tunnel.

Plain HTTP uses a tunnel too, so that there is one way to write requests. A proxy that allows
CONNECT only to some ports answers 403.
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

#: The largest response head of a proxy, in bytes.
HEAD_LIMIT: Final = 64 * 1024

_HOST_PORT: Final = re.compile(r"(\[[^\]]+\]|[^:]+)(?::(\d+))?")


class Proxy(Struct, frozen=True):
    """Address of a proxy. `credentials`: the value of the `Proxy-Authorization` header."""

    host: str
    port: int
    credentials: str | None = None

    def __repr__(self) -> str:
        return f"<Proxy {self.host}:{self.port}>"

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """Raises ValueError if `url` is not an http:// URL with a host. The message leaves out the
        URL, which may hold a password."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        # An unescaped `/`, `?` or `#` in a password ends the host part early.
        rest = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme != "http" or not host or rest:
            raise ValueError("is not an http:// URL with a host")
        credentials = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            credentials = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(host, port or 80, credentials)


def proxy_for(host: str, port: int, tls: bool, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for an endpoint from the variables https_proxy, http_proxy, all_proxy and no_proxy.
    Loopback addresses never use a proxy. Raises ValueError for a variable that is not a URL."""

    def variable(name: str) -> str:
        return environment.get(name.lower()) or environment.get(name.upper()) or ""

    if _is_excluded(host.lower().rstrip("."), port, variable("no_proxy")):
        return None
    url = variable("https_proxy" if tls else "http_proxy") or variable("all_proxy")
    return Proxy.parse(url) if url else None


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    is_local = address is not None and (address.is_loopback or address.is_unspecified)
    if is_local or _matches("localhost", host, address):
        return True
    for entry in no_proxy.lower().replace(",", " ").split():
        parts = _HOST_PORT.fullmatch(entry)  # None for a bare IPv6 address
        name, number = parts.groups() if parts else (entry, None)
        if number is not None and int(number) != port:
            continue
        if name == "*" or _matches(name.strip("[]"), host, address):
            return True
    return False


def _matches(
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
    """Sends CONNECT to a proxy. When `opened` is set, the transport goes to another protocol."""

    def __init__(self, proxy: Proxy, authority: str) -> None:
        """`authority`: host:port of the endpoint behind the proxy."""
        self._proxy = proxy
        self._authority = authority
        self._received = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        lines = [f"CONNECT {self._authority} HTTP/1.1", f"host: {self._authority}"]
        if self._proxy.credentials is not None:
            lines.append(f"proxy-authorization: {self._proxy.credentials}")
        request = "\r\n".join([*lines, "", ""]).encode("latin-1")
        cast(asyncio.Transport, transport).write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(self._received) > HEAD_LIMIT:
                self._fail("its response is too large")
            return
        version, _, status = head.split(b"\r\n")[0].partition(b" ")
        code = status[:3].decode("latin-1")
        if not version.startswith(b"HTTP/") or not code.isdigit():
            self._fail("it does not speak HTTP")
        elif not code.startswith("2"):
            self._fail(f"it answered {code}")
        elif rest:
            self._fail("it sent data before the tunnel was used")
        elif not self.opened.done():
            self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("it closed the connection")

    def _fail(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(proxy_error(reason))
            self.opened.exception()  # marks it as retrieved: the waiting call may be cancelled


def proxy_error(reason: str) -> UpstreamError:
    return bad_gateway(
        f"The proxy did not connect to the upstream: {reason}.", code="upstream_proxy"
    )
