"""Frames of the Responses front: heartbeats, padding, slow clients, the fast path, and events of an
upstream that speaks the format itself."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from legato.core.chunk import Chunk
from legato.core.errors import UpstreamError, bad_gateway
from legato.core.front import AnswerHead
from legato.core.stream import Stream
from legato.dialects import openai, openai_responses
from legato.fastpath.pattern import steady
from legato.fastpath.splice import Splice
from legato.fronts.responses import RESPONSES
from legato.upstreams.connection import Connection
from legato.upstreams.response import Response
from tests.support import relay as wire
from tests.support.responses_order import Told, check_event, split
from tests.support.responses_pipe import HEAD, Pipe, same_ids

Json = dict[str, Any]

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def text(content: str, name: str = "content") -> Chunk:
    member = {"index": 0, "delta": {name: content}, "finish_reason": None}
    return Chunk([], fields=[member])


def finish(reason: str = "stop") -> Chunk:
    return Chunk([], fields=[{"index": 0, "delta": {}, "finish_reason": reason}])


# Frames


def test_a_frame_byte_by_byte() -> None:
    pipe = Pipe()
    pipe.writer.push(text("a"))
    pipe.writer.flush()
    *_, last = pipe.body.removesuffix(b"\n\n").split(b"\n\n")
    item = pipe.writer and split(pipe.body)[-1]["item_id"]
    assert last.decode() == (
        "event: response.output_text.delta\n"
        'data: {"type":"response.output_text.delta","sequence_number":4,'
        f'"item_id":"{item}","output_index":0,"content_index":0,"delta":"a","logprobs":[]}}'
    )


def test_frames_of_one_turn_leave_together() -> None:
    pipe = Pipe()
    pipe.writer.push(text("a"))
    pipe.writer.push(text("b"))
    assert pipe.sent == []
    pipe.writer.flush()
    pipe.writer.flush()
    assert len(pipe.sent) == 1
    assert (pipe.writer.frames, pipe.writer.size) == (6, len(pipe.body))


def test_a_heartbeat_is_a_whole_event() -> None:
    pipe = Pipe()
    pipe.writer.heartbeat(None)
    assert [each["type"] for each in split(pipe.body)] == [
        *("response.created", "response.in_progress"),
    ]
    pipe.writer.heartbeat(0.4)
    pipe.writer.push(text("a", "reasoning_content"))
    pipe.writer.push(text("b"))
    pipe.writer.heartbeat(None)
    events = split(pipe.body)
    for event in events:
        check_event(event)
    assert events[2]["type"] == events[-1]["type"] == "response.in_progress"
    assert [each["type"] for each in events[-1]["response"]["output"]] == ["reasoning"]
    pipe.writer.complete(USAGE, b"")
    assert Told(pipe.body).text == "b"


def test_clients_get_no_other_heartbeat() -> None:
    assert RESPONSES.heartbeat("comment", b"curl") == "chunk"
    assert RESPONSES.heartbeat(None, None) == "chunk"


def test_padding_evens_out_the_sizes_of_deltas() -> None:
    pipe = Pipe(pads=True)
    for size in range(1, 60):
        pipe.writer.push(text("x" * size))
    pipe.writer.push(finish())
    pipe.writer.complete(USAGE, b"")
    assert Told(pipe.body).text == "x" * (59 * 60 // 2)
    frames = [each for each in pipe.body.split(b"\n\n") if b"text.delta" in each]
    assert {(len(each) + 2) % 128 for each in frames} == {0}
    assert all("obfuscation" in json.loads(each.split(b"\ndata: ")[1]) for each in frames)


def test_the_answers_id_is_of_its_request() -> None:
    assert RESPONSES.identity("req_41f") == "resp_41f"


# Slow clients


def test_what_comes_for_a_slow_client_is_merged() -> None:
    pipe = Pipe(limit=100)
    pipe.writer.push(text("a"))
    pipe.writer.flush()
    pipe.writer.pause()
    sent = len(pipe.sent)
    for _ in range(20):
        piece = text("b")
        piece.raw = b"x" * 10
        pipe.writer.push(piece)
        pipe.writer.flush()
        pipe.writer.heartbeat(None)
    assert len(pipe.sent) == sent
    assert pipe.full > 0
    pipe.writer.resume()
    pipe.writer.push(finish())
    pipe.writer.complete(USAGE, b"")
    assert [text for _, text in Told(pipe.body).deltas] == ["a", "b" * 20]


# The fast path


def streamed(
    events: list[bytes], *, fast_path: bool, pads: bool = False, dialect: Any = openai
) -> tuple[str, str]:
    """(the body, what failed) of an answer in these events of an upstream."""
    pipe = Pipe(pads=pads)
    stream = Stream(lambda: 0.0, 0.0)
    connection = Connection(wire.Side())  # type: ignore[arg-type]
    connection.transport = wire.Side()  # type: ignore[assignment]
    failures: list[Exception] = []
    response = Response(connection, stream, failures.append, dialect, (), fast_path=fast_path)
    stream.ask(relays=dialect is openai_responses)
    connection.send(b"", response)
    connection.data_received(wire.HEAD)
    stream.subscribe(pipe.writer)
    for each in (*wire.chunks(events), b"0\r\n\r\n"):
        connection.data_received(each)
    Told(pipe.body)
    return same_ids(pipe.body), str(failures)


def escaped(events: list[bytes]) -> list[bytes]:
    return [
        b"data: " + json.dumps(json.loads(each[6:])).encode() + b"\n\n" if b"{" in each else each
        for each in events
    ]


MANY = [f"word{each} " for each in range(24)]
STREAMS: dict[str, list[bytes]] = {
    "words": wire.words(40),
    "escapes": wire.text(*('"', "\\", "\n", "a\tb", "ž", "🐎", "x") * 5),
    "escapes that nobody needs": escaped(wire.text(*("naïve", "東京", "👩‍🚀", "a") * 8)),
    "line ends of Unicode": wire.text(*MANY, "a\u2028b", *MANY, "\x85", *MANY),
    "thoughts, then words": [
        *(wire.event({"reasoning_content": each}) for each in MANY),
        *wire.text(*MANY),
    ],
    "a refusal between": [*wire.text(*MANY), wire.event({"refusal": "No."}), *wire.text(*MANY)],
    "a call between": [
        *wire.text(*MANY),
        wire.event({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f"}}]}),
        *wire.text(*MANY),
    ],
    "another choice's": [
        *wire.text(*MANY),
        wire.second({"content": "x"}),
        *wire.text(*MANY),
        wire.second({}, "stop"),
    ],
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The events that the fast path took."""
    events: list[bytes] = []
    take = Splice.take

    def watched(self: Splice, event: bytes) -> bool:
        is_taken = take(self, event)
        events.extend([event] if is_taken else [])
        return is_taken

    monkeypatch.setattr(Splice, "take", watched)
    return events


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("case", STREAMS)
def test_the_fast_path_gives_the_same_bytes(case: str, pads: bool, taken: list[bytes]) -> None:
    events = [*STREAMS[case], *wire.END]
    wanted = streamed(events, fast_path=False, pads=pads)
    assert streamed(events, fast_path=True, pads=pads) == wanted
    assert len(taken) > 10


# An upstream that speaks the format itself


class Upstream:
    """Makes events as OpenAI sends them. `events`: (name, data) each."""

    def __init__(self) -> None:
        self.events: list[tuple[bytes, bytes]] = []

    def say(self, kind: str, **fields: Any) -> "Upstream":
        event = {"type": f"response.{kind}", "sequence_number": len(self.events)} | fields
        self.events.append((event["type"].encode(), json.dumps(event).encode()))
        return self

    def lifecycle(self, kind: str, **fields: Any) -> "Upstream":
        response = {
            "id": "resp_theirs",
            "object": "response",
            "created_at": 1_700_000_000,
            "status": kind.replace("created", "in_progress"),
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "model": "theirs-2026",
            "tools": [],
            "output": [],
            "parallel_tool_calls": True,
            "metadata": {},
            "tool_choice": "auto",
            "temperature": 1.0,
            "top_p": 1.0,
        }
        return self.say(kind, response=response | fields)

    def begin(self) -> "Upstream":
        return self.lifecycle("created").lifecycle("in_progress")

    def thought(self, words: str, *, done: bool = True) -> "Upstream":
        place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
        item: Json = {"id": "rs_1", "type": "reasoning", "summary": []}
        part = {"type": "summary_text", "text": ""}
        self.say("output_item.added", output_index=0, item=item)
        self.say("reasoning_summary_part.added", **place, part=part)
        self.say("reasoning_summary_text.delta", **place, delta=words)
        if done:
            part = part | {"text": words}
            self.say("reasoning_summary_text.done", **place, text=words)
            self.say("reasoning_summary_part.done", **place, part=part)
            item = item | {"summary": [part], "encrypted_content": "gAAAA"}
            self.say("output_item.done", output_index=0, item=item)
        return self

    def message(self, *words: str, index: int = 0, until: str = "") -> "Upstream":
        """`until`: the event that does not come any more."""
        place = {"item_id": "msg_1", "output_index": index, "content_index": 0}
        item: Json = {"id": "msg_1", "type": "message", "role": "assistant"}
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.say("output_item.added", output_index=index, item=self._item(item, "in_progress"))
        self.say("content_part.added", **place, part=part)
        for word in words:
            self.say("output_text.delta", **place, delta=word, logprobs=[], obfuscation="xyz")
        whole = "".join(words)
        part = part | {"text": whole}
        ending: dict[str, Json] = {
            "output_text.done": {**place, "text": whole, "logprobs": []},
            "content_part.done": {**place, "part": part},
            "output_item.done": {
                "output_index": index,
                "item": self._item(item, "completed", part),
            },
        }
        for kind, fields in ending.items():
            if kind == until:
                break
            self.say(kind, **fields)
        return self

    def _item(self, item: Json, status: str, *parts: Json) -> Json:
        return item | {"status": status, "content": list(parts)}

    def end(self, kind: str = "completed", **fields: Any) -> "Upstream":
        found = [json.loads(data) for name, data in self.events if name.endswith(b"item.done")]
        usage = {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
            "output_tokens": 6,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 11,
        }
        output = [each["item"] for each in found]
        return self.lifecycle(kind, **{"output": output, "usage": usage} | fields)


def whole() -> Upstream:
    return Upstream().begin().thought("hm").message("One", " two", index=1).end()


def relayed(upstream: Upstream, pipe: Pipe | None = None) -> Pipe:
    pipe = pipe or Pipe()
    for name, data in upstream.events:
        for each in (pipe.writer, pipe.aggregator):
            each.relay(name, data)
        pipe.writer.flush()
    return pipe


def completed(pipe: Pipe) -> Told:
    for each in (pipe.writer, pipe.aggregator):
        each.complete(USAGE, b"")
    return pipe.checked()


def test_events_are_relayed_as_they_came_but_for_id_and_model() -> None:
    pipe = relayed(whole())
    completed(pipe)
    wanted = b"".join(
        b"event: %b\ndata: %b\n\n"
        % (name, data.replace(b'"resp_theirs"', b'"resp_1"').replace(b'"theirs-2026"', b'"public"'))
        for name, data in whole().events
    )
    assert pipe.body == wanted


def test_relayed_deltas_are_padded_where_their_upstream_does_not() -> None:
    upstream = Upstream().begin().message(*["x" * size for size in range(1, 40)]).end()
    bare = [(name, data.replace(b', "obfuscation": "xyz"', b"")) for name, data in upstream.events]
    pipe = relayed(upstream, Pipe(pads=True))
    assert pipe.body.count(b'"obfuscation"') == pipe.body.count(b'"obfuscation": "xyz"') > 0
    upstream.events = bare
    pipe = relayed(upstream, Pipe(pads=True))
    frames = [each for each in pipe.body.split(b"\n\n") if b"text.delta" in each]
    assert {(len(each) + 2) % 128 for each in frames} == {0}
    assert len(completed(pipe).text) == 39 * 40 // 2
    assert b"obfuscation" not in relayed(upstream).body


def test_the_last_event_waits_until_the_answer_is_complete() -> None:
    pipe = relayed(whole())
    assert split(pipe.body)[-1]["type"] == "response.output_item.done"
    pipe.writer.fail(bad_gateway("It broke."))
    assert split(pipe.body)[-1]["type"] == "response.failed"


def test_what_comes_behind_the_last_event_is_left_out() -> None:
    """The output of the last event does not have it."""
    upstream = whole().message("junk", index=2).end()
    found = completed(relayed(upstream))
    assert (found.text, found.kinds.count("completed")) == ("One two", 1)
    assert len(found.response["output"]) == 2


def test_an_incomplete_answer_stays_one() -> None:
    upstream = Upstream().begin().message("One")
    details = {"reason": "max_output_tokens"}
    pipe = relayed(upstream.end("incomplete", incomplete_details=details))
    found = completed(pipe)
    assert found.response["status"] == "incomplete"
    assert found.response["incomplete_details"] == details


@pytest.mark.parametrize(
    ("kind", "told", "status"),
    [
        ("completed", "incomplete", "incomplete"),
        ("completed", "in_progress", "completed"),
        ("completed", None, "completed"),
        ("incomplete", "in_progress", "incomplete"),
        ("incomplete", "completed", "incomplete"),
    ],
)
def test_the_last_event_agrees_with_its_response(kind: str, told: Any, status: str) -> None:
    """Half an answer must not look like a whole one."""
    details = {"reason": "max_output_tokens"} if status == "incomplete" else None
    upstream = Upstream().begin().message("One")
    found = completed(relayed(upstream.end(kind, status=told, incomplete_details=details)))
    assert (found.kinds[-1], found.response["status"]) == (status, status)


def test_numbers_go_on_behind_heartbeats() -> None:
    pipe = Pipe()
    pipe.writer.heartbeat(None)
    pipe.writer.heartbeat(None)
    relayed(whole(), pipe)
    found = completed(pipe)
    assert found.kinds[:5] == [
        *("created", "in_progress", "in_progress", "in_progress", "output_item.added"),
    ]


def test_heartbeats_between_relayed_events() -> None:
    pipe = relayed(Upstream().begin().thought("hm"))
    pipe.writer.heartbeat(None)
    assert split(pipe.body)[-1]["type"] == "response.in_progress"
    upstream = whole()
    upstream.events = upstream.events[len(split(pipe.body)) - 1 :]
    assert completed(relayed(upstream, pipe)).text == "One two"


def test_numbers_that_are_missing_are_added() -> None:
    upstream = whole()
    for index, (name, data) in enumerate(upstream.events):
        event = json.loads(data)
        del event["sequence_number"]
        upstream.events[index] = (name, json.dumps(event).encode())
    assert completed(relayed(upstream)).text == "One two"


def test_an_upstream_without_a_beginning_gets_one() -> None:
    upstream = whole()
    del upstream.events[:2]
    assert completed(relayed(upstream)).text == "One two"


@pytest.mark.parametrize(
    "data",
    [b"[DONE]", b"null", b"[]", b"{}", rb'{"type": "a\nb"}', rb'{"type": "a.b\u2028"}'],
)
def test_what_is_no_event_is_not_relayed(data: bytes) -> None:
    upstream = whole()
    upstream.events.insert(3, (b"", data))
    assert completed(relayed(upstream)).text == "One two"


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n\r\n"])
def test_no_type_of_an_event_breaks_a_frame(separator: str) -> None:
    """A client would read events that nobody has sent."""
    pipe = Pipe()
    forged = f'x{separator}event: response.completed\ndata: {{"type": "response.completed"}}'
    pipe.writer.relay(b"", json.dumps({"type": forged}).encode())
    pipe.writer.flush()
    assert b"response.completed" not in pipe.body


def test_events_that_nobody_knows_are_relayed() -> None:
    pipe = relayed(Upstream().begin())
    pipe.writer.relay(b"", b'{"type": "response.new",\n"sequence_number": 2, "x": "\xe2\x80\xa8"}')
    pipe.writer.relay(b"response.odd", b'{"sequence_number": 3}')
    pipe.writer.relay(b"", b'{"type": "response.nan", "x": NaN, "output_index": "?"}')
    pipe.writer.flush()
    *_, new, odd, nan = pipe.body.removesuffix(b"\n\n").split(b"\n\n")
    assert new == (
        b"event: response.new\n"
        rb'data: {"type":"response.new","sequence_number":2,"x":"\u2028"}'
    )
    # Clients look for the type in the data.
    assert odd == b'event: response.odd\ndata: {"type":"response.odd","sequence_number": 3}'
    assert json.loads(nan.split(b"data: ")[1]) == {
        "type": "response.nan",
        "x": None,
        "output_index": "?",
        "sequence_number": 4,
    }


@pytest.mark.parametrize("data", [b'{"type":"a.b","\xff":1}', b'{"type":"a.b","x":"\xff"}'])
def test_what_is_not_utf_8_is_the_upstreams_fault(data: bytes) -> None:
    for each in (relayed(Upstream().begin()).writer, relayed(Upstream().begin()).aggregator):
        with pytest.raises(UpstreamError) as failure:
            each.relay(b"", data)
        assert failure.value.code == "upstream_malformed"


def test_a_type_that_would_break_a_frame_is_not_relayed() -> None:
    pipe = relayed(Upstream().begin())
    pipe.writer.flush()
    before = len(pipe.body)
    pipe.writer.relay(b"", rb'{"type": "a\n\ndata: x"}')
    pipe.writer.flush()
    assert len(pipe.body) == before


#: What strict decoders refuse, or what is not as it is documented, in place of a response's begin.
ODD: dict[str, tuple[bytes, bytes]] = {
    "a number that is none": (b'"temperature": 1.0', b'"temperature": NaN'),
    "half a surrogate pair": (b'"metadata": {}', rb'"metadata": {"x": "\ud83d"}'),
    "a sequence number in quotes": (b'"sequence_number": ', b'"sequence_number": "1", "x": '),
    "an index that is null": (b'"type": ', b'"output_index": null, "type": '),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("kind", ["created", "in_progress", "completed"])
def test_an_odd_event_is_relayed_with_our_id_and_model(case: str, kind: str) -> None:
    upstream = whole()
    upstream.events = [
        (name, data.replace(*ODD[case], 1) if name.endswith(kind.encode()) else data)
        for name, data in upstream.events
    ]
    pipe = relayed(upstream)
    found = completed(pipe)
    assert found.response["usage"]["total_tokens"] == 11
    assert b"theirs" not in pipe.body
    assert b"theirs" not in pipe.aggregator.answer(HEAD)


@pytest.mark.parametrize("response", [b"null", b'"x"', b"[]"])
@pytest.mark.parametrize("kind", [b"response.in_progress", b"response.completed", b"x.y"])
def test_a_response_that_is_none_is_relayed_as_it_is(kind: bytes, response: bytes) -> None:
    upstream = Upstream().begin().message("One")
    upstream.events.insert(3, (kind, b'{"type": "%b", "response": %b}' % (kind, response)))
    pipe = relayed(upstream)
    for each in (pipe.writer, pipe.aggregator):
        each.complete(USAGE, b"")
    events = [json.loads(each.split(b"data: ")[1]) for each in pipe.body[:-2].split(b"\n\n")]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "One"
    assert [each["sequence_number"] for each in events] == list(range(len(events)))


def test_the_halves_of_a_surrogate_pair_are_joined() -> None:
    upstream = Upstream().begin().message("a\ud83d", "\ude0a", "b\ud83d", "c").end()
    found = completed(relayed(upstream))
    assert [text for _, text in found.deltas] == ["a", "\U0001f60a", "b", "\ufffdc"]


USAGES: dict[str, Any] = {
    "none": None,
    "empty": {},
    "without details": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    "with empty details": {
        "input_tokens": 1,
        "input_tokens_details": {},
        "output_tokens": 2,
        "output_tokens_details": {},
        "total_tokens": 3,
    },
}


@pytest.mark.parametrize("case", USAGES)
def test_usage_that_is_not_whole_is_ours(case: str) -> None:
    upstream = Upstream().begin().message("One").end(usage=USAGES[case])
    usage = completed(relayed(upstream)).response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (10, 4)
    assert usage["input_tokens_details"]["cached_tokens"] == 0


def test_an_item_that_the_upstream_does_not_end_ends() -> None:
    """A client may take the text from the end of its item alone."""
    upstream = Upstream().begin().message("One", until="output_text.done").end(output=[])
    found = completed(relayed(upstream))
    assert [each["content"][0]["text"] for each in found.done] == ["One"]
    assert found.response["output"] == found.done


def test_an_end_without_its_response_is_ours() -> None:
    found = completed(relayed(Upstream().begin().message("One").say("completed")))
    assert found.response["usage"]["total_tokens"] == 14


def test_an_output_that_is_missing_is_that_of_the_events() -> None:
    found = completed(relayed(Upstream().begin().message("One").end(output=[])))
    assert [each["id"] for each in found.response["output"]] == ["msg_1"]


def test_the_end_is_ours_where_the_upstream_has_none() -> None:
    found = completed(relayed(Upstream().begin().thought("hm").message("One", index=1)))
    assert [each["id"] for each in found.response["output"]] == ["rs_1", "msg_1"]
    assert found.response["output"][0]["encrypted_content"] == "gAAAA"
    assert found.response["usage"]["total_tokens"] == 14


# Another upstream goes on

BREAKS: dict[str, tuple[Upstream, list[str], str]] = {
    "in the text": (
        Upstream().begin().thought("hm").message("One", index=1, until="output_text.done"),
        ["rs_1", "msg_1"],
        "One two",
    ),
    "before the text": (
        Upstream().begin().message(until="output_text.done"),
        ["msg_1"],
        " two",
    ),
    "behind the text": (
        Upstream().begin().message("One", until="content_part.done"),
        ["msg_1"],
        "One two",
    ),
    "behind the part": (
        Upstream().begin().message("One", until="output_item.done"),
        ["msg_1"],
        "One two",
    ),
    "behind the item": (Upstream().begin().message("One"), ["msg_1", ""], "One two"),
    "in the reasoning": (Upstream().begin().thought("hm", done=False), ["rs_1", ""], " two"),
    "behind the reasoning": (Upstream().begin().thought("hm"), ["rs_1", ""], " two"),
    "behind the end": (whole(), ["rs_1", "msg_1", ""], "One two two"),
    "behind the beginning": (Upstream().begin(), [""], " two"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_another_upstream_goes_on(case: str) -> None:
    upstream, identities, wanted = BREAKS[case]
    pipe = relayed(upstream)
    for chunk in (text(" two"), finish()):
        for each in (pipe.writer, pipe.aggregator):
            each.push(chunk)
    found = completed(pipe)
    assert found.text == wanted
    for item, identity in zip(found.response["output"], identities, strict=True):
        assert item["id"] == identity or not identity
    assert found.response["usage"]["total_tokens"] == 14


def test_another_one_goes_on_behind_items_at_once() -> None:
    """The text of one is no part of the other."""
    upstream = Upstream().begin().thought("hm", done=False).message("One", index=1, until="x")
    late = [each for each in upstream.events if b"reasoning_summary_text.delta" in each[1]]
    ends = len(upstream.events) - 3
    upstream.events = [*upstream.events[:ends], *late]
    pipe = relayed(upstream)
    for chunk in (text(" two"), finish()):
        for each in (pipe.writer, pipe.aggregator):
            each.push(chunk)
    for each in (pipe.writer, pipe.aggregator):
        each.complete(USAGE, b"")
    (message,) = split(pipe.body)[-1]["response"]["output"]
    assert [each["text"] for each in message["content"]] == ["One two"]


def first(count: int, *, alive: int = 0) -> Pipe:
    """A client that has been sent so many events of a whole answer, behind `alive` heartbeats."""
    upstream, pipe = whole(), Pipe()
    for _ in range(alive):
        pipe.writer.heartbeat(None)
    upstream.events = upstream.events[:count]
    return relayed(upstream, pipe)


@pytest.mark.parametrize("alive", [0, 2])
@pytest.mark.parametrize("count", range(len(whole().events) + 1))
def test_a_break_behind_any_event_is_legal(count: int, alive: int) -> None:
    """Whether another upstream goes on with text or with reasoning, nobody does, or the upstream
    just ends."""
    for name in ("content", "reasoning_content"):
        pipe = first(count, alive=alive)
        for chunk in (text(" end", name), finish("length")):
            for each in (pipe.writer, pipe.aggregator):
                each.push(chunk)
        assert completed(pipe).response["status"] == "incomplete"
    completed(first(count, alive=alive))
    pipe = first(count, alive=alive)
    for each in (pipe.writer, pipe.aggregator):
        each.fail(bad_gateway("It broke."))
    pipe.checked()


def test_another_one_goes_on_with_reasoning() -> None:
    pipe = relayed(Upstream().begin().thought("hm", done=False))
    for chunk in (text(", well", "reasoning_content"), text("One"), finish()):
        for each in (pipe.writer, pipe.aggregator):
            each.push(chunk)
    found = completed(pipe)
    assert (found.reasoning, found.text) == ("hm, well", "One")
    assert found.response["output"][0]["id"] == "rs_1"


def test_a_failure_leaves_open_what_the_upstream_began() -> None:
    pipe = relayed(
        Upstream().begin().thought("hm").message("One", index=1, until="output_text.done")
    )
    pipe.writer.fail(bad_gateway("It broke."))
    found = pipe.told
    assert found.has_open
    assert [each["id"] for each in found.response["output"]] == ["rs_1"]


# Slow clients, and the fast path


def test_relayed_events_wait_for_a_slow_client_in_order() -> None:
    pipe = Pipe(limit=500)
    pipe.writer.pause()
    relayed(Upstream().begin().message("One", until="output_text.done"), pipe)
    pipe.writer.push(text(" two"))
    assert pipe.sent == []
    assert pipe.full > 0
    pipe.writer.resume()
    pipe.writer.push(finish())
    pipe.writer.complete(USAGE, b"")
    assert pipe.told.text == "One two"


DELTA = b"event: response.output_text.delta\ndata: "


ODD_WORDS = [f"word{each} " if each % 9 else f'"\u2028\\ {each} ' for each in range(60)]
NUMBERINGS: dict[str, Callable[[int], Json]] = {
    "on": lambda number: {"sequence_number": number},
    "from another start": lambda number: {"sequence_number": number + 95},
    "with jumps": lambda number: {"sequence_number": number * number},
    "backwards": lambda number: {"sequence_number": 200 - number},
    "none": lambda number: {},
    "strings": lambda number: {"sequence_number": str(number)},
    "twice": lambda number: {"sequence_number": number, "more": {"sequence_number": number}},
}


@pytest.mark.parametrize("case", NUMBERINGS)
def test_the_fast_path_relays_numbered_events(case: str, taken: list[bytes]) -> None:
    upstream = Upstream().begin().thought("hm").message(*ODD_WORDS, index=1).end()
    events: list[bytes] = []
    for number, (name, data) in enumerate(upstream.events):
        event = json.loads(data) | NUMBERINGS[case](number)
        if case == "none":
            del event["sequence_number"]
        if "obfuscation" in event:
            event["obfuscation"] = "aB3-" * (number % 5)
        text = json.dumps(event, ensure_ascii=number % 3 == 0, separators=(",", ":"))
        events.append(b"event: %b\ndata: %b\n\n" % (name, text.encode()))
    options: Json = {"dialect": openai_responses}
    wanted = streamed(events, fast_path=False, **options)
    assert streamed(events, fast_path=True, **options) == wanted
    assert (len(taken) > 30) is (case in ("on", "from another start", "with jumps", "backwards"))


def test_the_fast_path_relays_the_same() -> None:
    upstream = whole()
    upstream.events = [(name, data.replace(b": ", b":")) for name, data in upstream.events]
    wanted = relayed(upstream)
    pipe = Pipe()
    written = 0
    for name, data in upstream.events:
        event = DELTA + data + b"\n\n"
        write = None if name not in DELTA else pipe.writer.event_writer(steady(event))
        if write is not None:
            write(msgspec.json.encode(json.loads(data)["delta"]), event)
            written += 1
        else:
            pipe.writer.relay(name, data)
        pipe.writer.flush()
    assert pipe.body == wanted.body
    assert written
    assert pipe.writer.event_writer(b"event: response.refusal.delta\ndata: {}\n\n") is None
    pipe.writer.pause()
    assert pipe.writer.event_writer(DELTA + b'{"sequence_number":0}\n\n') is None
    pipe.writer.push(text(" three"))
    pipe.writer.complete(USAGE, b"")
    assert pipe.told.text == "One two three"


def test_a_fold_that_starts_over_keeps_nothing() -> None:
    pipe = relayed(Upstream().begin().message("One", until="output_text.done"))
    fold = pipe.aggregator
    fold.start_over()
    for chunk in (text("two"), finish()):
        fold.push(chunk)
    fold.complete(USAGE, b"")
    answer = json.loads(fold.answer(AnswerHead("resp_2", 1, "m")))
    assert [each["content"][0]["text"] for each in answer["output"]] == ["two"]
    assert (answer["id"], answer["model"]) == ("resp_2", "m")
    assert HEAD.identity == "resp_1"
