"""Events that servers seldom write, or never should, in OpenAI's format."""

import json
from collections.abc import Callable
from typing import Final

from tests.support.oracle.openai_server import Events, OpenAiServer
from tests.support.oracle.texts import Draw, odd_string, word

BOM: Final = b"\xef\xbb\xbf"

_TIMES: Final = (
    b"0170",
    b"00",
    b"1.7e9",
    b"1750000000.5",
    b"-1",
    b"1750000000 ",
    b" 1750000000",
    b"+1750000000",
    b"1750000000.",
    b"1_750_000_000",
    b'"1750000000"',
    b"null",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"true",
    b"",
    b"1" * 400,
    b"0x1",
)

_ANY: Final = (
    *(b"null", b"0", b"1", b"-1", b"1.0", b"true", b"false", b'""', b'"x"', b"[]", b"{}", b"[1]"),
    *(b'{"a":1}', b'{"content":"x"}', b"1e400", b"01", b"NaN", b'"\\ud83d"', b'"the"', b'"\xff"'),
    *(b"9" * 30, b'"' + b"y" * 50 + b'"', b'"\xe2\x80\xa8"', b'"a\nb"', b"[[[[]]]]", b"nul", b""),
)

_NAMES: Final = (
    *("content", "role", "reasoning_content", "reasoning", "refusal", "tool_calls", "annotations"),
    *("function_call", "audio", "images", "index", "delta", "finish_reason", "logprobs", "usage"),
    *("id", "object", "created", "model", "choices", "error", "system_fingerprint", "service_tier"),
    *("obfuscation", "provider", "timings", "x_groq", "citations", "stop_reason", "message", "x"),
    *("prompt_progress", "token_ids", "content_filter_results", "co\\u006etent", "é", "", "a b"),
)

_LOGPROBS: Final = (
    b"null",
    b'{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}]}',
    b'{"content":[{"token":"a","logprob":NaN,"bytes":null,"top_logprobs":[]}],"refusal":null}',
    b'{"content":null}',
    b'{"content":[]}',
    b"{}",
)

#: Events that are no chunks.
_JUNK: Final = (
    *(b"null", b" null ", b"[]", b"{}", b'"x"', b"1", b"true", b"{", b"}", b"hello", b"<html>"),
    *(b'{"choices":null}', b'{"choices":[]}', b'{"choices":{}}', b'{"choices":"x"}', b"\xff\xfe"),
    *(
        b'{"choices":[null]}',
        b'{"choices":[{}]}',
        b'{"choices":[[]]}',
        b'{"choices":[{"delta":7}]}',
    ),
    *(b'{"usage":[]}', b'{"usage":{}}', b'{"id":null}', b'{"x":1,"y":"z"}', b"[DONE", b"DONE"),
)

_ERRORS: Final = (
    b'{"error":{"message":"it broke","type":"server_error","code":"gpu_lost"}}',
    b'{"error":{"message":"slow down","code":429}}',
    b'{"error":"it broke"}',
    b'{"error":null}',
    b'{"error":{}}',
    b'{"error":""}',
    b'{"object":"error","message":"it broke","code":400}',
    b'{"error":{"message":"too long","code":"context_length_exceeded","type":"invalid"}}',
)


def string(server: OpenAiServer) -> bytes:
    """A JSON string for a text: usual or not."""
    draw = server.draw
    return odd_string(draw, server.encode) if draw.chance(0.3) else server.encode(word(draw))


def usual(server: OpenAiServer) -> bytes:
    return server.text(server.encode(word(server.draw)))


# Each of these makes the events of one oddity.


def text(server: OpenAiServer) -> Events:
    return [server.text(odd_string(server.draw, server.encode), reasons=server.draw.chance(0.2))]


def parted_pair(server: OpenAiServer) -> Events:
    """A surrogate pair whose halves come in two events, or whose second half does not."""
    halves = [rb'"\ud83d"', rb'"\ude00"'] if server.draw.chance(0.5) else [rb'"a\ud83d"', b'""']
    if server.draw.chance(0.3):
        halves.insert(1, server.encode(word(server.draw)))
    return [server.text(each) for each in halves]


def reasoning(server: OpenAiServer) -> Events:
    return [server.text(string(server), reasons=True)]


def byte_order_mark(server: OpenAiServer) -> Events:
    event = usual(server)
    return [server.draw.pick((BOM + event, BOM + event, event + BOM, BOM, BOM + BOM + event))]


def _time(server: OpenAiServer) -> bytes:
    """A value of `created` that is no whole number of seconds, or one that is not JSON."""
    if server.draw.chance(0.4):
        return b"0" + server.top.get(b"created", b"1750000000")
    return server.draw.pick(_TIMES)


def created(server: OpenAiServer) -> Events:
    return [server.event(server.content % string(server), created=_time(server))]


def change_time(server: OpenAiServer) -> None:
    """All events from here on have an odd time."""
    server.top[b"created"] = _time(server)


def without_choice(server: OpenAiServer) -> Events:
    """Members without a choice, in any of the ways in which a choice can be missing."""
    draw = server.draw
    members = b'"%b":%b' % (draw.pick(_NAMES).encode(), draw.pick(_ANY))
    return [
        server.line(
            draw.pick(
                (
                    b"{%b}" % members,
                    b'{"choices":[],%b}' % members,
                    b'{"x":[{"index":0,"delta":{},"finish_reason":null}]}',
                    b'{"id":"1","citations":["a"]}',
                    server.data(b"[]", x=b"1"),
                    server.data(b"[]"),
                    server.data(b"[]", usage=server.usage()),
                    server.data(b"null"),
                )
            )
        )
    ]


def unknown_at_top(server: OpenAiServer) -> Events:
    draw = server.draw
    name, value = draw.pick(_NAMES), draw.pick(_ANY)
    return [server.event(server.content % string(server), **{name: value})]


def unknown_on_choice(server: OpenAiServer) -> Events:
    draw = server.draw
    choice = server.choice_json(
        server.content % string(server), **{draw.pick(_NAMES): draw.pick(_ANY)}
    )
    return [server.line(server.data(b"[%b]" % choice))]


def unknown_on_delta(server: OpenAiServer) -> Events:
    draw = server.draw
    member = b'"%b":%b' % (draw.pick(_NAMES).encode(), draw.pick(_ANY))
    delta = server.content % string(server)
    front = b"{%b,%b" % (member, delta[1:])
    return [server.event(draw.pick((front, b"%b,%b}" % (delta[:-1], member))))]


def changed_for_good(server: OpenAiServer) -> Events:
    """A member has another value from here on, or is new, or gone."""
    draw = server.draw
    name = draw.pick(_NAMES).encode()
    if draw.chance(0.3) and len(server.top) > 1:
        gone = draw.pick(list(server.top))
        if gone != b"choices":
            del server.top[gone]
    elif draw.chance(0.5) and name != b"choices":
        server.top[name] = draw.pick((b"1", b"null", b'"x"', b'"the"', b'{"a":1}'))
    elif name not in server.choice:
        server.choice[name] = draw.pick((b"1", b"null", b'"x"', b"{}"))
    return [usual(server)]


def delta(server: OpenAiServer) -> Events:
    draw = server.draw
    value = draw.pick(
        (
            b"{}",
            b"null",
            b"",
            b'{"content":null}',
            b'{"content":""}',
            b'{"role":"assistant"}',
            b'{"role":"assistant","content":%b}' % string(server),
            b'{"role":null,"content":%b}' % string(server),
            b'{"content":%b,"content":%b}' % (string(server), string(server)),
            b'{"content":%b,"reasoning_content":%b}' % (string(server), string(server)),
            b'{"reasoning_content":%b,"content":""}' % string(server),
            b'{"reasoning":%b,"reasoning_content":%b}' % (string(server), string(server)),
            b'{"refusal":%b}' % string(server),
            b'{"content":%b,"refusal":null}' % string(server),
            b'{"content":%b,"tool_calls":null}' % string(server),
            b'{"content":%b,"tool_calls":[]}' % string(server),
            b'{"content":%b,"function_call":null}' % string(server),
            b'{"content" : %b }' % string(server),
            b'{"co\\u006etent":%b}' % string(server),
            b'{"x":%b,"content":%b}' % (string(server), string(server)),
            b'{"content":%b,"annotations":[{"type":"url_citation"}]}' % string(server),
            b'{"content":%b,"extra":{"content":%b}}' % (string(server), string(server)),
        )
    )
    return [server.event(value)]


def logprobs(server: OpenAiServer) -> Events:
    draw = server.draw
    choice = server.choice_json(server.content % string(server), logprobs=draw.pick(_LOGPROBS))
    return [server.line(server.data(b"[%b]" % choice))]


def other_choice(server: OpenAiServer) -> Events:
    draw = server.draw
    before, server.index = (
        server.index,
        draw.pick((b"1", b"2", b"null", b"-1", b'"0"', b"1.0", b"9")),
    )
    event = server.event(server.content % string(server))
    server.index = before
    return [event]


def choices_at_once(server: OpenAiServer) -> Events:
    draw = server.draw
    first = server.choice_json(server.content % string(server))
    server.index = draw.pick((b"0", b"1"))
    second = server.choice_json(server.content % string(server))
    server.index = b"0"
    return [server.line(server.data(b"[%b,%b]" % (first, second)))]


def usage(server: OpenAiServer) -> Events:
    value = server.draw.pick((server.usage(), b"{}", b"null", b'{"total_tokens":3}', b"[]", b"7"))
    return [server.event(server.content % string(server), usage=value)]


def finish(server: OpenAiServer) -> Events:
    """A finish that is not the last, or is sent again, or comes with text."""
    draw = server.draw
    reason = draw.pick((b'"stop"', b'"length"', b'"tool_calls"', b'""', b"0", b'"odd"', b'"error"'))
    value = draw.pick((b"{}", server.content % string(server)))
    return [server.event(value, reason), *([usual(server)] if draw.chance(0.5) else [])]


def error(server: OpenAiServer) -> Events:
    line = server.line(server.draw.pick(_ERRORS))
    return [b"event: error" + server.line_end + line if server.draw.chance(0.4) else line]


def tool_call(server: OpenAiServer) -> Events:
    return server.tool_calls(server.draw.between(0, 2))


def junk(server: OpenAiServer) -> Events:
    return [server.line(server.draw.pick(_JUNK))]


def done(server: OpenAiServer) -> Events:
    return [server.line(server.draw.pick((b"[DONE]", b" [DONE] ", b'"[DONE]"')))]


def lines(server: OpenAiServer) -> Events:
    """Another way to put an event into lines."""
    draw, event = server.draw, usual(server)
    end = server.line_end
    data = event.removeprefix(server.field).strip()
    return [
        draw.pick(
            (
                b": comment" + 2 * end,
                b":" + 2 * end,
                b": comment" + end + event,
                event[: -len(end)] + b": comment" + 2 * end,
                b"id: 7" + end + event,
                b"retry: 10" + end + event,
                b"event: message" + end + event,
                b"event:message" + end + event,
                b"event: other" + end + event,
                b"event: " + end + event,
                b"event: a" + end + b"event: b" + end + event,
                b"event: ping" + 2 * end,
                end + event,
                2 * end + event,
                event + 2 * end,
                event[: -len(end)],
                b"data:" + data + 2 * end,
                b"data:  " + data + 2 * end,
                b"data:\t" + data + 2 * end,
                b"data: " + data + b" " + 2 * end,
                b"data: " + data + b"\n\n",
                b"data: " + data + b"\r\n\r\n",
                b"data: " + data + b"\r\r",
                b"data: " + data + b"\n\r\n",
                b"data: " + data + end + b"data: " + 2 * end,
                b"data" + 2 * end,
                b"data: " + 2 * end,
                b"data:" + 2 * end,
                b" data: " + data + 2 * end,
                b"DATA: " + data + 2 * end,
                b"data : " + data + 2 * end,
                data + 2 * end,
                b"data: " + _indented(data).replace(b"\n", end + b"data: ") + 2 * end,
                b"data: {" + end + b"data: " + data[1:] + 2 * end,
            )
        )
    ]


def _indented(data: bytes) -> bytes:
    try:
        return json.dumps(json.loads(data), indent=1).encode()
    except ValueError:
        return data


def same_again(server: OpenAiServer) -> Events:
    return [usual(server)] * server.draw.between(2, 5)


def stray_bytes(server: OpenAiServer) -> Events:
    """An event with a byte changed, lost or put in."""
    draw, event = server.draw, bytearray(usual(server))
    at = draw.between(0, len(event) - 1)
    match draw.between(0, 2):
        case 0:
            event[at] = draw.pick(b'\x00\n\r "{}[],:\\\x7f\xc3\xff0aZ')
        case 1:
            del event[at]
        case _:
            event.insert(at, draw.pick(b'\x00\n\r "{}[],:\\\xef\xff0'))
    return [bytes(event)]


#: Those after which most answers go on.
_MILD: Final[tuple[Callable[[OpenAiServer], Events], ...]] = (
    *(text, text, text, reasoning, unknown_at_top, unknown_on_choice, unknown_on_delta, lines),
    *(changed_for_good, delta, logprobs, other_choice, choices_at_once, usage, without_choice),
    *(same_again, tool_call, lines, delta, parted_pair),
)
#: Those that many answers end with.
_WILD: Final[tuple[Callable[[OpenAiServer], Events], ...]] = (
    *(
        byte_order_mark,
        byte_order_mark,
        created,
        created,
        without_choice,
        finish,
        error,
        junk,
        done,
        lines,
        stray_bytes,
    ),
    *(unknown_at_top, unknown_on_choice, unknown_on_delta, text, delta),
)


def odd(draw: Draw, server: OpenAiServer, *, wild: bool) -> Events:
    """`wild`: what may well break the answer."""
    return draw.pick(_WILD if wild and draw.chance(0.5) else _MILD)(server)
