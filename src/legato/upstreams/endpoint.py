"""Where an upstream listens, read from its base URL."""

from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

_PORTS: Final = {"http": 80, "https": 443}

#: Characters that a path or a query may have, beside letters, digits and `_.-~` (RFC 3986, 3.3 and
#: 3.4). Others are percent-encoded.
_SAFE: Final = "/?%:@!$&'()*+,;=[]"


class Endpoint(Struct, frozen=True):
    """`path` has no slash at its end. `query`: of the base URL, for every request; without `?`."""

    host: str
    port: int
    path: str = ""
    tls: bool = False
    query: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self._scheme] else f"{host}:{self.port}"

    def target(self, path: str) -> str:
        """The target of a request to `path`, which may have a query of its own."""
        if not self.query:
            return self.path + path
        return f"{self.path}{path}{'&' if '?' in path else '?'}{self.query}"

    def url(self, path: str) -> str:
        return f"{self._scheme}://{self.authority}{self.target(path)}"

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Raises ValueError where `url` is no http(s) URL with a host, and for one with a user name
        or a password; the message does not repeat these."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"is not a URL: {error}") from None
        if "@" in parts.netloc:
            raise ValueError("may have no user name or password: a key belongs in `api_key`")
        if parts.scheme not in _PORTS or not host or any(each.isspace() for each in host):
            raise ValueError(f"`{url}` is not an http:// or https:// URL")
        path, query = quote(parts.path.rstrip("/"), _SAFE), quote(parts.query, _SAFE)
        port = _PORTS[parts.scheme] if port is None else port
        return cls(host, port, path, parts.scheme == "https", query)
