"""What the servers have in common whose events have names: Anthropic's Messages API and OpenAI's
Responses API. Where the client speaks the same format, their events are relayed."""

import json
from typing import Final

from tests.support.oracle.other_servers import Events, Server
from tests.support.oracle.texts import Draw, odd_string, word

_BOM: Final = b"\xef\xbb\xbf"

#: Data of events that are of no format.
_JUNK: Final = (
    *(b"null", b" null ", b"[]", b"{}", b'"x"', b"1", b"true", b"{", b"}", b"hello", b"<html>"),
    *(b"[DONE]", b" [DONE] ", b"\xff\xfe", b'{"type":null}', b'{"type":7}', b'{"type":""}'),
    *(b'{"type":"hologram.delta","depth":3}', b'{"type":"ping"}', b'{"type":"x"}', b"[DONE"),
)

_ERRORS: Final = (
    b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    b'{"type":"error","code":"server_error","message":"it broke","param":null}',
    b'{"error":{"message":"it broke","type":"server_error","code":"gpu_lost"}}',
    b'{"error":"it broke"}',
    b'{"error":null}',
    b'{"type":"error"}',
)


class NamedServer(Server):
    """`is_steady`: its events differ in what they have to differ in."""

    def __init__(self, draw: Draw, *, is_steady: bool) -> None:
        super().__init__(draw, is_steady=is_steady)
        self.line_end = b"\n" if is_steady else draw.pick((b"\n", b"\n", b"\n", b"\r\n", b"\r"))
        self.is_named = draw.chance(0.95 if is_steady else 0.8)
        spaced = draw.chance(0.1)  # as Python's own encoder writes it
        self.comma, self.colon = (b", ", b": ") if spaced else (b",", b":")

    # Events

    def joined(self, members: list[tuple[bytes, bytes]]) -> bytes:
        """An object of these members: name and JSON each."""
        colon = self.colon
        return b"{%b}" % self.comma.join([b'"%b"%b%b' % (name, colon, v) for name, v in members])

    def framed(self, name: bytes, data: bytes) -> bytes:
        end = self.line_end
        if self.is_named:
            return b"event: %b%bdata: %b%b%b" % (name, end, data, end, end)
        return b"data: %b%b%b" % (data, end, end)

    def begun(self) -> bytes:
        """The events that a delta of text needs before it."""
        raise NotImplementedError

    def delta(self, string: bytes, more: bytes = b"") -> tuple[bytes, bytes]:
        """(name, data) of a delta of text. `more`: members behind the others, with their comma."""
        raise NotImplementedError

    # What is seldom

    def own_odd(self) -> Events:
        """An oddity of the format itself."""
        raise NotImplementedError

    def odd(self, *, wild: bool) -> Events:
        draw = self.draw
        place = draw.number()
        if place < 0.5:
            return self.own_odd()
        if place < 0.65:
            return [self.begun() + self._lines(*self.delta(self.string()))]
        if place < 0.75:
            member = b'"%b":%b' % (draw.pick(_NAMES), draw.pick(_VALUES))
            return [self.framed(*self.delta(self.string(), b"," + member))]
        if place < 0.8:
            return self._parted_pair()
        if place < 0.85:
            return [self.text(odd_string(draw, self.encode))]
        if place < 0.95 or not wild:
            _, data = self.delta(self.string())
            return [self.framed(draw.pick((b"message", b"", b"x", b"error")), data)]
        return [self._wild()]

    def _wild(self) -> bytes:
        """What many answers end with."""
        draw = self.draw
        match draw.between(0, 4):
            case 0:
                return self.framed(b"message", draw.pick(_JUNK))
            case 1:
                return self.framed(b"error", draw.pick(_ERRORS))
            case 2:
                return draw.pick((_BOM, b"", _BOM + _BOM)) + self._usual()
            case _:
                event = bytearray(self._usual())
                at = draw.between(0, len(event) - 1)
                if draw.chance(0.4):
                    event[at] = draw.pick(b'\x00\n\r "{}[],:\\\x7f\xc3\xff0aZ')
                elif draw.chance(0.5):
                    del event[at]
                else:
                    event.insert(at, draw.pick(b'\x00\n\r "{}[],:\\\xef\xff0'))
                return bytes(event)

    def _usual(self) -> bytes:
        return self.framed(*self.delta(self.encode(word(self.draw))))

    def _parted_pair(self) -> Events:
        draw = self.draw
        halves = [rb'"\ud83d"', rb'"\ude00"'] if draw.chance(0.5) else [rb'"a\ud83d"', b'""']
        if draw.chance(0.3):
            halves.insert(1, self.encode(word(draw)))
        return [self.text(each) for each in halves]

    def _lines(self, name: bytes, data: bytes) -> bytes:
        """Another way to put an event into lines."""
        draw, end = self.draw, self.line_end
        head, line = b"event: " + name + end, b"data: " + data + end
        return draw.pick(
            (
                b": comment" + 2 * end + head + line + end,
                head + b": comment" + end + line + end,
                b"id: 7" + end + head + line + end,
                head + line + b"retry: 10" + 2 * end,
                line + head + end,
                line + end,
                head + head + line + end,
                b"event: x" + end + head + line + end,
                b"event:" + name + end + line + end,
                b"event: " + end + line + end,
                head + b"data:" + data + 2 * end,
                head + b"data:  " + data + b" " + 2 * end,
                head + line + b"data: " + 2 * end,
                head + line + line + end,
                head + line,
                head + end + line + end,
                2 * end + head + line + 2 * end,
                b"event: %b\r\ndata: %b\r\n\r\n" % (name, data),
                b"event: %b\rdata: %b\r\r" % (name, data),
                head + b"data: " + _indented(data).replace(b"\n", end + b"data: ") + 2 * end,
                head + b"data: " + data[:-1] + b" " * draw.between(1, 9) + b"}" + 2 * end,
                b"event: ping" + end + b'data: {"type":"ping"}' + 2 * end,
                b"event: ping" + 2 * end,
            )
        )


#: Members that a format may have elsewhere, or may not know.
_NAMES: Final = (
    *(b"type", b"index", b"delta", b"sequence_number", b"obfuscation", b"item_id", b"logprobs"),
    *(b"output_index", b"content_index", b"error", b"response", b"item", b"text", b"x", b"usage"),
    *(b"content_block", b"message", b"annotations", b"thinking", b"snapshot", "é".encode()),
    *(b"sequence\\u005fnumber", b"p"),
)
_VALUES: Final = (
    *(b"null", b"0", b"1", b"-1", b"1.0", b"true", b"false", b'""', b'"x"', b"[]", b"{}", b"[1]"),
    *(b'{"a":1}', b"1e400", b"01", b"NaN", b'"\\ud83d"', b'"\xff"', b"9" * 30, b'"a\nb"', b""),
    *(b'{"sequence_number":3}', b'{"obfuscation":"ab"}', b'"xxxxxxxxxx"', b'"\xe2\x80\xa8"'),
)


def _indented(data: bytes) -> bytes:
    try:
        return json.dumps(json.loads(data), indent=1).encode()
    except ValueError:
        return data
