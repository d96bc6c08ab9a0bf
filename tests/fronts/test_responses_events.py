"""Chunks as events of the Responses API: each kind of output, and that any legal stream gives a
legal sequence whose last event is what a client gets that does not stream."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.chunk import Chunk
from legato.core.errors import bad_gateway
from legato.core.signatures import uncarried
from legato.core.sse import Decoder
from legato.dialects.openai import Reader
from tests.core.test_stream import choice as member
from tests.core.test_stream import feed, say, upstreams
from tests.support.responses_order import Told
from tests.support.responses_pipe import Pipe

Json = dict[str, Any]

QUICK = settings(deadline=None, database=None, max_examples=100)

DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 3, "cache_creation_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def call(index: int, arguments: str, name: str | None = None, **more: Any) -> Json:
    function: Json = {"arguments": arguments} | ({"name": name} if name else {})
    head: Json = {"id": f"call_{index}", "type": "function"} if name else {}
    return {"tool_calls": [{"index": index} | head | {"function": function} | more]}


def told(*deltas: Json, finish: str | None = "stop", **body: Any) -> Told:
    """What a client is told of an answer in these deltas."""
    pipe = Pipe(**body).subscribe()
    events = [say(member(each)) for each in deltas]
    if finish is not None:
        events.append(say(member({}, finish)))
    feed(pipe.stream, [*events, say(usage=USAGE), DONE])
    return pipe.checked()


def items(found: Told) -> list[Json]:
    """The output without ids and texts of no interest."""
    return [{k: v for k, v in each.items() if k not in ("id", "status")} for each in found.done]


def text(*parts: str) -> Json:
    content = [
        {"type": "output_text", "text": each, "annotations": [], "logprobs": []} for each in parts
    ]
    return {"type": "message", "role": "assistant", "content": content}


def summary(thought: str) -> Json:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": thought}]}


def function_call(index: int, name: str, arguments: str, **more: Any) -> Json:
    fields = {"type": "function_call", "call_id": f"call_{index}", "name": name}
    return fields | {"arguments": arguments} | more


def test_the_events_of_a_text() -> None:
    found = told({"content": "a"}, {"content": "b"})
    assert found.kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done", "completed"),
    ]
    assert items(found) == [text("ab")]
    assert found.done[0]["status"] == "completed"
    assert found.done[0]["id"].startswith("msg_")


def test_the_events_of_reasoning() -> None:
    found = told({"reasoning_content": "a"}, {"reasoning_content": "b"}, {"content": "c"})
    part = ["reasoning_summary_text.delta"] * 2
    assert found.kinds[2:9] == [
        *("output_item.added", "reasoning_summary_part.added", *part),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ]
    assert items(found) == [summary("ab"), text("c")]
    assert found.done[0]["id"].startswith("rs_")


def test_the_events_of_calls() -> None:
    found = told(call(0, "", "sum"), call(0, '{"a"'), call(0, ":1}"), call(1, "{}", "now"))
    assert items(found) == [function_call(0, "sum", '{"a":1}'), function_call(1, "now", "{}")]
    assert found.kinds[2:-1] == [
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done") * 2,
    ]
    assert found.done[0]["id"].startswith("fc_")
    assert found.response["status"] == "completed"


TOOLS = [
    {"type": "custom", "name": "patch"},
    {
        "type": "namespace",
        "name": "mail",
        "description": "",
        "tools": [{"type": "function", "name": "send", "parameters": {}, "strict": None}],
    },
]

ANSWERS: dict[str, tuple[list[Json], list[Json]]] = {
    "nothing": ([], []),
    "thought, text, two calls": (
        [
            {"reasoning_content": "hm"},
            {"content": "One moment."},
            *(call(0, "{}", "a"), call(1, "{}", "b")),
        ],
        [
            summary("hm"),
            text("One moment."),
            function_call(0, "a", "{}"),
            function_call(1, "b", "{}"),
        ],
    ),
    "thoughts between texts": (
        [{"reasoning_content": "1"}, {"content": "a"}, {"reasoning_content": "2"}],
        [summary("1"), text("a"), summary("2")],
    ),
    "text behind a call": (
        [call(0, "{}", "a"), {"content": "b"}],
        [function_call(0, "a", "{}"), text("b")],
    ),
    "all in one chunk": (
        [{"reasoning_content": "hm", "content": "a"} | call(0, "{}", "f")],
        [summary("hm"), text("a"), function_call(0, "f", "{}")],
    ),
    "calls in turns": (
        [call(0, "", "a"), call(1, "", "b"), call(0, "[1"), call(1, "[2"), call(0, "]")],
        [function_call(0, "a", "[1]"), function_call(1, "b", "[2")],
    ),
    "a refusal": (
        [{"refusal": "N"}, {"refusal": "o."}],
        [text() | {"content": [{"type": "refusal", "refusal": "No."}]}],
    ),
    "a text, then a refusal": (
        [{"content": "a"}, {"refusal": "No."}, {"content": "b"}],
        [
            text()
            | {
                "content": [
                    *text("a")["content"],
                    {"type": "refusal", "refusal": "No."},
                    *text("b")["content"],
                ]
            }
        ],
    ),
    "a custom call": (
        [call(0, '{"inp', "patch"), call(0, 'ut":"a\\'), call(0, 'nb"}')],
        [
            {
                "type": "custom_tool_call",
                "call_id": "call_0",
                "name": "patch",
                "input": "a\nb",
            }
        ],
    ),
    "a call in a namespace": (
        [call(0, "{}", "mail__send")],
        [function_call(0, "send", "{}", namespace="mail")],
    ),
    "a call of what is not there": (
        [call(0, "{}", "guess")],
        [function_call(0, "guess", "{}")],
    ),
    "a citation": (
        [
            {"content": "a"},
            {
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {
                            "url": "https://x",
                            "title": "X",
                            "start_index": 0,
                            "end_index": 1,
                        },
                    },
                    {"type": "nobody_knows"},
                ]
            },
        ],
        [
            text()
            | {
                "content": [
                    {
                        "type": "output_text",
                        "text": "a",
                        "annotations": [
                            {
                                "type": "url_citation",
                                "url": "https://x",
                                "title": "X",
                                "start_index": 0,
                                "end_index": 1,
                            }
                        ],
                        "logprobs": [],
                    }
                ]
            }
        ],
    ),
    "an image": (
        [
            {"content": "Here."},
            {"images": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"images": [{"image_url": {"url": "https://elsewhere"}}]},
        ],
        [text("Here."), {"type": "image_generation_call", "result": "AAAA"}],
    ),
    "what nobody knows": ([{"content": "a", "x": 1}, {"y": 2}], [text("a")]),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer(case: str) -> None:
    deltas, wanted = ANSWERS[case]
    assert items(told(*deltas, tools=TOOLS)) == wanted


def test_a_call_in_the_older_form() -> None:
    found = told(
        {"function_call": {"name": "sum", "arguments": '{"a"'}},
        {"function_call": {"arguments": ":1}"}},
        finish="function_call",
    )
    (item,) = found.done
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "sum", '{"a":1}')
    assert item["call_id"].startswith("call_")


def detail(identity: str | None, data: str = "gAAAA", kind: str = "openai-responses-v1") -> Json:
    fields = {"type": "reasoning.encrypted", "id": identity, "data": data, "format": kind}
    return {"reasoning_details": [fields]}


ENCRYPTED: dict[str, tuple[list[Json], list[tuple[str | None, str | None]]]] = {
    "alone": ([detail("rs_9")], [("rs_9", "gAAAA")]),
    "without an id": ([{"reasoning_content": "hm"}, detail(None)], [(None, "gAAAA")]),
    "behind what is shown of it": (
        [{"reasoning_content": "hm"}, detail("rs_9")],
        [(None, None), ("rs_9", "gAAAA")],
    ),
    "two": ([detail("rs_8", "a"), detail("rs_9", "b")], [("rs_8", "a"), ("rs_9", "b")]),
    "another vendor's": (
        [{"reasoning_content": "hm"}, detail("x", kind="google-gemini-v1")],
        [(None, None)],
    ),
    "Anthropic's": (
        [
            {"reasoning_content": "hm"},
            {"reasoning_details": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        ],
        [(None, None)],
    ),
}


@pytest.mark.parametrize("case", ENCRYPTED)
def test_encrypted_reasoning_keeps_its_id(case: str) -> None:
    """The upstream that encrypted it takes it back with that id alone."""
    deltas, wanted = ENCRYPTED[case]
    found = told(*deltas, {"content": "a"})
    thoughts = [each for each in found.done if each["type"] == "reasoning"]
    assert [each.get("encrypted_content") for each in thoughts] == [data for _, data in wanted]
    for item, (identity, _) in zip(thoughts, wanted, strict=True):
        assert item["id"] == identity or identity is None


THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
REDACTED = {"type": "redacted_thinking", "data": "r"}


def test_signed_reasoning_is_carried_for_who_sends_it_back() -> None:
    found = told(
        *({"reasoning_content": "hm"}, {"reasoning_details": [THINKING]}),
        *({"reasoning_details": [REDACTED]}, {"reasoning_content": "well"}),
        {"content": "a"},
        include=["reasoning.encrypted_content"],
    )
    signed, redacted, unsigned, _ = found.done
    assert uncarried(signed["encrypted_content"]) == [THINKING]
    assert (uncarried(redacted["encrypted_content"]), redacted["summary"]) == ([REDACTED], [])
    assert "encrypted_content" not in unsigned


FINISHES = {
    "stop": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
}


@pytest.mark.parametrize("finish", FINISHES)
def test_a_finish(finish: str) -> None:
    status, reason = FINISHES[finish]
    found = told(call(0, "{}", "f"), {"content": "a"}, finish=finish)
    details = found.response["incomplete_details"]
    assert (found.response["status"], (details or {}).get("reason")) == (status, reason)
    assert [each["status"] for each in found.done] == ["completed", status], "what came last"


def test_usage() -> None:
    assert told({"content": "a"}).response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 14,
    }


def test_logprobs() -> None:
    pipe = Pipe(top_logprobs=1).subscribe()
    token = {"token": "a", "logprob": -0.5, "bytes": None}
    logprobs = {"content": [token | {"top_logprobs": [token]}], "refusal": None}
    likely = say(member({"content": "a"}, logprobs=logprobs))
    feed(pipe.stream, [likely, say(member({"content": "b"})), say(member({}, "stop")), DONE])
    found = pipe.checked()
    shown = {"token": "a", "logprob": -0.5, "bytes": [97]}
    wanted = [shown | {"top_logprobs": [shown]}]
    deltas = [each["logprobs"] for each in found.events if each["type"].endswith("text.delta")]
    assert deltas == [wanted, []]
    assert found.done[0]["content"][0]["logprobs"] == wanted


# Failure


@pytest.mark.parametrize(
    "delta", [{"content": "a"}, {"reasoning_content": "a"}, call(0, "{}", "f"), {"refusal": "N"}]
)
def test_what_is_open_stays_open_behind_a_failure(delta: Json) -> None:
    pipe = Pipe().subscribe()
    pipe.stream.push(_chunk(delta))
    pipe.stream.fail(bad_gateway("It broke.", code="upstream_cut"))
    found = pipe.checked()
    assert found.has_open
    assert found.done == []
    assert found.error == {"code": "server_error", "message": "It broke. Try again later."}
    assert not any(each.endswith("done") for each in found.kinds)


def _chunk(delta: Json) -> Chunk:
    return Chunk([], fields=[member(delta)])


def test_what_is_done_is_in_the_failed_response() -> None:
    pipe = Pipe().subscribe()
    pipe.stream.push(_chunk({"reasoning_content": "hm"}))
    pipe.stream.push(_chunk({"content": "a"}))
    pipe.stream.fail(bad_gateway("It broke."))
    assert [each["type"] for each in pipe.checked().response["output"]] == ["reasoning"]


# Any stream

Upstream = tuple[bytes, dict[int, Json], Json]


@QUICK
@given(upstreams(), st.booleans())
def test_any_legal_stream_is_a_legal_sequence(upstream: Upstream, pads: bool) -> None:
    body, result, usage = upstream
    pipe = Pipe(pads=pads).subscribe()
    feed(pipe.stream, [body])
    found, first = pipe.checked(), result[0]  # its client has asked for one choice
    assert found.text == first["content"]
    assert found.reasoning == first["reasoning"]
    calls = [each for each in found.done if each["type"] == "function_call"]
    assert [(each["call_id"], each["name"], each["arguments"]) for each in calls] == [
        (each["id"], each["name"], each["arguments"]) for each in first["tools"]
    ]
    status = "incomplete" if first["finish"] == "length" else "completed"
    assert found.response["status"] == status
    assert found.response["usage"]["output_tokens"] == usage["completion_tokens"]


@QUICK
@given(upstreams(), st.integers(0, 40))
def test_a_cut_anywhere_is_whole_or_a_failure(upstream: Upstream, percent: int) -> None:
    body, result, _ = upstream
    pipe = Pipe().subscribe()
    feed(pipe.stream, [body[: len(body) * percent // 40]])
    found, first = pipe.checked(), result[0]
    assert first["content"].startswith(found.text)
    if found.response["status"] != "failed":
        assert found.text == first["content"]


@QUICK
@given(upstreams(), st.data())
def test_a_slow_client_loses_nothing(upstream: Upstream, chance: st.DataObject) -> None:
    body, result, _ = upstream
    pipe, reader = Pipe(), Reader()
    pipe.stream.subscribe(pipe.writer)
    decoder = Decoder()
    for name, data in [*decoder.feed(body), *decoder.close()]:
        if chance.draw(st.booleans()):
            pipe.writer.pause()
        else:
            pipe.writer.resume()
        read = reader.read(name, data)
        if read is None:
            break
        pipe.stream.push(read)
        pipe.stream.flush()
    pipe.stream.end()
    found, first = pipe.told, result[0]
    assert (found.text, found.reasoning) == (first["content"], first["reasoning"])
    calls = [each for each in found.done if each["type"] == "function_call"]
    assert [each["arguments"] for each in calls] == [each["arguments"] for each in first["tools"]]


def test_an_event_is_two_lines_to_everyone() -> None:
    found = told({"content": "a\u2028b"}, {"content": "\x85\n"}, instructions="\u2029")
    assert found.text == "a\u2028b\x85\n"
    assert found.response["instructions"] == "\u2029"
