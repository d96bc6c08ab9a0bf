"""Events of a generated answer in the format of OpenAI's Responses API."""

from collections.abc import Callable
from typing import Final

from tests.support.oracle.named_server import NamedServer
from tests.support.oracle.other_servers import Events
from tests.support.oracle.texts import Draw

#: Orders of the members of a delta, as servers have them. Any of them may be absent.
_ORDERS: Final = (
    *(
        b"type sequence_number item_id output_index content_index delta logprobs obfuscation",
        b"type sequence_number item_id output_index content_index delta logprobs obfuscation",
        b"content_index delta item_id logprobs output_index sequence_number type",
        b"type item_id output_index content_index delta sequence_number",
        b"sequence_number type delta obfuscation",
        b"type delta",
    ),
)

#: How events are numbered, by shares, where it is not one by one.
_NUMBERING: Final = (
    *("absent", "absent", "same", "jumps", "jumps", "huge", "strings", "unordered", "mixed"),
)

_ODD_NUMBERS: Final = (
    *(b"null", b"-1", b"1.0", b"1e3", b"01", b"00", b"9" * 30, b"9223372036854775808", b'"7"'),
    *(b"true", b'{"a":1}', b"[]", b"", b"+1", b"0x1", b" 7 ", b"-0", b'"\\ud83d"', b"NaN", b"7."),
    *(b"7 ", b"\t7", b"18446744073709551616", b"4294967296", b"987654321"),
)

_ITEMS: Final = (
    b'{"type":"web_search_call","id":"ws_1","status":"completed"}',
    b'{"type":"hologram","id":"h_1","depth":3}',
    b'{"type":"message","id":"msg_9","role":"assistant","status":"completed","content":'
    b'[{"type":"output_text","text":"whole","annotations":[]}]}',
    b'{"type":"reasoning","id":"rs_9","summary":[],"encrypted_content":"c2ln"}',
    b'{"type":"custom_tool_call","id":"ctc_1","call_id":"c_9","name":"f","input":"x"}',
    b"{}",
    b"null",
)

_PARTS: Final = (
    b'{"type":"output_text","text":"whole","annotations":[]}',
    b'{"type":"refusal","refusal":"no"}',
    b'{"type":"hologram"}',
    b"null",
)

_TEXT: Final = b"response.output_text"
_DELTA: Final = _TEXT + b".delta"
_REASONING: Final = (b"response.reasoning_summary_text", b"response.reasoning_text")


class ResponsesServer(NamedServer):
    """OpenAI's Responses API, and servers that copy it."""

    dialect = "openai-responses"

    def __init__(self, draw: Draw, *, is_steady: bool) -> None:
        super().__init__(draw, is_steady=is_steady)
        self._order = draw.pick(_ORDERS).split(b" ")
        self._numbering = "on" if draw.chance(0.6) else draw.pick(_NUMBERING)
        self._padding = draw.pick(("none", "none", "fixed", "varied"))
        self._logprobs = b"[]"
        if draw.chance(0.04):
            self._logprobs = b'[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}]'
        self._thought = draw.pick(_REASONING)
        self._announces = draw.chance(0.95)  # items and parts have a beginning
        self._repeats = draw.chance(0.9)  # and an end with all of their text
        self._keeps_ids = draw.chance(0.95)
        self._number = -1
        self._item = -1
        self._kind = b""  # of the item under way: message, reasoning
        self._said: list[bytes] = []  # in it
        self._done: list[bytes] = []

    def next_answer(self, choices: int) -> "ResponsesServer":
        server: ResponsesServer = super().next_answer(choices)
        server._said, server._done = [], []
        return server

    # Events

    def _next_number(self) -> bytes | None:
        draw, way = self.draw, self._numbering
        self._number += 1
        match way:
            case "on":
                return b"%d" % self._number
            case "absent":
                return None
            case "same":
                return b"0"
            case "jumps":
                self._number += draw.between(0, 40)
                return b"%d" % self._number
            case "huge":
                return b"%d" % (10 ** draw.pick((9, 15, 18, 19, 20, 40)) + self._number)
            case "strings":
                return b'"%d"' % self._number
            case "unordered":
                return b"%d" % draw.between(0, 120)
            case _:
                if draw.chance(0.3):
                    return draw.pick(_ODD_NUMBERS)
                return b"%d" % self._number if draw.chance(0.8) else None

    def event(self, kind: bytes, *members: tuple[bytes, bytes], name: bytes = b"") -> bytes:
        number = self._next_number()
        numbered = [(b"sequence_number", number)] if number is not None else []
        data = self.joined([(b"type", b'"%b"' % kind), *numbered, *members])
        return self.framed(name or kind, data)

    def _identity(self) -> bytes:
        number = self._item if self._keeps_ids else self.draw.between(0, 9)
        return b'"%b_%d"' % (b"rs" if self._kind == b"reasoning" else b"msg", number)

    def _places(self) -> tuple[tuple[bytes, bytes], ...]:
        which = b"content_index"
        if self._kind == b"reasoning" and self._thought is _REASONING[0]:
            which = b"summary_index"
        at = (b"output_index", b"%d" % self._item)
        return (b"item_id", self._identity()), at, (which, b"0")

    def _response(self, status: bytes, *, rest: bytes = b"") -> tuple[bytes, bytes]:
        output = b",".join(self._done) if self.draw.chance(0.8) else b""
        fixed = (
            b'{"id":"resp_9","object":"response","created_at":1750000000,"status":"%b",'
            b'"model":"gpt-5","output":[%b]%b}'
        )
        return b"response", fixed % (status, output, rest)

    def opening(self) -> Events:
        if self.draw.chance(0.04):
            return [self.event(b"keepalive")]
        states = (b"response.created", b"response.in_progress")
        return [self.event(each, self._response(b"in_progress")) for each in states]

    # Items

    def _part(self, text: bytes) -> bytes:
        if self._kind == b"message":
            return b'{"type":"output_text","annotations":[],"text":%b}' % text
        kind = b"summary_text" if self._thought is _REASONING[0] else b"reasoning_text"
        return b'{"type":"%b","text":%b}' % (kind, text)

    def _item_json(self, status: bytes, parts: bytes) -> bytes:
        if self._kind == b"message":
            rest = b'"role":"assistant","content":[%b]' % parts
        elif self._thought is _REASONING[0]:
            rest = b'"summary":[%b]' % parts
        else:
            rest = b'"summary":[],"content":[%b]' % parts
        fixed = b'{"type":"%b","id":%b,"status":"%b",%b}'
        return fixed % (self._kind, self._identity(), status, rest)

    def _part_event(self) -> bytes:
        summarizes = self._kind == b"reasoning" and self._thought is _REASONING[0]
        return b"response.reasoning_summary_part" if summarizes else b"response.content_part"

    def _open(self, kind: bytes) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._kind, self._said = kind, []
        self._item += 1
        if not self._announces:
            return closed
        item = (b"item", self._item_json(b"in_progress", b""))
        part = self.event(self._part_event() + b".added", *self._places(), self._as_part(b'""'))
        at = (b"output_index", b"%d" % self._item)
        return closed + self.event(b"response.output_item.added", at, item) + part

    def _as_part(self, text: bytes) -> tuple[bytes, bytes]:
        return b"part", self._part(text)

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        text = b'"%b"' % b"".join([each[1:-1] for each in self._said])
        item = self._item_json(b"completed", self._part(text))
        events = b""
        if self._repeats:
            kind = b"response.output_text" if self._kind == b"message" else self._thought
            events = self.event(kind + b".done", *self._places(), (b"text", text))
            events += self.event(
                self._part_event() + b".done", *self._places(), self._as_part(text)
            )
            at = (b"output_index", b"%d" % self._item)
            events += self.event(b"response.output_item.done", at, (b"item", item))
        self._done.append(item)
        self._kind = b""
        return events

    def begun(self) -> bytes:
        return self._open(b"message")

    def delta(self, string: bytes, more: bytes = b"", kind: bytes = _DELTA) -> tuple[bytes, bytes]:
        draw, number = self.draw, self._next_number()
        values = {b"type": b'"%b"' % kind, b"delta": string, **dict(self._places())}
        if number is not None:
            values[b"sequence_number"] = number
        if kind == _DELTA:
            values[b"logprobs"] = self._logprobs
        if self._padding != "none":
            size = 3 if self._padding == "fixed" else draw.between(0, 16)
            values[b"obfuscation"] = b'"%b"' % (b"xyzXYZ01" * 2)[:size]
        members = [(name, values[name]) for name in self._order if name in values]
        return kind, self.joined(members)[:-1] + more + b"}"

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        self.written += 1
        opened = self._open(b"reasoning" if reasons else b"message")
        self._said.append(string)
        if reasons:
            return opened + self.framed(*self.delta(string, kind=self._thought + b".delta"))
        return opened + self.framed(*self.delta(string))

    def tool_calls(self, number: int) -> Events:
        closed = self._close()
        self._item += 1
        at = (b"output_index", b"%d" % self._item)
        call = b'{"type":"function_call","id":"fc_%d","call_id":"c_%d","name":"f","arguments":%b}'
        begun = (b"item", call % (number, number, b'""'))
        events = [closed + self.event(b"response.output_item.added", at, begun)]
        pieces = (b'"{\\"a\\":"', b'"1"', b'"}"')[: self.draw.between(0, 3)]
        whole = b'"%b"' % b"".join([each[1:-1] for each in pieces])
        kind = b"response.function_call_arguments"
        own = (b"item_id", b'"fc_%d"' % number)
        events += [self.event(kind + b".delta", own, at, (b"delta", each)) for each in pieces]
        if self._repeats:
            events.append(self.event(kind + b".done", own, at, (b"arguments", whole)))
            done = (b"item", call % (number, number, whole))
            events.append(self.event(b"response.output_item.done", at, done))
        self._done.append(call % (number, number, whole))
        return events

    # What is seldom

    def own_odd(self) -> Events:
        return self.draw.pick(_ODD)(self)

    def _somewhere(self) -> tuple[bytes, bytes]:
        return b"output_index", b"%d" % self.draw.pick((self._item, self._item + 1, 0))

    def silence(self) -> Events:
        return [self.event(self.draw.pick((b"keepalive", b"ping", b"response.in_progress")))]

    def citation(self) -> Events:
        cited = (b"annotation", b'{"type":"url_citation","url":"u","title":"t"}')
        return [self.event(_TEXT + b".annotation.added", *self._places(), cited)]

    def refusal(self) -> Events:
        delta = (b"delta", self.string())
        return [self.event(b"response.refusal.delta", *self._places(), delta)]

    def bare_delta(self) -> Events:
        """A delta of another item, or of another part."""
        places = [self._somewhere()]
        if self.draw.chance(0.5):
            places.append((b"content_index", self.draw.pick((b"1", b"0", b"null", b'"0"'))))
        return [self.event(_DELTA, *places, (b"delta", self.string()))]

    def odd_item(self) -> Events:
        item = (b"item", self.draw.pick(_ITEMS))
        kind = b"response.output_item." + self.draw.pick((b"added", b"done"))
        return [self.event(kind, self._somewhere(), item)]

    def odd_part(self) -> Events:
        part = (b"part", self.draw.pick(_PARTS))
        kind = b"response.content_part." + self.draw.pick((b"added", b"done"))
        return [self.event(kind, *self._places(), part)]

    def failure(self) -> Events:
        error = b',"error":{"code":"server_error","message":"it broke"}'
        return [self.event(b"response.failed", self._response(b"failed", rest=error))]

    def early_end(self) -> Events:
        end = self.closing("stop")
        return end[: self.draw.between(1, len(end))] if end else []

    def odd_number(self) -> Events:
        """A number that is none, or a second one."""
        members = [(b"sequence_number", self.draw.pick(_ODD_NUMBERS)), *self._places()]
        if self.draw.chance(0.5):
            return [self.event(_DELTA, *members, (b"delta", self.string()))]
        members += [(b"type", b'"%b"' % _DELTA), (b"delta", self.string())]
        return [self.framed(_DELTA, self.joined(members))]

    def unknown(self) -> Events:
        delta = (b"delta", self.draw.pick((self.string(), b"7", b'{"a":1}')))
        return [self.event(b"response.hologram.delta", self._somewhere(), delta)]

    def no_delta(self) -> Events:
        delta = (b"delta", self.draw.pick((b'""', b"null", b"7", b"{}", b'["a"]')))
        return [self.event(_DELTA, *self._places(), delta)]

    def another_text(self) -> Events:
        return [self.text(self.string(), reasons=self.draw.chance(0.4))]

    def closing(self, reason: str) -> Events:
        draw = self.draw
        closed = self._close() if draw.chance(0.97) else b""
        usage = b',"usage":{"input_tokens":7,"output_tokens":%d,"total_tokens":%d}'
        rest = usage % (self.written, 7 + self.written) if draw.chance(0.9) else b""
        status = b"completed"
        details = {"length": b"max_output_tokens", "content_filter": b"content_filter"}.get(reason)
        if details is not None:
            status = b"incomplete"
            rest += b',"incomplete_details":{"reason":"%b"}' % details
        events = [closed] if closed else []
        if draw.chance(0.96):
            events.append(self.event(b"response." + status, self._response(status, rest=rest)))
        if draw.chance(0.1):
            events.append(b"data: [DONE]" + 2 * self.line_end)
        return events


_ODD: Final[tuple[Callable[[ResponsesServer], Events], ...]] = (
    *(ResponsesServer.silence, ResponsesServer.citation, ResponsesServer.refusal),
    *(ResponsesServer.bare_delta, ResponsesServer.bare_delta, ResponsesServer.odd_item),
    *(ResponsesServer.odd_part, ResponsesServer.failure, ResponsesServer.early_end),
    *(ResponsesServer.odd_number, ResponsesServer.odd_number, ResponsesServer.unknown),
    *(ResponsesServer.no_delta, ResponsesServer.opening, ResponsesServer.another_text),
)
