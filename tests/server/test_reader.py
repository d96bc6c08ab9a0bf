"""Requests read from bytes, however these are split into reads."""

import random
from typing import Any, Final

import httptools
import pytest

from legato.core.errors import ApiError
from legato.server.reader import RequestHead, RequestReader

LIMIT: Final = 1000

Request = tuple[str, str, bool, bytes]


class Requests:
    """A sink that records whole requests: (method, path, keep_alive, body)."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.whole: list[Request] = []
        self.refusals: list[ApiError] = []
        self._body = b""

    def read_head(self, head: RequestHead) -> None:
        assert len(self.heads) == len(self.whole), "the last request has not ended"
        self.heads.append(head)
        self._body = b""

    def read_body(self, data: bytes) -> None:
        self._body += data

    def read_end(self) -> None:
        head = self.heads[-1]
        self.whole.append(
            (head.method.decode(), head.path.decode(), head.keep_alive, bytes(self._body))
        )

    def refuse(self, error: ApiError) -> None:
        self.refusals.append(error)


def read(*pieces: bytes, limit: int = LIMIT) -> tuple[Requests, RequestReader]:
    requests = Requests()
    reader = RequestReader(requests, lambda: 1.0, limit)
    for piece in pieces:
        reader.feed(piece)
    return requests, reader


def raw(start: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([start, "Host: h", *lines, "", ""]).encode() + body


H2C: Final = ("Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
OFFER: Final = b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
CHUNKED: Final = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n"
GET: Final = raw("GET /a HTTP/1.1")
POST: Final = raw("POST /b?c=d HTTP/1.1", "Content-Length: 5", body=b"hello")
UPGRADE: Final = raw(
    "POST /u HTTP/1.1",
    "Connection: Upgrade, HTTP2-Settings",
    "Content-Length: 5",
    *H2C,
    body=b"12345",
)
UPGRADE_CHUNKED: Final = raw(
    "POST /u HTTP/1.1", *H2C, "Transfer-Encoding: chunked", "Connection: Upgrade", body=CHUNKED
)

GOT_GET: Final = ("GET", "/a", True, b"")
GOT_POST: Final = ("POST", "/b", True, b"hello")
GOT_UPGRADE: Final = ("POST", "/u", True, b"12345")
GOT_CHUNKED: Final = ("POST", "/u", True, b"hello world")

CASES: Final[dict[str, tuple[bytes, list[Request]]]] = {
    "no body": (GET, [GOT_GET]),
    "a length": (POST, [GOT_POST]),
    "chunked": (
        raw("POST /u HTTP/1.1", "Transfer-Encoding: chunked", body=CHUNKED),
        [GOT_CHUNKED],
    ),
    "trailers": (
        raw("POST /u HTTP/1.1", "transfer-encoding: chunked", body=CHUNKED[:-2] + b"t: 1\r\n\r\n"),
        [GOT_CHUNKED],
    ),
    "pipelined": (GET + POST + GET, [GOT_GET, GOT_POST, GOT_GET]),
    "empty lines between requests": (
        b"\r\n" + GET + b"\r\n\r\n" + POST + b"\r\n",
        [GOT_GET, GOT_POST],
    ),
    "absolute form": (raw("GET http://h:1/a?b HTTP/1.1"), [GOT_GET]),
    "absolute form without a path": (raw("GET http://h HTTP/1.1"), [("GET", "/", True, b"")]),
    "the last": (raw("GET /a HTTP/1.1", "Connection: close"), [("GET", "/a", False, b"")]),
    "something behind the last": (
        raw("GET /a HTTP/1.1", "Connection: close") + GET + b"\x00",
        [("GET", "/a", False, b"")],
    ),
    "HTTP/1.0": (raw("GET /a HTTP/1.0", "Connection: keep-alive"), [("GET", "/a", False, b"")]),
    "an upgrade": (UPGRADE, [GOT_UPGRADE]),
    "an upgrade, chunked": (UPGRADE_CHUNKED, [GOT_CHUNKED]),
    "an upgrade with trailers": (UPGRADE_CHUNKED[:-2] + b"t: 1\r\n\r\n", [GOT_CHUNKED]),
    "an upgrade without a body": (
        raw("GET /u HTTP/1.1", "connection: upgrade", "upgrade: websocket"),
        [("GET", "/u", True, b"")],
    ),
    "an upgrade of the last": (
        raw("GET /u HTTP/1.1", "connection: close, upgrade", "upgrade: h2c"),
        [("GET", "/u", False, b"")],
    ),
    "an upgrade in capitals": (
        raw("POST /u HTTP/1.1", "CONNECTION:UPGRADE", "UPGRADE:H2C", "CONTENT-LENGTH:5") + b"12345",
        [GOT_UPGRADE],
    ),
    "an upgrade without `Connection`": (
        raw("POST /u HTTP/1.1", *H2C, "Content-Length: 5", body=b"12345"),
        [GOT_UPGRADE],
    ),
    "upgrades behind and before others": (
        POST + UPGRADE + UPGRADE_CHUNKED + GET + UPGRADE + POST,
        [GOT_POST, GOT_UPGRADE, GOT_CHUNKED, GOT_GET, GOT_UPGRADE, GOT_POST],
    ),
    "a body that looks like an upgrade": (
        raw("POST /u HTTP/1.1", f"content-length: {len(OFFER)}", body=OFFER),
        [("POST", "/u", True, OFFER)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_requests_whole_and_in_pieces(name: str) -> None:
    data, expected = CASES[name]
    draw = random.Random(name)
    splits = [[data], [data[at : at + 1] for at in range(len(data))]]
    splits += [[data[:at], data[at:]] for at in range(1, len(data))]
    for _ in range(50):
        places = sorted(draw.sample(range(1, len(data)), k=draw.randrange(2, 6)))
        splits.append([data[a:b] for a, b in zip([0, *places], [*places, None], strict=True)])
    for pieces in splits:
        requests, reader = read(*pieces)
        assert requests.whole == expected, pieces
        assert requests.refusals == [], pieces
        assert reader.begun is None


def test_a_head_is_handed_over_as_it_came() -> None:
    requests, _ = read(
        raw(
            "POST /b?c=d HTTP/1.1", "X-A: 1", "x-a: 2", "Content-Length: 12", "Expect: 100-Continue"
        )
    )
    (head,) = requests.heads
    assert (head.url, head.version, head.received) == (b"/b?c=d", "1.1", 1.0)
    assert head.headers == [
        (b"host", b"h"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"content-length", b"12"),
        (b"expect", b"100-Continue"),
    ]
    assert head.fields[b"x-a"] == b"2"
    assert head.length == 12
    assert head.expects_continue


def test_a_client_of_http_1_0_does_not_wait_for_a_100() -> None:
    """RFC 9110, section 10.1.1."""
    requests, _ = read(raw("POST /b HTTP/1.0", "Content-Length: 1", "Expect: 100-continue"))
    assert not requests.heads[0].expects_continue


NOT_HTTP: Final[dict[str, bytes]] = {
    "noise": b"\x00\x01\x02 what\r\n\r\n",
    "a folded header": raw("GET / HTTP/1.1", "a: b\r\n c"),
    "two lengths": raw("POST / HTTP/1.1", "content-length: 1", "content-length: 2", body=b"ab"),
    "a length with a sign": raw("POST / HTTP/1.1", "content-length: +1", body=b"a"),
    "length and chunked": raw(
        "POST / HTTP/1.1", "content-length: 5", "transfer-encoding: chunked", body=CHUNKED
    ),
    "a bad chunk": raw("POST / HTTP/1.1", "transfer-encoding: chunked", body=b"zz\r\n"),
    "an encoding without an end": raw("POST / HTTP/1.1", "transfer-encoding: gzip", body=b"a"),
    "an upgrade with such an encoding": raw(
        "POST / HTTP/1.1", "transfer-encoding: gzip", "connection: upgrade", *H2C, body=b"a"
    ),
    "an upgrade with a bad chunk": UPGRADE_CHUNKED.replace(b"\r\n6;", b"\r\nzz;"),
    "an upgrade with two lengths": UPGRADE.replace(b"Content-", b"content-length: 6\r\nContent-"),
    "no URL": raw("GET http:// HTTP/1.1"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http(name: str) -> None:
    data = NOT_HTTP[name]
    for before, pieces in (
        (b"", [data]),
        (POST, [POST + data]),
        (b"", [data[at : at + 1] for at in range(len(data))]),
    ):
        requests = Requests()
        reader = RequestReader(requests, lambda: 1.0, LIMIT)
        with pytest.raises(httptools.HttpParserError):
            for piece in pieces:
                reader.feed(piece)
        assert requests.whole == ([GOT_POST] if before else [])


def test_an_exception_of_the_sink_is_not_taken_for_bad_http() -> None:
    class Broken(Requests):
        def read_head(self, head: RequestHead) -> None:
            raise RuntimeError("a bug")

    reader = RequestReader(Broken(), lambda: 1.0, LIMIT)
    with pytest.raises(httptools.HttpParserCallbackError) as caught:
        reader.feed(GET)
    assert str(caught.value.__context__) == "a bug"


def test_many_offers_to_upgrade_in_one_read() -> None:
    requests, _ = read(UPGRADE * 2000, limit=1 << 20)
    assert requests.whole == [GOT_UPGRADE] * 2000


# Limits


def _endless(start: bytes) -> bytes:
    return start + b"x" * (3 * LIMIT)


TOO_LARGE: Final[dict[str, bytes]] = {
    "a target": _endless(b"GET /"),
    "the name of a header": _endless(b"GET / HTTP/1.1\r\nhost: h\r\n"),
    "the value of a header": _endless(b"GET / HTTP/1.1\r\nhost: h\r\na: "),
    "many headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (LIMIT // 5),
    "a trailer": _endless(UPGRADE_CHUNKED[:-2] + b"t: "),
    "a trailer without an upgrade": _endless(
        raw("POST /u HTTP/1.1", "Transfer-Encoding: chunked", body=CHUNKED[:-2]) + b"t: "
    ),
    "an extension of a chunk": _endless(
        raw("POST / HTTP/1.1", "transfer-encoding: chunked", body=b"5;")
    ),
}


@pytest.mark.parametrize("size", [1, 10, 1 << 20])
@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_has_no_end_is_refused(name: str, size: int) -> None:
    """However it is split: its first part does not stay in memory."""
    data = TOO_LARGE[name]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    if len(pieces) == 1:
        pieces = [data[:LIMIT], data[LIMIT : 2 * LIMIT], data[2 * LIMIT :]]
    requests, _ = read(*pieces)
    assert requests.refusals
    assert {each.status for each in requests.refusals} == {431}


def test_a_head_behind_a_large_body_in_the_same_read() -> None:
    """The body is not counted for the head."""
    body = b"b" * (3 * LIMIT)
    first = raw("POST /b HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    for place in range(1, len(GET)):
        requests, _ = read(first + GET[:place], GET[place:])
        assert requests.refusals == []
        assert [each[:2] for each in requests.whole] == [("POST", "/b"), ("GET", "/a")]


@pytest.mark.parametrize("asked", [UPGRADE, UPGRADE_CHUNKED])
def test_a_large_head_that_offers_an_upgrade(asked: bytes) -> None:
    """What is read in its place is not counted for it."""
    spare = LIMIT - asked.index(b"\r\n\r\n")
    asked = asked.replace(b"\r\nUpgrade", b"\r\na: %b\r\nUpgrade" % (b"x" * spare), 1)
    requests, _ = read(asked)
    assert requests.refusals == []
    assert len(requests.whole) == 1


def test_a_long_body_in_small_chunks_is_no_large_head() -> None:
    head = raw("POST /b HTTP/1.1", "Transfer-Encoding: chunked")
    chunks: list[Any] = [piece for _ in range(2 * LIMIT) for piece in (b"1\r\n", b"x\r\n")]
    requests, _ = read(head, *chunks, b"0\r\n\r\n")
    assert requests.refusals == []
    assert requests.whole == [("POST", "/b", True, b"x" * 2 * LIMIT)]


@pytest.mark.parametrize("origin", ["http://a", ""])
def test_the_origin_is_known_before_the_head_is_complete(origin: str) -> None:
    line = f"Origin: {origin}" if origin else "a: b"
    _, reader = read(raw("GET / HTTP/1.1", line, "c: d")[:-4])
    assert reader.origin == (origin.encode() or None)
