"""The way to an upstream: through a proxy, under TLS, with certificates of our own."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from legato.mock.server import MockServer
from legato.server import assembly
from legato.settings import Deployment, SettingsError
from legato.upstreams.proxy import Proxy, proxy_for
from tests.conftest import serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request

TEXT = "Once upon a time, there was a stream."


class Tunnels:
    """A proxy. `answer` None: it opens the tunnel; else it says that; b"": it hangs."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.answer: bytes | None = None
        self.url = ""
        self.open = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _left(self, _: object) -> None:
        self.open -= 1

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        task.add_done_callback(self._left)
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self.answer is not None:
            writer.write(self.answer)
            if not self.answer:
                await reader.read()
            writer.close()
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pass_on(reader, up_writer), _pass_on(up_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def tunnels() -> AsyncIterator[Tunnels]:
    proxy = Tunnels()
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(authority: trustme.CA, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    if asks:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def files(authority: trustme.CA, folder: Path) -> dict[str, str]:
    mine = authority.issue_cert("legato")
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in mine.cert_chain_pems))
    (folder / "key.pem").write_bytes(mine.private_key_pem.bytes())
    return {
        "ca_file": str(folder / "ca.pem"),
        "client_cert": str(folder / "cert.pem"),
        "client_key": str(folder / "key.pem"),
    }


async def test_through_a_proxy(tmp_path: Path, scripted: MockServer, tunnels: Tunnels) -> None:
    base = await scripted.start()
    proxy = tunnels.url.replace("http://", "http://me:p%40ss@")
    settings = settings_for(tmp_path, base, ["happy"], deploy={"proxy": proxy})
    async with serving(settings) as legato:
        for _ in range(2):
            answer = await ask(legato.port, legato.key, chat("happy", stream=True))
            assert answer.text() == TEXT
            assert answer.done
    (head,) = tunnels.heads  # one tunnel, used twice
    assert head.startswith(b"CONNECT 127.0.0.1:")
    assert base64.b64encode(b"me:p@ss") in head


async def test_under_tls_through_a_proxy_with_a_certificate_of_our_own(
    tmp_path: Path, scripted: MockServer, tunnels: Tunnels, authority: trustme.CA
) -> None:
    base = await scripted.start(ssl=server_side(authority, asks=True))
    deploy = files(authority, tmp_path) | {"proxy": tunnels.url}
    settings = settings_for(tmp_path, base, ["happy"], deploy=deploy)
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
        assert answer.text() == TEXT
    assert len(tunnels.heads) == 1


@pytest.mark.parametrize("with_ca", [True, False])
async def test_under_tls(
    tmp_path: Path, scripted: MockServer, authority: trustme.CA, with_ca: bool
) -> None:
    base = await scripted.start(ssl=server_side(authority))
    deploy = {"ca_file": files(authority, tmp_path)["ca_file"]} if with_ca else {}
    settings = settings_for(tmp_path, base, ["happy"], deploy=deploy)
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
        assert (answer.status == 200) is with_ca
        if not with_ca:
            assert answer.error is not None
            assert answer.error["code"] == "upstream_tls"


async def test_a_certificate_that_is_asked_for_and_not_there(
    tmp_path: Path, scripted: MockServer, authority: trustme.CA
) -> None:
    base = await scripted.start(ssl=server_side(authority, asks=True))
    deploy = {"ca_file": files(authority, tmp_path)["ca_file"]}
    settings = settings_for(tmp_path, base, ["happy"], deploy=deploy)
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
        assert answer.status == 502


REFUSALS = {
    "credentials": (b"HTTP/1.1 407 Authenticate\r\n\r\n", 502, "upstream_proxy", "407"),
    "forbidden": (b"HTTP/1.1 403 No\r\n\r\n", 502, "upstream_proxy", "403"),
    "no proxy at all": (b"SSH-2.0-OpenSSH\r\n\r\n", 502, "upstream_proxy", "HTTP"),
    "closes": (b"HTTP/1.1 20", 502, "upstream_proxy", "closed"),
    "speaks first": (b"HTTP/1.1 200 OK\r\n\r\nhello", 502, "upstream_proxy", "before"),
    "hangs": (b"", 504, "upstream_connect_timeout", "0.3 s"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_proxy_that_opens_nothing(
    tmp_path: Path, scripted: MockServer, tunnels: Tunnels, case: str
) -> None:
    tunnels.answer, status, code, word = REFUSALS[case]
    base = await scripted.start()
    deploy = {"proxy": tunnels.url.replace("//", "//me:secret@"), "connect_seconds": 0.3}
    settings = settings_for(tmp_path, base, ["happy"], deploy=deploy)
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
        assert answer.error is not None
        assert (answer.status, answer.error["code"]) == (status, code)
        assert word in answer.error["message"]
        assert b"secret" not in answer.body


async def test_a_client_that_leaves_while_the_proxy_hangs(
    tmp_path: Path, scripted: MockServer, tunnels: Tunnels
) -> None:
    tunnels.answer = b""
    settings = settings_for(
        tmp_path, await scripted.start(), ["happy"], deploy={"proxy": tunnels.url}
    )
    async with serving(settings) as legato:
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("happy", stream=True)))
            await until(lambda: tunnels.heads, "the proxy is asked")
        await until(lambda: not tunnels.open, "the proxy sees its peer gone")


async def test_a_proxy_that_is_not_there(tmp_path: Path, scripted: MockServer) -> None:
    base = await scripted.start()
    settings = settings_for(tmp_path, base, ["happy"], deploy={"proxy": "http://127.0.0.1:9"})
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
        assert answer.error is not None
        assert answer.error["code"] == "upstream_proxy"


PROXY = {"https_proxy": "http://p:3128", "HTTP_PROXY": "http://q:3128"}
SPARED: dict[str, tuple[str, int, str, bool]] = {
    "no_proxy is empty": ("api.example", 443, "", False),
    "a host": ("api.example", 443, "api.example", True),
    "another host": ("api.example", 443, "other.example", False),
    "a domain": ("api.example", 443, "example", True),
    "a domain with a dot": ("api.example", 443, ".example", True),
    "half a name": ("api.example", 443, "ample", False),
    "everything": ("api.example", 443, "*", True),
    "one of several": ("api.example", 443, "a, b,api.example", True),
    "a port": ("api.example", 443, "api.example:443", True),
    "another port": ("api.example", 443, "api.example:80", False),
    "an address": ("10.1.2.3", 443, "10.1.2.3", True),
    "a network": ("10.1.2.3", 443, "10.0.0.0/8", True),
    "another network": ("10.1.2.3", 443, "10.2.0.0/16", False),
    "IPv6": ("fd00::1", 443, "fd00::/8", True),
    "upper case": ("API.example", 443, "api.EXAMPLE", True),
    "this machine": ("127.0.0.1", 443, "", True),
    "this machine by name": ("localhost", 443, "", True),
    "this machine by a longer name": ("a.localhost", 443, "", True),
    "this machine, IPv6": ("::1", 443, "", True),
    "this machine, whichever address": ("0.0.0.0", 443, "", True),
    "a domain with a star": ("api.example", 443, "*.example", True),
    "a network and a port": ("10.1.2.3", 443, "10.0.0.0/8:443", True),
    "a network and another port": ("10.1.2.3", 443, "10.0.0.0/8:80", False),
    "a name is in no network": ("api.example", 443, "0.0.0.0/0", False),
    "a dot at the end": ("api.example.", 443, "api.example", True),
}


@pytest.mark.parametrize("case", SPARED)
def test_whom_the_environments_proxy_spares(case: str) -> None:
    host, port, no_proxy, spared = SPARED[case]
    found = proxy_for(host, port, True, PROXY | {"NO_PROXY": no_proxy})
    assert found == (None if spared else Proxy("p", 3128))


def test_which_proxy_the_environment_names() -> None:
    both = {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2", "all_proxy": "http://r:3"}
    assert proxy_for("a.example", 443, True, both) == Proxy("p", 1)
    assert proxy_for("a.example", 80, False, both) == Proxy("r", 3)
    assert proxy_for("a.example", 80, False, PROXY) == Proxy("q", 3128)
    assert proxy_for("a.example", 80, False, {"ALL_PROXY": "q"}) == Proxy("q", 80)
    assert proxy_for("a.example", 80, False, {}) is None


def test_credentials_are_shown_nowhere() -> None:
    assert "secret" not in repr(Proxy.parse("http://me:secret@p:1"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "proxy": ({"proxy": "socks5://me:secret@p"}, "deployments `d`: proxy: is not"),
    "ca_file": ({"ca_file": "/none.pem"}, "deployments `d`: ca_file: /none.pem"),
    "client_cert": ({"client_cert": "/none.pem"}, "deployments `d`: client_cert: /none.pem"),
    "client_key": (
        {"client_key": "/none.pem"},
        "deployments `d`: client_key: requires client_cert",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_named_at_the_start(case: str) -> None:
    more, words = WRONG[case]
    with pytest.raises(SettingsError, match=words) as caught:
        assembly.upstream(Deployment("d", "m", base_url="https://a.example", **more), lambda: 0.0)
    assert "secret" not in str(caught.value)
