"""Images that a request names by their addresses, for upstreams that take nothing but the bytes.

An address is whatever a client likes: unless the operator says otherwise, only `https:` at public
addresses is fetched, and what is connected to is the address that was looked at, so that a name
that means another machine a moment later opens no way in.
"""

import asyncio
import base64
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Raw

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

if TYPE_CHECKING:
    import httpx

#: From where images are fetched. public: `https:` at public addresses; any: `http:` too, and from
#: machines of one's own; no: from nowhere.
Fetch = Literal["public", "any", "no"]

#: Bytes of all the images of a request together, and how many of them there may be.
LIMIT: Final = 32 * 1024 * 1024
MOST: Final = 64

#: Seconds for all of them, and how often one may be elsewhere.
PATIENCE: Final = 20.0
REDIRECTS: Final = 3


async def inlined(body: bytes, where: Fetch) -> bytes:
    """The request with a `data:` URL for each image that it has an address for.

    Raises `ApiError` 400 `invalid_image_url` for what cannot be had.
    """
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    messages = msgspec.json.decode(fields["messages"], type=list[dict[str, Any]])
    named = [(image, url) for image in _images(messages) if (url := _address(image)) is not None]
    urls = list(dict.fromkeys(url for _, url in named))
    if not urls:
        return body
    if where == "no":
        raise _refused("The model takes an image as a `data:` URL in base64 only.")
    if len(urls) > MOST:
        raise _refused(f"A request may have {MOST} images by their addresses.")
    data = await _fetched(urls, where)
    for image, url in named:
        image["url"] = data[url]
    return msgspec.json.encode(fields | {"messages": messages})


def _images(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The `image_url` members of all parts, made objects where they are not."""
    for message in messages:
        content = message.get("content")
        for each in content if isinstance(content, list) else ():
            part: dict[str, Any] = each
            if part.get("type") == "image_url":
                image = part.get("image_url")
                part["image_url"] = found = as_object(image) or {"url": image}
                yield found


def _address(image: dict[str, Any]) -> str | None:
    url = image.get("url")
    return url if isinstance(url, str) and url[:8].lower().startswith(("http:", "https:")) else None


async def _fetched(urls: list[str], where: Fetch) -> dict[str, str]:
    """`data:` URLs by their addresses."""
    import httpx  # most calls have no images to fetch, and most starts no such call

    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        fetcher = _Fetcher(client, where)
        tasks = [asyncio.ensure_future(fetcher.fetch(url)) for url in urls]
        try:
            async with asyncio.timeout(PATIENCE):
                return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        except TimeoutError:
            raise _refused(f"An image was not there within {PATIENCE:g} seconds.") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Fetcher:
    """The images of one request."""

    def __init__(self, client: "httpx.AsyncClient", where: Fetch) -> None:
        self._client = client
        self._where = where
        self._left = LIMIT

    async def fetch(self, url: str) -> str:
        import httpx

        host = urlsplit(url).hostname or "?"
        try:
            for _ in range(REDIRECTS + 1):
                answer = await self._ask(url)
                try:
                    if not answer.has_redirect_location:
                        return await self._data(host, answer)
                finally:
                    await answer.aclose()
                url = urljoin(url, answer.headers["location"])
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as error:
            reason = type(error).__name__
            raise _refused(f"The image at `{host}` cannot be fetched: {reason}.") from None
        raise _refused(f"The image at `{host}` is always elsewhere.")

    async def _ask(self, url: str) -> "httpx.Response":
        parts = urlsplit(url)
        host = parts.hostname
        if host is None or parts.scheme not in self._schemes:
            raise _refused("An image is a `data:` URL in base64, or an `https:` URL.")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        there = await self._resolved(host, port)
        literal = f"[{there}]" if ":" in there else there
        request = self._client.build_request(
            "GET",
            parts._replace(netloc=f"{literal}:{port}", fragment="").geturl(),
            headers={"host": parts.netloc.rpartition("@")[2], "accept": "image/*"},
            extensions={"sni_hostname": host},
        )
        return await self._client.send(request, stream=True)

    async def _data(self, host: str, answer: "httpx.Response") -> str:
        """What was answered, as a `data:` URL."""
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if answer.status_code != 200:
            raise _refused(f"The image at `{host}` is not there: {answer.status_code}.")
        if not kind.startswith("image/"):
            raise _refused(f"What is at `{host}` is no image: it says `{kind[:80]}`.")
        data = b"".join([self._counted(piece) async for piece in answer.aiter_bytes()])
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
        """An address of `host`. All of them have to be public where only those are fetched from."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if self._where != "any":
            for each in addresses:
                if not ipaddress.ip_address(each.partition("%")[0]).is_global:
                    raise _refused(f"The image at `{host}` is at no public address.")
        return addresses[0]


def _refused(message: str) -> ApiError:
    return invalid(message, param="messages", code="invalid_image_url")
