"""Events of a generated answer in the formats of Anthropic, Gemini and Ollama."""

from collections.abc import Callable
from copy import copy
from typing import Any, Final

from tests.support.oracle.texts import Draw, encoder, odd_string, word

Events = list[bytes]


class _Server:
    """What the three have in common. `encode` makes a JSON string of a text."""

    content_type = "text/event-stream"

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.encode: Any = encoder(draw)
        self.written = 0

    def next_answer(self, choices: int) -> Any:
        """The same server for another answer."""
        return copy(self)

    def string(self) -> bytes:
        if self.draw.chance(0.3):
            return odd_string(self.draw, self.encode)
        return self.encode(word(self.draw))


class AnthropicServer(_Server):
    """Anthropic's Messages API."""

    dialect = "anthropic"

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.line_end = draw.pick((b"\n", b"\n", b"\n", b"\n", b"\r\n"))
        self._block = -1
        self._kind = b""
        self._is_named = draw.chance(0.9)  # its events have names

    def event(self, kind: bytes, rest: bytes) -> bytes:
        name = b"event: %b%b" % (kind, self.line_end) if self._is_named else b""
        return b'%bdata: {"type":"%b"%b}%b' % (name, kind, rest, 2 * self.line_end)

    def opening(self) -> Events:
        message = (
            b',"message":{"id":"msg_1","type":"message","role":"assistant","model":"claude",'
            b'"content":[],"stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}'
        )
        ping = [self.event(b"ping", b"")] if self.draw.chance(0.5) else []
        return [self.event(b"message_start", message), *ping]

    def _open(self, kind: bytes) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._kind = kind
        self._block += 1
        member = b"thinking" if kind == b"thinking" else b"text"
        block = b',"index":%d,"content_block":{"type":"%b","%b":""}'
        return closed + self.event(b"content_block_start", block % (self._block, kind, member))

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        signed = b""
        if self._kind == b"thinking" and self.draw.chance(0.7):
            signed = self._delta(b'"type":"signature_delta","signature":"c2ln"')
        self._kind = b""
        return signed + self.event(b"content_block_stop", b',"index":%d' % self._block)

    def _delta(self, members: bytes) -> bytes:
        delta = b',"index":%d,"delta":{%b}' % (self._block, members)
        return self.event(b"content_block_delta", delta)

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        self.written += 1
        kind, member = (b"thinking", b"thinking") if reasons else (b"text", b"text")
        opened = self._open(kind)
        return opened + self._delta(b'"type":"%b_delta","%b":%b' % (kind, member, string))

    def tool_calls(self, number: int) -> Events:
        closed = self._close()
        self._block += 1
        self._kind = b"tool_use"
        block = b',"index":%d,"content_block":{"type":"tool_use","id":"t_%d","name":"f","input":{}}'
        events = [closed + self.event(b"content_block_start", block % (self._block, number))]
        pieces = (b'"{\\"a\\":"', b'"1"', b'"}"')[: self.draw.between(0, 3)]
        delta = b'"type":"input_json_delta","partial_json":%b'
        return events + [self._delta(delta % piece) for piece in pieces]

    def odd(self) -> Events:
        draw = self.draw
        text = b'"type":"text_delta","text":%b' % self.string()
        match draw.between(0, 9):
            case 0:
                return [self.event(b"ping", b"")]
            case 1:
                return [self._delta(b'"type":"citations_delta","citation":{"a":1}')]
            case 2:
                return [self._delta(text + b',"x":1')]
            case 3:
                return [b"data: null" + 2 * self.line_end]
            case 4:
                return [self._delta(b'"type":"other_delta","text":"x"')]
            case 5:
                return [b": comment" + 2 * self.line_end]
            case 6:
                error = b',"error":{"type":"overloaded_error","message":"Overloaded"}'
                return [self.event(b"error", error)]
            case 7:
                return [self._delta(b'"text":%b,"type":"text_delta"' % self.string())]
            case 8:
                return [b"\xef\xbb\xbf" + self._delta(text)]
            case _:
                return [self.text(self.string())]

    def closing(self, reason: str) -> Events:
        stop = {"stop": b"end_turn", "length": b"max_tokens"}.get(reason, b"tool_use")
        end = b',"delta":{"stop_reason":"%b","stop_sequence":null},"usage":{"output_tokens":%d}'
        events = [self._close(), self.event(b"message_delta", end % (stop, self.written))]
        if self.draw.chance(0.9):
            events.append(self.event(b"message_stop", b""))
        return [each for each in events if each]


class GeminiServer(_Server):
    """Gemini's streamGenerateContent."""

    dialect = "gemini"

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.line_end = draw.pick((b"\r\n", b"\n"))
        self._has_usage = draw.chance(0.5)  # in each event; else in the last one

    def event(self, candidate: bytes, *, last: bool = False) -> bytes:
        usage = b',"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":%d}' % self.written
        data = b'{"candidates":[%b]%b,"modelVersion":"gemini-2.5-flash","responseId":"Q2"}'
        return self.line(data % (candidate, usage if last or self._has_usage else b""))

    def line(self, data: bytes) -> bytes:
        return b"data: %b%b" % (data, 2 * self.line_end)

    def _part(self, part: bytes, rest: bytes = b"", *, last: bool = False) -> bytes:
        content = b'{"content":{"parts":[%b],"role":"model"}%b,"index":0}' % (part, rest)
        return self.event(content, last=last)

    def opening(self) -> Events:
        return []

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        self.written += 1
        return self._part(b'{"text":%b%b}' % (string, b',"thought":true' if reasons else b""))

    def tool_calls(self, number: int) -> Events:
        return [self._part(b'{"functionCall":{"name":"f","args":{"a":%d}}}' % number)]

    def odd(self) -> Events:
        draw, string = self.draw, self.string()
        match draw.between(0, 7):
            case 0:
                return [self._part(b'{"text":%b},{"text":%b}' % (string, self.string()))]
            case 1:
                return [self._part(b'{"text":%b}' % string, b',"finishReason":"STOP"')]
            case 2:
                return [self._part(b'{"text":%b,"thoughtSignature":"c2ln"}' % string)]
            case 3:
                return [self.line(b"null")]
            case 4:
                return [self.line(b'{"error":{"code":503,"message":"Overloaded"}}')]
            case 5:
                return [self.line(b'{"promptFeedback":{"safetyRatings":[]}}')]
            case 6:
                return [self._part(b'{"text":%b}' % string, b',"avgLogprobs":-0.1')]
            case _:
                return [self._part(b'{"text":%b,"x":%b}' % (string, self.string()))]

    def closing(self, reason: str) -> Events:
        finish = b"MAX_TOKENS" if reason == "length" else b"STOP"
        return [self._part(b'{"text":""}', b',"finishReason":"%b"' % finish, last=True)]


class OllamaServer(_Server):
    """Ollama's /api/chat."""

    dialect = "ollama"
    content_type = "application/x-ndjson"
    line_end = b"\n"

    def line(self, rest: bytes) -> bytes:
        return b'{"model":"qwen3:8b","created_at":"2026-05-01T10:11:12Z",%b}\n' % rest

    def opening(self) -> Events:
        return []

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        self.written += 1
        content = b'"content":"","thinking":%b' if reasons else b'"content":%b'
        message = b'"message":{"role":"assistant",%b},"done":false' % (content % string)
        return self.line(message)

    def tool_calls(self, number: int) -> Events:
        call = b'{"function":{"name":"f","arguments":{"a":%d}}}' % number
        message = b'"message":{"role":"assistant","content":"","tool_calls":[%b]},"done":false'
        return [self.line(message % call)]

    def odd(self) -> Events:
        return [
            self.draw.pick(
                (
                    b"\n",
                    self.text(self.string()),
                    self.text(self.string(), reasons=True),
                    self.line(b'"message":{"content":%b},"x":1' % self.string()),
                    b'{"error":"it broke"}\n',
                    b"null\n",
                )
            )
        ]

    def closing(self, reason: str) -> Events:
        reason = "length" if reason == "length" else "stop"
        rest = b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"%b"'
        usage = b',"prompt_eval_count":7,"eval_count":%d' % self.written
        return [self.line(rest % reason.encode() + usage)]


OTHERS: Final[dict[str, Callable[[Draw], Any]]] = {
    "anthropic": AnthropicServer,
    "gemini": GeminiServer,
    "ollama": OllamaServer,
}
