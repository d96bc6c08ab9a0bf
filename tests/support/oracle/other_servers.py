"""Events of a generated answer in the formats of Gemini and Ollama."""

from copy import copy
from typing import Any

from tests.support.oracle.texts import Draw, encoder, odd_string, word

Events = list[bytes]


class Server:
    """What servers have in common whose format is not OpenAI's. `encode` makes a JSON string of a
    text."""

    content_type = "text/event-stream"

    def __init__(self, draw: Draw, *, is_steady: bool) -> None:
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

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        """What carries one text, given as a JSON string."""
        raise NotImplementedError


class GeminiServer(Server):
    """Gemini's streamGenerateContent."""

    dialect = "gemini"

    def __init__(self, draw: Draw, *, is_steady: bool) -> None:
        super().__init__(draw, is_steady=is_steady)
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

    def odd(self, *, wild: bool) -> Events:
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


class OllamaServer(Server):
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

    def odd(self, *, wild: bool) -> Events:
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
