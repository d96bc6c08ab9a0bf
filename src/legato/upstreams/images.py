"""Fetches images that a request names by their URLs, for upstreams that take the bytes alone.

A client may name any URL: unless the operator allows more, only `https:` at public addresses is
fetched. The connection goes to the very address that was checked, so that a name which is resolved
to another machine a moment later gives no access.
"""

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Raw

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid
from legato.core.media_types import media_type

if TYPE_CHECKING:
    import httpx

#: From where images are fetched. public: `https:` at public addresses; any: `http:` too, and from
#: private addresses; no: from nowhere.
Fetch = Literal["public", "any", "no"]

#: Bytes of all the images of a request together, and how many of them there may be.
LIMIT: Final = 32 * 1024 * 1024
MOST: Final = 64

#: Seconds for all of them, and how many redirects are followed for one.
PATIENCE: Final = 20.0
REDIRECTS: Final = 3

#: Networks that `ipaddress` takes for public, and that lead elsewhere: NAT64 (RFC 6052, RFC 8215)
#: and 6to4 (RFC 3056) to any IPv4 address, a private one included; IPv4-compatible and site-local
#: addresses (RFC 4291, 2.5.5.1 and 2.5.7) are deprecated.
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(each)
    for each in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/96", "fec0::/10")
)


def load_client() -> None:
    """Imports the HTTP client, which takes a tenth of a second: for the start of a server that will
    need it, so that no request has to wait for it."""
    import httpx  # noqa: F401


async def inlined(body: bytes, where: Fetch) -> bytes:
    """The request with a `data:` URL for each image that it names by an `http(s):` URL.

    Raises `ApiError` 400 `invalid_image_url` for an image that cannot be fetched.
    """
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    messages = msgspec.json.decode(fields["messages"], type=list[dict[str, Any]])
    named = [(image, url) for image in _images(messages) if (url := _remote(image)) is not None]
    urls = list(dict.fromkeys(url for _, url in named))
    if not urls:
        return body
    if where == "no":
        raise _refused("The model takes an image as a `data:` URL in base64 only.")
    if len(urls) > MOST:
        raise _refused(f"A request may have {MOST} images by their URLs.")
    data = await _fetched(urls, where)
    for image, url in named:
        image["url"] = data[url]
    return msgspec.json.encode(fields | {"messages": messages})


def _images(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The `image_url` members of all parts, made objects where they are not."""
    for message in messages:
        for name in ("content", "images"):
            content = message.get(name)
            for each in content if isinstance(content, list) else ():
                part = as_object(each) or {}
                if part.get("type") == "image_url":
                    image = part.get("image_url")
                    part["image_url"] = found = as_object(image) or {"url": image}
                    yield found


def _remote(image: dict[str, Any]) -> str | None:
    url = image.get("url")
    return url if isinstance(url, str) and url[:8].lower().startswith(("http:", "https:")) else None


async def _fetched(urls: list[str], where: Fetch) -> dict[str, str]:
    """`data:` URLs, by the URLs of the images."""
    import httpx

    # It reads some hundred certificates.
    context = await asyncio.to_thread(_tls_context)
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE, verify=context) as client:
        fetcher = _Fetcher(client, where)
        tasks = [asyncio.ensure_future(fetcher.fetch(url)) for url in urls]
        try:
            async with asyncio.timeout(PATIENCE):
                return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        except TimeoutError:
            raise _refused(f"An image did not come within {PATIENCE:g} seconds.") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _tls_context() -> ssl.SSLContext:
    import certifi  # of httpx

    return ssl.create_default_context(cafile=certifi.where())


class _Fetcher:
    """Fetches the images of one request."""

    def __init__(self, client: "httpx.AsyncClient", where: Fetch) -> None:
        self._client = client
        self._where = where
        self._left = LIMIT

    async def fetch(self, url: str) -> str:
        import httpx

        host = urlsplit(url).hostname or "?"
        try:
            for _ in range(REDIRECTS + 1):
                response = await self._get(url)
                try:
                    if not response.has_redirect_location:
                        return await self._data_url(host, response)
                finally:
                    await response.aclose()
                url = urljoin(url, response.headers["location"])
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as error:
            reason = type(error).__name__
            raise _refused(f"The image at `{host}` cannot be fetched: {reason}.") from None
        raise _refused(f"Too many redirects while fetching the image at `{host}`.")

    async def _get(self, url: str) -> "httpx.Response":
        parts = urlsplit(url)
        host = parts.hostname
        if host is None or parts.scheme not in self._schemes:
            raise _refused("An image is a `data:` URL in base64, or an `https:` URL.")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = await self._resolved(host, port)
        literal = f"[{address}]" if ":" in address else address
        request = self._client.build_request(
            "GET",
            parts._replace(netloc=f"{literal}:{port}", fragment="").geturl(),
            headers={"host": parts.netloc.rpartition("@")[2], "accept": "image/*"},
            extensions={"sni_hostname": host},
        )
        return await self._client.send(request, stream=True)

    async def _data_url(self, host: str, response: "httpx.Response") -> str:
        kind = media_type(response.headers.get("content-type", "").partition(";")[0])
        if response.status_code != 200:
            raise _refused(f"The image at `{host}` is not there: {response.status_code}.")
        if not kind.startswith("image/"):
            raise _refused(f"What is at `{host}` is not an image, but `{kind[:80]}`.")
        data = b"".join([self._counted(piece) async for piece in response.aiter_bytes()])
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    @property
    def _schemes(self) -> tuple[str, ...]:
        return ("https", "http") if self._where == "any" else ("https",)

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise _refused(f"The images are larger than {LIMIT // 1024**2} MB.")
        return piece

    async def _resolved(self, host: str, port: int) -> str:
        """An address of `host`. All of them have to be public where only those are allowed."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if self._where != "any" and not all(is_public(each) for each in addresses):
            raise _refused(f"The image at `{host}` is at no public address.")
        return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address leads into the public Internet, and to one machine there."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if not parsed.is_global or parsed.is_multicast:
        return False
    return not any(parsed in network for network in _NOT_PUBLIC)


def _refused(message: str) -> ApiError:
    return invalid(message, param="messages", code="invalid_image_url")
