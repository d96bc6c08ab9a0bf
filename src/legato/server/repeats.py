"""What a client's requests have in common: on one connection each has the head of the last one, but
for the length of its body.

Such a head has been parsed before, byte for byte. The next request is only compared with it.
"""

from typing import Final

from legato.server.exchange import ChatExchange

#: Heads that are learnt of one connection without one of them coming again.
_TRIES: Final = 4


class Repeats:
    """The head of the last request of one connection."""

    __slots__ = ("_after", "_before", "_digits", "_facts", "_tries", "noted")

    def __init__(self) -> None:
        self._before = b"\n"  # up to the content length's digits; this begins no request
        self._after = b""  # from there to the end of the head
        self._digits = 1  # of the last content length
        self._facts: tuple[bytes | None, ...] = ()
        self.noted: ChatExchange | None = None  # whose headers this read has brought
        self._tries = _TRIES

    def note(self, exchange: ChatExchange) -> None:
        """Its headers have just been read."""
        usual = exchange.keep_alive and exchange.length and not exchange.expects_continue
        self.noted = exchange if usual and self._tries else None

    def learn(self, raw: bytes) -> None:
        """A read that begins with a request and ends with one; the noted exchange came in it."""
        noted, self.noted = self.noted, None
        if noted is None or noted.digest is None:  # nobody whom we know
            return
        self._tries -= 1
        length = noted.length
        head, end, body = raw.partition(b"\r\n\r\n")
        lower = head.lower()
        name = b"\r\ncontent-length:"
        # Of anything else that says where a body ends, llhttp alone decides.
        if len(body) != length or lower.count(name) != 1 or b"\r\ntransfer-encoding" in lower:
            return
        begin = lower.index(name) + len(name)
        begin += len(head[begin:]) - len(head[begin:].lstrip(b" "))
        stop = begin + len(b"%d" % length)
        if head[begin:stop] == b"%d" % length and b"pgrade" not in lower:
            self._before, self._after, self._facts = head[:begin], head[stop:] + end, noted.quirks

    def body(self, raw: bytes) -> bytes | None:
        """The body of a request with the same head, where it is all of `raw`; else None."""
        before, after = self._before, self._after
        if not raw.startswith(before):
            return None
        # How long the body is, if all of this is the request, says how long its length is.
        rest = len(raw) - len(before) - len(after)
        digits = b"%d" % (rest - self._digits)
        if len(digits) != self._digits:
            digits = _digits(rest)
            self._digits = len(digits)
        begin = len(before)
        if not raw.startswith(digits + after, begin):
            return None
        self._tries = _TRIES
        return raw[begin + len(digits) + len(after) :]

    def fill(self, exchange: ChatExchange, body: bytes) -> None:
        """What the parser would have told."""
        exchange.quirks = self._facts
        exchange.body = body
        exchange.length = len(body)
        exchange.more_body = False


def _digits(size: int) -> bytes:
    """Those of the number that is `size` with as many taken away as it has digits."""
    most = len(b"%d" % size)
    digits = b"%d" % (size - most)
    return digits if len(digits) == most else b"%d" % (size - most + 1)
