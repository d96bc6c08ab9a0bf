"""The built-in scripts: valid streams, unusual ones, and every fault of real upstreams."""

from typing import Any, Final

from legato.mock.format_scripts import FORMAT_SCRIPTS
from legato.mock.steps import Script, Step

_TEXT: Final = ("Once", " upon", " a", " time", ",", " there", " was", " a", " stream", ".")


def _usage(completion: int, reasoning: int = 0) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": 7,
        "completion_tokens": completion,
        "total_tokens": 7 + completion,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    if reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def _say(deltas: tuple[str, ...] = _TEXT) -> list[Step]:
    return [Step(say=delta) for delta in deltas]


def _end(completion: int = len(_TEXT), reason: str = "stop") -> list[Step]:
    return [Step(finish=reason), Step(usage=_usage(completion)), Step(done=True)]


def _error(message: str, code: str) -> Step:
    return Step(error={"message": message, "type": "server_error", "code": code})


def _error_body(message: str, code: str) -> str:
    return f'{{"error": {{"message": "{message}", "type": "error", "code": "{code}"}}}}'


def _part(kind: str, value: Any) -> Step:
    """A delta whose content is a list with one part."""
    return Step(delta={"content": [{"type": kind, kind: value}]})


_VALID: Final = [*_say(), *_end()]
_TOOL: Final = {"id": "call_1", "type": "function"}

SCRIPTS: Final[dict[str, Script]] = {
    "happy": Script("a valid answer", steps=_VALID),
    "slow": Script(
        "a valid answer at ten chunks per second",
        steps=[step for word in _say() for step in (word, Step(wait=0.1))] + _end(),
    ),
    "thinking": Script(
        "reasoning, then an answer",
        steps=[
            *(Step(think=word) for word in ("Let", " me", " think", ".")),
            *_say((" Forty", "-two", ".")),
            Step(finish="stop"),
            Step(usage=_usage(7, 4)),
            Step(done=True),
        ],
    ),
    "think-tags": Script(
        "reasoning in <think> tags that are split across chunks",
        steps=[*_say(("<th", "ink>Let me", " see", "</thi", "nk>", "Forty", "-two")), *_end(7)],
    ),
    "tools": Script(
        "two tool calls with arguments in several chunks",
        steps=[
            Step(tool={"index": 0, **_TOOL, "function": {"name": "sum", "arguments": ""}}),
            Step(tool={"index": 0, "function": {"arguments": '{"a": 1,'}}),
            Step(tool={"index": 0, "function": {"arguments": ' "b": 2}'}}),
            Step(
                tool={
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "now", "arguments": "{}"},
                }
            ),
            *_end(4, "tool_calls"),
        ],
    ),
    "tool-chaos": Script(
        "tool calls with reused and missing indices, repeated ids, arguments in one chunk",
        steps=[
            Step(tool={"index": 0, **_TOOL, "function": {"name": "sum", "arguments": "{"}}),
            Step(tool={"index": 0, **_TOOL, "function": {"name": "sum", "arguments": "}"}}),
            Step(tool={"index": 0, "id": "call_2", "function": {"name": "now", "arguments": {}}}),
            Step(tool={"function": {"name": "last", "arguments": '{"x": 1}'}}),
            *_end(4, "tool_calls"),
        ],
    ),
    "choices": Script(
        "three choices, interleaved",
        steps=[
            *(
                Step(say=f"{word}{choice}", choice=choice)
                for word in ("one", " two", " three")
                for choice in (0, 1, 2)
            ),
            *(Step(finish="stop", choice=choice) for choice in (1, 0, 2)),
            Step(usage=_usage(9)),
            Step(done=True),
        ],
    ),
    "cut": Script(
        "the connection closes in the middle of the answer", steps=[*_say(), Step(cut=True)]
    ),
    "reset": Script("a TCP reset in the middle of the answer", steps=[*_say(), Step(reset=True)]),
    "cut-early": Script("the connection closes after the response head", steps=[Step(cut=True)]),
    "cut-late": Script(
        "the connection closes after the finish, before [DONE]",
        steps=[*_say(), Step(finish="stop"), Step(cut=True)],
    ),
    "no-head": Script("the connection closes without a response", no_head=True),
    "no-finish": Script("[DONE] without a finish", steps=[*_say(), Step(done=True)]),
    "no-done": Script("no [DONE] after the finish", steps=[*_say(), Step(finish="stop")]),
    "stall": Script("silence in the middle of the answer", steps=[*_say(), Step(stall=True)]),
    "stall-early": Script("silence after the response head", steps=[Step(stall=True)]),
    "late-headers": Script("response head after 0.3 s", head_after=0.3, steps=_VALID),
    "late-token": Script(
        "first chunk 0.3 s after the response head", steps=[Step(wait=0.3), *_VALID]
    ),
    "comments-only": Script(
        "SSE comments only",
        steps=[Step(comment="working", repeat=200, every=0.05), Step(stall=True)],
    ),
    "bad-json": Script("a chunk that is not JSON", steps=[*_say(), Step(raw="data: {oops\n\n")]),
    "bad-json-first": Script("a first chunk that is not JSON", steps=[Step(raw="data: {oops\n\n")]),
    "error-in-band": Script(
        "an error between chunks", steps=[*_say(), _error("The GPU fell off.", "gpu_lost")]
    ),
    "error-first": Script(
        "an error as the first event", steps=[_error("The GPU fell off.", "gpu_lost")]
    ),
    "error-then-done": Script(
        "an error followed by [DONE]",
        steps=[*_say(), _error("The GPU fell off.", "gpu_lost"), *_end()],
    ),
    "error-body": Script(
        "200 with a JSON error as the body",
        body=_error_body("The model is overloaded.", "overloaded"),
    ),
    "html": Script(
        "an HTML page instead of a stream",
        headers={"content-type": "text/html"},
        body="<html><body>Welcome to the login page</body></html>",
    ),
    "empty": Script("200 with an empty body", steps=[]),
    "400": Script(
        "400 for a parameter", status=400, body=_error_body("`top_k` is not known.", "bad_param")
    ),
    "401": Script("401 for the API key", status=401, body=_error_body("Bad key.", "bad_key")),
    "429": Script(
        "429 with Retry-After",
        status=429,
        headers={"retry-after": "7"},
        body=_error_body("Slow down.", "rate_limited"),
    ),
    "429-then-ok": Script(
        "429 once, then a valid answer",
        status=429,
        headers={"retry-after": "1"},
        body=_error_body("Slow down.", "rate_limited"),
        then=Script(steps=_VALID),
    ),
    "500": Script("500", status=500, body=_error_body("Oops.", "internal")),
    "503": Script("503 with an HTML page", status=503, body="<html>busy</html>"),
    "too-long": Script(
        "400: the prompt is longer than the context",
        status=400,
        body=_error_body("the request exceeds the available context size", "400"),
    ),
    "utf8-split": Script(
        "writes of two bytes that split characters",
        steps=[*_say(("Žluť", "oučký ", "kůň 🐎", "👩‍👩‍👧 úpěl")), *_end(4)],
        pieces=2,
    ),
    "crlf": Script("CRLF line endings", steps=_VALID, line_end="\r\n"),
    "cr": Script("CR line endings", steps=_VALID, line_end="\r"),
    "bom": Script("a byte order mark at the start", steps=_VALID, bom=True),
    "separators": Script(
        "Unicode line separators in the text",
        steps=[*_say(("a\u2028b", "c\u2029d", "e\x85f", 'g\\u2028"\n')), *_end(4)],
    ),
    "multi-line": Script(
        "an event with several data lines",
        steps=[
            Step(raw='data: {"choices": [{"index": 0,\ndata:  "delta": {"content": "Once"},\n'),
            Step(raw='data: "finish_reason": null}]}\n\n'),
            *_say(_TEXT[1:]),
            *_end(),
        ],
        streams="always",
        dialects=["openai"],
    ),
    "huge-line": Script(
        "a chunk of one megabyte", steps=[Step(say="x" * 1_000_000), Step(say="."), *_end(2)]
    ),
    "whole": Script(
        "an answer that is not streamed",
        steps=_VALID,
        streams="never",
    ),
    "empty-event": Script(
        "events with empty data",
        steps=[Step(raw="data:\n\n"), *_say(), Step(raw="data:\n\n"), *_end()],
        streams="always",
    ),
    "gzip": Script("a gzip-compressed stream", steps=_VALID, gzip=True),
    "odd-type": Script(
        "a stream with content type text/plain",
        headers={"content-type": "text/plain"},
        steps=_VALID,
    ),
    "json-type": Script(
        "a stream with content type application/json",
        headers={"content-type": "application/json"},
        steps=_VALID,
    ),
    "close-framed": Script("a body that ends with the connection", steps=_VALID, framing="close"),
    "role-every-chunk": Script("a role in every chunk", steps=_VALID, role="every"),
    "role-never": Script("a role in no chunk", steps=_VALID, role="never"),
    "jumpy": Script("another id and created in every chunk", steps=_VALID, changing_ids=True),
    "null-content": Script(
        "null for content and other fields",
        steps=[
            Step(delta={"role": "assistant", "content": None, "tool_calls": None}),
            *(Step(delta={"content": word, "function_call": None}) for word in _TEXT),
            *_end(),
        ],
    ),
    "finish-merged": Script(
        "the finish in the last chunk with content",
        steps=[*_say(_TEXT[:-1]), Step(say=_TEXT[-1], finish="stop"), *_end()[1:]],
    ),
    "finish-only": Script("a finish without content", steps=_end(0)),
    "usage-early": Script(
        "usage before the finish, and again after it",
        steps=[Step(usage=_usage(1)), *_say(), *_end()],
    ),
    "usage-with-choices": Script(
        "usage in the chunk with the finish",
        steps=[
            *_say(),
            Step(
                chunk={
                    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                    "usage": _usage(len(_TEXT)),
                }
            ),
            Step(done=True),
        ],
    ),
    "usage-in-choice": Script(
        "usage inside the choice with the finish",
        steps=[
            *_say(),
            Step(
                chunk={
                    "choices": [
                        {
                            "index": 0,
                            "delta": {},
                            "finish_reason": "stop",
                            "usage": _usage(len(_TEXT)),
                        }
                    ]
                }
            ),
            Step(done=True),
        ],
    ),
    "usage-nowhere": Script("no usage", steps=[*_say(), Step(finish="stop"), Step(done=True)]),
    "no-blank-line": Script(
        "no blank line after [DONE]",
        steps=[*_say(), *_end()[:2], Step(raw="data: [DONE]")],
        streams="always",
        dialects=["openai"],
    ),
    "reasoning-field": Script(
        "reasoning in the field `reasoning`",
        steps=[
            Step(delta={"reasoning": "Let me"}),
            Step(delta={"reasoning": " think."}),
            *_say(("Forty", "-two")),
            *_end(4),
        ],
    ),
    "content-parts": Script(
        "text and reasoning as lists of parts",
        steps=[
            *(
                _part("thinking", [{"type": "text", "text": word}])
                for word in ("Let me", " think.")
            ),
            *(_part("text", word) for word in ("Forty", "-two")),
            *_end(4),
        ],
    ),
    "function-call": Script(
        "a function_call, the API before tools",
        steps=[
            Step(delta={"function_call": {"name": "sum", "arguments": ""}}),
            Step(delta={"function_call": {"arguments": '{"a": 1,'}}),
            Step(delta={"function_call": {"arguments": ' "b": 2}'}}),
            *_end(3, "function_call"),
        ],
    ),
    "unknown-fields": Script(
        "unknown fields",
        steps=[
            Step(
                chunk={
                    "id": "x",
                    "provider": "Somebody",
                    "choices": [
                        {
                            "index": 0,
                            "delta": {"content": word, "annotations": [{"n": 1}]},
                            "finish_reason": None,
                            "native": True,
                        }
                    ],
                }
            )
            for word in _TEXT
        ]
        + _end(),
    ),
} | FORMAT_SCRIPTS
