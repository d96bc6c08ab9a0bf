"""Images by their addresses, for an upstream that takes the bytes alone: what is fetched, what is
not, and that nothing is asked of machines that are nobody's business."""

import asyncio
import base64
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme

from legato.core.errors import ApiError
from legato.mock.server import MockServer
from legato.upstreams import images
from tests.conftest import serving, settings_for
from tests.support.wire import ask, chat

PNG = b"\x89PNG\r\n\x1a\nno picture, but bytes"
DATA = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


class Shop:
    """A server of images: what it says at each path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []  # path, host
        self.base = ""
        self.port = 0

    def has(self, path: str, *, status: str = "200 OK", body: bytes = PNG, **headers: str) -> str:
        lines = {"content_type": "image/png", "content_length": str(len(body))} | headers
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        self.answers[path] = f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body
        return self.base + path

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        hosts = [line for line in head.split("\r\n") if line.lower().startswith("host: ")]
        self.asked.append((path, hosts[0][6:]))
        if path in self.answers:
            writer.write(self.answers[path])
        else:
            await reader.read()  # never says anything
        writer.close()

    @classmethod
    @asynccontextmanager
    async def open(cls, context: ssl.SSLContext | None = None) -> AsyncIterator["Shop"]:
        shop = cls()
        server = await asyncio.start_server(shop._serve, "127.0.0.1", 0, ssl=context)
        shop.port = server.sockets[0].getsockname()[1]
        shop.base = f"{'https' if context else 'http'}://localhost:{shop.port}"
        async with server:
            yield shop


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop.open() as found:
        yield found


def body(*urls: Any) -> bytes:
    parts = [{"type": "text", "text": "What is it?"}]
    parts += [{"type": "image_url", "image_url": url} for url in urls]
    fields = {"model": "m", "messages": [{"role": "user", "content": parts}], "seed": 7}
    return json.dumps(fields).encode()


def urls_of(request: bytes) -> list[str]:
    fields = json.loads(request)
    assert fields["seed"] == 7
    assert fields["messages"][0]["content"][0]["text"] == "What is it?"
    return [each["image_url"]["url"] for each in fields["messages"][0]["content"][1:]]


async def refusal(*urls: Any, where: images.Fetch = "any") -> str:
    with pytest.raises(ApiError) as caught:
        await images.inlined(body(*urls), where)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_image_url", "messages")
    return error.message


# What is fetched


async def test_an_address_becomes_the_image_that_is_there(shop: Shop) -> None:
    url = shop.has("/a.png?size=2")
    made = await images.inlined(body({"url": url, "detail": "low"}, url, DATA), "any")
    assert urls_of(made) == [DATA, DATA, DATA]
    assert json.loads(made)["messages"][0]["content"][1]["image_url"]["detail"] == "low"
    assert shop.asked == [("/a.png?size=2", f"localhost:{shop.port}")]  # once


async def test_an_image_that_is_elsewhere_is_followed(shop: Shop) -> None:
    shop.has("/there.png")
    url = shop.has("/here.png", status="302 Found", body=b"", location="/there.png")
    assert urls_of(await images.inlined(body(url), "any")) == [DATA]


async def test_a_certificate_has_to_be_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is connected to is an address; whose certificate it shows is looked at all the same."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "ca.pem"))
    for name, is_right in (("localhost", True), ("elsewhere.test", False)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        async with Shop.open(context) as shop:
            url = shop.has("/a.png")
            if is_right:
                assert urls_of(await images.inlined(body(url), "any")) == [DATA]
            else:
                assert "cannot be fetched" in await refusal(url)


def test_a_body_without_addresses_stays_as_it_is() -> None:
    for sent in (
        body(DATA),
        body(),
        body(7),
        json.dumps({"messages": [{"content": "a"}]}).encode(),
    ):
        assert asyncio.run(images.inlined(sent, "public")) is sent


async def test_an_image_has_the_registered_name_of_its_type(shop: Shop) -> None:
    url = shop.has("/a.jpg", content_type="Image/JPG; q=1")
    (made,) = urls_of(await images.inlined(body(url), "any"))
    assert made.startswith("data:image/jpeg;base64,")


async def test_an_image_of_an_earlier_answer_is_fetched_too(shop: Shop) -> None:
    image = {"type": "image_url", "image_url": {"url": shop.has("/a.png")}}
    answer = {"role": "assistant", "content": "Here.", "images": [image]}
    made = await images.inlined(json.dumps({"messages": [answer]}).encode(), "any")
    assert json.loads(made)["messages"][0]["images"][0]["image_url"]["url"] == DATA


# What is not

ADDRESSES = [
    "https://localhost/a.png",
    "https://127.0.0.1/a.png",
    "https://2130706433/a.png",  # the same, as a number
    "https://[::1]/a.png",
    "https://[::ffff:127.0.0.1]/a.png",
    "https://10.1.2.3/a.png",
    "https://192.168.1.1:8443/a.png",
    "https://169.254.169.254/latest/meta-data",
    "https://[fe80::1]/a.png",
    "https://0.0.0.0/a.png",
    "https://[64:ff9b::7f00:1]/a.png",
    "https://[64:ff9b::808:808]/a.png",
]


@pytest.mark.parametrize("url", ADDRESSES)
async def test_only_public_addresses_are_asked(url: str) -> None:
    assert "is at no public address" in await refusal(url, where="public")


PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700::1111",
    "2a00:1450:4001:80b::200e",
    "64:ff9b:2::1",
    "::ffff:8.8.8.8",
]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.31.255.255",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.2.3",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:224.0.0.1",
    "64:ff9b::1.2.3.4",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "64:ff9b:1:ffff:ffff::",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


def test_which_addresses_are_public() -> None:
    assert [each for each in PUBLIC if not images.is_public(each)] == []
    assert [each for each in NOT_PUBLIC if images.is_public(each)] == []


@pytest.mark.parametrize(("dialect", "is_loaded"), [("ollama", True), ("openai", False)])
def test_the_client_is_imported_where_a_deployment_needs_it(dialect: str, is_loaded: bool) -> None:
    """And at the start: the import would hold up every stream of the event loop."""
    program = f"""
import sys
from legato.server import assembly
from legato.settings import Deployment
wanted = Deployment("a", "m", dialect="{dialect}", base_url="http://127.0.0.1:1")
assert "httpx" not in sys.modules
assembly.upstream(wanted, lambda: 0.0)
print("httpx" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == (str(is_loaded), "")


async def test_a_way_round_by_a_redirect_is_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place that an image is redirected to is checked."""
    real = images._Fetcher._resolved
    seen: list[str] = []

    async def resolved(fetcher: images._Fetcher, host: str, port: int) -> str:
        seen.append(host)
        return "127.0.0.1" if host == "localhost" else await real(fetcher, host, port)

    monkeypatch.setattr(images._Fetcher, "_resolved", resolved)
    monkeypatch.setattr(images._Fetcher, "_schemes", ("http", "https"))
    away = "http://127.0.0.1:1/secret"
    url = shop.has("/a.png", status="302 Found", body=b"", location=away)
    assert "no public address" in await refusal(url, where="public")
    assert seen == ["localhost", "127.0.0.1"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "not there": ({"status": "404 Not Found"}, "is not there: 404"),
    "a page": ({"content_type": "text/html"}, "is not an image, but `text/html`"),
    "cut": ({"content_length": "4000"}, "cannot be fetched: RemoteProtocolError"),
    "elsewhere, nobody says where": ({"status": "302 Found"}, "is not there: 302"),
    "round and round": ({"status": "302 Found", "location": "/a.png"}, "Too many redirects"),
    "a file": ({"status": "302 Found", "location": "file:///etc/passwd"}, "or an `https:` URL"),
    "no port": ({"status": "302 Found", "location": "http://a:b/"}, "cannot be fetched"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_no_image_is_the_callers_error(shop: Shop, case: str) -> None:
    answer, says = WRONG[case]
    assert says in await refusal(shop.has("/a.png", **answer))


async def test_there_is_a_limit_to_all_of_them_together(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LIMIT", 2 * len(PNG))
    two = [shop.has(f"/{name}.png") for name in "ab"]
    assert urls_of(await images.inlined(body(*two), "any")) == [DATA, DATA]
    assert "larger than" in await refusal(*two, shop.has("/c.png"))
    monkeypatch.setattr(images, "MOST", 2)
    assert "2 images" in await refusal(*two, shop.has("/c.png"))


async def test_one_that_never_comes_is_not_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PATIENCE", 0.2)
    message = await refusal(shop.base + "/silent.png")
    assert "within 0.2 seconds" in message or "Timeout" in message


async def test_plain_http_and_nothing_at_all(shop: Shop) -> None:
    url = shop.has("/a.png")
    assert "or an `https:` URL" in await refusal(url, where="public")
    assert "in base64 only" in await refusal(url, where="no")
    assert shop.asked == []


# In a call


@pytest.mark.parametrize("where", ["any", "public"])
async def test_ollama_is_given_the_image(
    tmp_path: Path, scripted: MockServer, shop: Shop, where: str
) -> None:
    base = (await scripted.start()).removesuffix("/v1")
    here = {"name": "happy", "model": "happy", "dialect": "ollama", "base_url": base}
    flags: dict[str, Any] = {"deployments": [here | {"fetch_images": where}]}
    content = [{"type": "image_url", "image_url": {"url": shop.has("/a.png")}}]
    wish = chat("happy", stream=True, messages=[{"role": "user", "content": content}])
    async with serving(settings_for(tmp_path, None, **flags)) as legato:
        answer = await ask(legato.port, legato.key, wish)
        if where == "any":
            assert answer.done
            (played,) = scripted.requests
            assert played.request["messages"][0]["images"] == [base64.b64encode(PNG).decode()]
        else:
            assert answer.status == 400
            assert answer.json["error"]["code"] == "invalid_image_url"
            assert not scripted.requests
        (row,) = await legato.rows()
        assert row["outcome"] == ("complete" if where == "any" else "refused")


@pytest.mark.parametrize("seed", [None, 5, 2**63 - 1])
@pytest.mark.parametrize("stream", [True, False])
async def test_for_several_choices_it_is_fetched_once(
    tmp_path: Path, scripted: MockServer, shop: Shop, stream: bool, seed: int | None
) -> None:
    base = (await scripted.start()).removesuffix("/v1")
    here = {"name": "happy", "model": "happy", "dialect": "ollama", "base_url": base}
    content = [{"type": "image_url", "image_url": {"url": shop.has("/a.png")}}]
    messages = [{"role": "user", "content": content}]
    wish = chat("happy", stream=stream, n=4, seed=seed, messages=messages)
    flags: dict[str, Any] = {"deployments": [here | {"fetch_images": "any"}]}
    async with serving(settings_for(tmp_path, None, **flags)) as legato:
        answer = await ask(legato.port, legato.key, wish)
    assert answer.status == 200
    assert shop.asked == [("/a.png", f"localhost:{shop.port}")]
    sent = [each.request for each in scripted.requests]
    images_sent = [each["messages"][0]["images"] for each in sent]
    assert images_sent == [[base64.b64encode(PNG).decode()]] * 4
    seeds = [each.get("options", {}).get("seed") for each in sent]
    assert all(each is None or -(2**63) <= each < 2**63 for each in seeds)
    assert len(set(seeds)) == (1 if seed is None else 4)
