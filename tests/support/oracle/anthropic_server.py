"""Events of a generated answer in the format of Anthropic's Messages API."""

from collections.abc import Callable
from typing import Final

from tests.support.oracle.named_server import NamedServer
from tests.support.oracle.other_servers import Events
from tests.support.oracle.texts import Draw

#: Members of a block's start, by its type.
_EMPTY: Final = {
    b"text": (b'{"type":"text","text":""}',),
    b"thinking": (
        b'{"type":"thinking","thinking":"","signature":""}',
        b'{"type":"thinking","thinking":""}',
    ),
}

#: Blocks that come whole with their start.
_WHOLE: Final = (
    b'{"type":"text","text":"whole"}',
    b'{"type":"thinking","thinking":"hm","signature":"c2ln"}',
    b'{"type":"tool_use","id":"t_9","name":"f","input":{"a":1}}',
    b'{"type":"redacted_thinking","data":"c2ln"}',
    b'{"type":"server_tool_use","id":"s_1","name":"web_search","input":{}}',
    b'{"type":"hologram","depth":3}',
    b"null",
)

_DELTAS: Final = (
    b'{"type":"citations_delta","citation":{"a":1}}',
    b'{"type":"other_delta","text":"x"}',
    b'{"type":"signature_delta","signature":"c2ln"}',
    b'{"type":"input_json_delta","partial_json":"{}"}',
    b'{"type":"thinking_delta","thinking":"hm"}',
    b'{"type":"text_delta","text":""}',
    b'{"type":"text_delta"}',
    b'{"type":"text_delta","text":null}',
    b"{}",
    b"null",
)


class AnthropicServer(NamedServer):
    """Anthropic's Messages API, and servers that copy it."""

    dialect = "anthropic"

    def __init__(self, draw: Draw, *, is_steady: bool) -> None:
        super().__init__(draw, is_steady=is_steady)
        self._block = -1
        self._kind = b""
        self._last = draw.pick((b"type", b"type", b"type", b"type", b"index", b"delta"))
        self._pads = draw.chance(0.3)  # with spaces, as Anthropic does
        self._starts = draw.chance(0.97)  # blocks have a start

    def event(self, kind: bytes, *members: tuple[bytes, bytes]) -> bytes:
        return self.framed(kind, self.joined([(b"type", b'"%b"' % kind), *members]))

    def opening(self) -> Events:
        draw = self.draw
        message = (
            b'{"id":"msg_1","type":"message","role":"assistant","model":"claude",'
            b'"content":[],"stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}'
        )
        ping = [self.event(b"ping")] if draw.chance(0.5) else []
        return [self.event(b"message_start", (b"message", message)), *ping]

    def _at(self) -> tuple[bytes, bytes]:
        return b"index", b"%d" % self._block

    def _open(self, kind: bytes) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._kind = kind
        self._block += 1
        if not self._starts:
            return closed
        block = (b"content_block", self.draw.pick(_EMPTY[kind]))
        return closed + self.event(b"content_block_start", self._at(), block)

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        signed = b""
        if self._kind == b"thinking" and self.draw.chance(0.7):
            signed = self._delta(b'{"type":"signature_delta","signature":"c2ln"}')
        self._kind = b""
        return signed + self.event(b"content_block_stop", self._at())

    def _delta(self, delta: bytes, index: int | None = None) -> bytes:
        at = (b"index", b"%d" % (self._block if index is None else index))
        return self.event(b"content_block_delta", at, (b"delta", delta))

    def begun(self) -> bytes:
        return self._open(b"text")

    def delta(self, string: bytes, more: bytes = b"", kind: bytes = b"text") -> tuple[bytes, bytes]:
        inner = [(b"type", b'"%b_delta"' % kind), (kind, string)]
        members = {
            b"type": b'"content_block_delta"',
            b"index": b"%d" % self._block,
            b"delta": self.joined(inner),
        }
        if self._last != b"type":  # another order: a member stands at the end, and within
            members[self._last] = members.pop(self._last)
            members[b"delta"] = self.joined(inner[::-1])
        spaces = b" " * self.draw.between(0, 15) if self._pads else b""
        data = self.joined(list(members.items()))
        return b"content_block_delta", b"%b%b%b}" % (data[:-1], more, spaces)

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        self.written += 1
        kind = b"thinking" if reasons else b"text"
        return self._open(kind) + self.framed(*self.delta(string, kind=kind))

    def tool_calls(self, number: int) -> Events:
        closed = self._close()
        self._block += 1
        self._kind = b"tool_use"
        block = b'{"type":"tool_use","id":"t_%d","name":"f","input":{}}' % number
        start = self.event(b"content_block_start", self._at(), (b"content_block", block))
        pieces = (b'"{\\"a\\":"', b'"1"', b'"}"')[: self.draw.between(0, 3)]
        delta = b'{"type":"input_json_delta","partial_json":%b}'
        return [closed + start] + [self._delta(delta % piece) for piece in pieces]

    # What is seldom

    def own_odd(self) -> Events:
        return self.draw.pick(_ODD)(self)

    def odd_delta(self) -> Events:
        return [self._delta(self.draw.pick(_DELTAS))]

    def unknown_in_delta(self) -> Events:
        return [self._delta(b'{"type":"text_delta","text":%b,"x":1}' % self.string())]

    def delta_of_another_block(self) -> Events:
        index = self.draw.pick((0, self._block + 1, self._block - 1, 9))
        return [self._delta(b'{"type":"text_delta","text":%b}' % self.string(), index)]

    def whole_block(self) -> Events:
        self._kind = b""
        self._block += self.draw.pick((1, 1, 1, 0, 3))
        block = (b"content_block", self.draw.pick(_WHOLE))
        return [self.event(b"content_block_start", self._at(), block)]

    def stop(self) -> Events:
        """Of the block under way, or of one that is over."""
        if self.draw.chance(0.5):
            self._kind = b""
        return [self.event(b"content_block_stop", self._at())]

    def usage_so_far(self) -> Events:
        usage = (b"usage", b'{"output_tokens":%d}' % self.written)
        delta = self.draw.pick((b"{}", b'{"stop_reason":null}', b"null"))
        return [self.event(b"message_delta", (b"delta", delta), usage)]

    def early_end(self) -> Events:
        end = self.closing("stop")
        return end[: self.draw.between(1, len(end))]

    def another_text(self) -> Events:
        return [self.text(self.string(), reasons=self.draw.chance(0.4))]

    def closing(self, reason: str) -> Events:
        stops = {"stop": b"end_turn", "length": b"max_tokens", "content_filter": b"refusal"}
        stop = b'{"stop_reason":"%b","stop_sequence":null}' % stops.get(reason, b"tool_use")
        usage = (b"usage", b'{"output_tokens":%d}' % self.written)
        end = self.event(b"message_delta", (b"delta", stop), usage)
        events = [self._close() if self.draw.chance(0.97) else b"", end]
        if self.draw.chance(0.9):
            events.append(self.event(b"message_stop"))
        return [each for each in events if each]


_ODD: Final[tuple[Callable[[AnthropicServer], Events], ...]] = (
    *(AnthropicServer.odd_delta, AnthropicServer.odd_delta, AnthropicServer.unknown_in_delta),
    *(AnthropicServer.delta_of_another_block, AnthropicServer.whole_block, AnthropicServer.stop),
    *(AnthropicServer.usage_so_far, AnthropicServer.opening, AnthropicServer.another_text),
    *(AnthropicServer.another_text, AnthropicServer.another_text, AnthropicServer.early_end),
)
