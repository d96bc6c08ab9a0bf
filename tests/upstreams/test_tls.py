"""Certificates and addresses, without a server in front."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
import uvloop
from cryptography.hazmat.primitives import serialization

from legato.core.errors import UpstreamError
from legato.upstreams import tls
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.proxy import Proxy, proxy_for
from tests.conftest import until
from tests.upstreams.test_pool import left_at_any_moment, needs_ipv6

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def server_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("::1", "127.0.0.1", "somewhere").configure_cert(context)
    return context


def trusting(authority: trustme.CA, folder: Path) -> ssl.SSLContext | None:
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    return tls.context(str(folder / "ca.pem"), None, None)


async def tunnelling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy: opens the tunnel that it is asked for."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        await closed(writer)
        return
    host, _, port = head.split()[1].decode().rpartition(":")
    there = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
        await closed(sink)

    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.gather(reader.read(), return_exceptions=True)
    await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def run(loop: str, deed: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await deed()
        current = asyncio.current_task()
        assert await until(lambda: asyncio.all_tasks() == {current}, "all peers have ended")

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(whole())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tunnelled", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
@needs_ipv6
def test_ipv6_under_tls_and_in_a_tunnel(
    tmp_path: Path, loop: str, tunnelled: bool, sealed: bool
) -> None:
    authority = trustme.CA()
    context = trusting(authority, tmp_path)

    async def deed() -> None:
        side = server_side(authority) if sealed else None
        there = await asyncio.start_server(silent, "::1", 0, ssl=side)
        between = await asyncio.start_server(tunnelling, "127.0.0.1", 0)
        proxy = Proxy("127.0.0.1", between.sockets[0].getsockname()[1])
        pool = Pool(
            Endpoint("::1", there.sockets[0].getsockname()[1], tls=sealed),
            clock=time.monotonic,
            context=context,
            proxy=proxy if tunnelled else None,
        )
        connection = await pool.connect()
        assert connection.transport is not None
        assert (connection.transport.get_extra_info("ssl_object") is not None) is sealed
        assert pool.busy == 1
        connection.close()
        await until(lambda: not pool.size, "it is closed")
        for each in (there, between):
            each.close()

    run(loop, deed)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, loop: str) -> None:
    context = trusting(trustme.CA(), tmp_path)

    async def deed() -> None:
        there = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=server_side(trustme.CA()))
        where = Endpoint("127.0.0.1", there.sockets[0].getsockname()[1], tls=True)
        pool = Pool(where, clock=time.monotonic, context=context)
        with pytest.raises(UpstreamError) as caught:
            await pool.connect()
        assert (caught.value.status, caught.value.code) == (502, "upstream_tls")
        assert (pool.busy, pool._connecting) == (0, 0)
        there.close()

    run(loop, deed)


@pytest.mark.parametrize("loop", LOOPS)
def test_one_that_hangs_up_in_the_handshake(tmp_path: Path, loop: str) -> None:
    context = trusting(trustme.CA(), tmp_path)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await closed(writer)

    async def deed() -> None:
        there = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        where = Endpoint("127.0.0.1", there.sockets[0].getsockname()[1], tls=True)
        with pytest.raises(
            UpstreamError, match=r"closed the connection in the TLS handshake|reset"
        ) as caught:
            await Pool(where, clock=time.monotonic, context=context).connect()
        assert caught.value.code == "upstream_unreachable"
        there.close()

    run(loop, deed)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_address_whose_handshake_hangs_loses_the_race_and_is_let_go(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = trusting(authority, tmp_path)
    left = 0

    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "127.0.0.2"]

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        await silent(reader, writer)
        left += 1

    async def deed() -> None:
        first = await asyncio.start_server(hang, "127.0.0.1", 0)
        port = first.sockets[0].getsockname()[1]
        second = await asyncio.start_server(silent, "127.0.0.2", port, ssl=server_side(authority))
        pool = Pool(Endpoint("somewhere", port, tls=True), clock=time.monotonic, context=context)
        connection = await pool.connect()
        assert connection.transport is not None
        assert connection.transport.get_extra_info("peername")[0] == "127.0.0.2"
        await until(lambda: left == 1, "the other one sees its peer gone")
        connection.close()
        await until(lambda: not pool.size, "it is closed")
        for each in (first, second):
            each.close()

    monkeypatch.setattr("legato.upstreams.pool._addresses", addresses)
    run(loop, deed)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tunnelled", [False, True])
def test_a_call_may_leave_the_handshakes_at_any_moment(
    tmp_path: Path, loop: str, tunnelled: bool
) -> None:
    authority = trustme.CA()
    context = trusting(authority, tmp_path)

    async def deed() -> None:
        there = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=server_side(authority))
        between = await asyncio.start_server(tunnelling, "127.0.0.1", 0)
        proxy = Proxy("127.0.0.1", between.sockets[0].getsockname()[1])
        pool = Pool(
            Endpoint("127.0.0.1", there.sockets[0].getsockname()[1], tls=True),
            clock=time.monotonic,
            context=context,
            proxy=proxy if tunnelled else None,
        )
        assert await left_at_any_moment(pool)
        for each in (there, between):
            each.close()

    run(loop, deed)


def test_the_usual_authorities_are_read_once() -> None:
    assert tls.context(None, None, None) is None
    assert tls.default_context() is tls.default_context()


def test_a_key_under_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    mine = trustme.CA().issue_cert("legato")
    key = serialization.load_pem_private_key(mine.private_key_pem.bytes(), None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "key.pem").write_bytes(sealed)
    (tmp_path / "cert.pem").write_bytes(mine.cert_chain_pems[0].bytes())
    with pytest.raises(ValueError, match="client_key"):
        tls.context(None, str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))


@pytest.mark.parametrize(
    "url",
    [
        "http://me:se/cret@p",
        "http://me:1/cret@p",
        "http://me:1#cret@p",
        "http://me:1?cret@p",
        "https://me:1@p",
        "socks5://me:1@p",
        "http://[::1",
        "http://",
        "http://p:x",
        "",
    ],
)
def test_a_wrong_proxy_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http:// URL with a host") as caught:
        Proxy.parse(url)
    assert caught.value.__context__ is None
    assert "me" not in str(caught.value)


@pytest.mark.parametrize(
    ("spared", "port", "direct"),
    [
        ("[fd00::1]", 443, True),
        ("[fd00::1]:443", 443, True),
        ("[fd00::1]:80", 443, False),
        ("fd00::1", 443, True),
        ("*:443", 443, True),
        ("*:80", 443, False),
    ],
)
def test_ipv6_and_ports_that_are_spared(spared: str, port: int, direct: bool) -> None:
    environment = {"https_proxy": "http://p", "no_proxy": spared}
    assert (proxy_for("fd00::1", port, True, environment) is None) is direct
