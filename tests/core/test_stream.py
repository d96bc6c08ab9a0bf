"""The stream between source and subscriber: its legal order, and that bytes cut anywhere say the
same. What an upstream sends goes the whole way here: events, dialect, stream, frames, or a fold.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.chunk import Choice, Chunk, Delta, Usage
from legato.core.errors import ApiError, UpstreamError, bad_gateway
from legato.core.front import AnswerHead
from legato.core.sse import Decoder
from legato.core.state import LEGAL, State
from legato.core.stream import Stream
from legato.core.subscriber import Subscriber
from legato.dialects.openai import END, Reader
from legato.fronts.chat_aggregator import ChatAggregator
from tests.core.test_sse import cut
from tests.fronts.test_chat_writer import Body, Json, Sink, check_body, raw

QUICK = settings(deadline=None, database=None, max_examples=250)


def still() -> float:
    return 0.0


def feed(stream: Stream, pieces: Iterable[bytes]) -> Stream:
    """What a source does with the body of an answer, read as `pieces`, to its end."""
    decoder, reader = Decoder(), Reader()
    try:
        for events in itertools.chain(map(decoder.feed, pieces), (decoder.close() for _ in "x")):
            for name, data in events:
                chunk = reader.read(name, data)
                if chunk is END:
                    stream.end()
                    break
                stream.push(chunk)
            stream.flush()
            if stream.done:
                return stream
        stream.end()
    except UpstreamError as error:
        stream.fail(error)
    return stream


def play(pieces: Iterable[bytes], *, wants_usage: bool = False) -> bytes:
    """The body that a streaming client gets. Ids that we make up are made equal."""
    sink = Sink(wants_usage=wants_usage)
    stream = Stream(still, 0.0)
    stream.subscribe(sink.writer)
    feed(stream, pieces)
    assert stream.done
    assert sink.closed == 1
    return re.sub(rb"call_[0-9a-f]{24}", b"call_new", sink.body)


def whole(body: bytes, *, wants_usage: bool = False) -> Body:
    return check_body(play([body], wants_usage=wants_usage), wants_usage=wants_usage)


def collected(pieces: Iterable[bytes]) -> Json:
    """The answer that a client gets that does not stream; the error object where there is none."""
    collector = ChatAggregator()
    stream = Stream(still, 0.0)
    stream.subscribe(collector)
    feed(stream, pieces)
    if collector.error is not None:
        return collector.error.as_object()
    return json.loads(collector.answer(AnswerHead("chatcmpl-1", 1_700_000_000, "public")))


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def choice(
    delta: Json | None = None, finish: str | None = None, index: int = 0, **more: Any
) -> Json:
    return {"index": index, "delta": delta or {}, "finish_reason": finish, **more}


def say(*choices: Json, **more: Any) -> bytes:
    head = {"id": "up-1", "object": "chat.completion.chunk", "created": 7, "model": "theirs"}
    return data(head | {"choices": list(choices)} | more)


def text(content: str, index: int = 0) -> bytes:
    return say(choice({"content": content}, index=index))


def finish(reason: str = "stop", index: int = 0) -> bytes:
    return say(choice(finish=reason, index=index))


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


class Listening:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def stream_opened(self) -> None:
        self.calls.append("open")

    def stream_finished(self) -> None:
        self.calls.append("finished")

    def stream_closed(self) -> None:
        self.calls.append("close")


class Log:
    """A subscriber that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def push(self, chunk: Chunk) -> None:
        for member in chunk.members():
            result = member["finish_reason"] or member["delta"].get("content") or "role"
            self.heard.append(f"{member['index']}:{result}")

    is_paused = False

    def flush(self) -> None:
        return None

    def text_writer(self, raw: tuple[bytes, bytes], extras: bytes) -> None:
        return None

    def complete(self, usage: Usage | None, extras: bytes = b"") -> None:
        self.heard.append("complete")

    def fail(self, error: ApiError) -> None:
        self.heard.append(f"fail {error.code}")


# Order

Deed = Callable[[Stream], None]


def _text(index: int = 0) -> Deed:
    return lambda stream: stream.push(raw_chunk(choice({"content": "a"}, index=index)))


def _finish(index: int = 0) -> Deed:
    return lambda stream: stream.push(raw_chunk(choice(finish="stop", index=index)))


def raw_chunk(*members: Json, usage: Json | None = None) -> Chunk:
    """As the dialect makes it: typed, and raw."""
    chunk = raw(*members)
    chunk.choices = [
        Choice(Delta(content=each["delta"].get("content")), each["index"], each["finish_reason"])
        if "content" in each["delta"]
        else Choice(Delta(), each["index"], each["finish_reason"])
        for each in members
    ]
    chunk.usage = usage
    return chunk


def _usage(stream: Stream) -> None:
    stream.push(raw_chunk(usage=USAGE))


def _end(stream: Stream) -> None:
    stream.end()


def _fail(stream: Stream) -> None:
    stream.fail(bad_gateway("oops"))


def _cancel(stream: Stream) -> None:
    stream.cancel()


ORDERS: dict[str, tuple[list[Deed], State, list[str]]] = {
    "nothing": ([], State.WAITING, []),
    "usage alone": ([_usage], State.WAITING, []),
    "text": ([_text()], State.OPEN, ["0:role", "0:a"]),
    "finish": ([_text(), _finish()], State.FINISHED, ["0:role", "0:a"]),
    "finish alone": ([_finish()], State.FINISHED, ["0:role"]),
    "one of two finished": (
        [_text(0), _text(1), _finish(0)],
        State.OPEN,
        ["0:role", "0:a", "1:role", "1:a"],
    ),
    "a choice that begins after a finish": (
        [_text(0), _finish(0), _text(1)],
        State.OPEN,
        ["0:role", "0:a", "1:role", "1:a"],
    ),
    "all": (
        [_text(), _finish(), _usage, _end],
        State.COMPLETE,
        ["0:role", "0:a", "0:stop", "complete"],
    ),
    "end twice": (
        [_finish(), _end, _end, _fail],
        State.COMPLETE,
        ["0:role", "0:stop", "complete"],
    ),
    "end without anything": ([_end], State.FAILED, ["fail upstream_empty"]),
    "end after usage": ([_usage, _end], State.FAILED, ["fail upstream_empty"]),
    "end without a finish": (
        [_text(), _end],
        State.FAILED,
        ["0:role", "0:a", "fail upstream_incomplete"],
    ),
    "end with one finish of two": (
        [_text(0), _text(1), _finish(1), _end],
        State.FAILED,
        ["0:role", "0:a", "1:role", "1:a", "fail upstream_incomplete"],
    ),
    "fail at once": ([_fail], State.FAILED, ["fail upstream_error"]),
    "fail twice": ([_fail, _fail, _end], State.FAILED, ["fail upstream_error"]),
    "fail after the finish": (
        [_finish(), _fail, _end],
        State.FAILED,
        ["0:role", "fail upstream_error"],
    ),
    "cancel at once": ([_cancel], State.CANCELLED, []),
    "cancel silences": (
        [_text(), _cancel, _text(), _finish(), _end, _fail],
        State.CANCELLED,
        ["0:role", "0:a"],
    ),
    "cancel after the end": (
        [_finish(), _end, _cancel],
        State.COMPLETE,
        ["0:role", "0:stop", "complete"],
    ),
}


def run(
    deeds: list[Deed], subscriber: Subscriber, attach_after: int = 0
) -> tuple[Stream, list[str]]:
    """Does `deeds`; tells what its listener was told."""
    listener = Listening()
    stream = Stream(still, 0.0, listener)
    calls = listener.calls
    for number, deed in enumerate(deeds):
        if number == attach_after:
            stream.subscribe(subscriber)
        deed(stream)
    if attach_after >= len(deeds):
        stream.subscribe(subscriber)
    return stream, calls


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_a_stream(name: str) -> None:
    deeds, state, heard = ORDERS[name]
    log = Log()
    stream, calls = run(deeds, log)
    assert stream.state is state
    assert log.heard == heard
    opened = ["open"] if any(":" in each for each in heard) else []
    closed = ["close"] if state in (State.COMPLETE, State.FAILED, State.CANCELLED) else []
    assert calls == opened + closed


@pytest.mark.parametrize("name", [name for name in ORDERS if "cancel" not in name])
def test_a_subscriber_that_comes_late_hears_all(name: str) -> None:
    deeds, _, heard = ORDERS[name]
    for late in range(len(deeds) + 1):
        log = Log()
        run(deeds, log, attach_after=late)
        assert log.heard == heard, f"attached after {late}"


def _refusal(stream: Stream) -> None:
    """Not a text: each member of it is normalized."""
    stream.push(raw_chunk({"index": 0, "delta": {"refusal": "no"}, "finish_reason": None}))


def _restart(stream: Stream) -> None:
    stream.start_over()


def _continue(stream: Stream) -> None:
    stream.continue_elsewhere()


# what an answer goes through, and how many upstreams have begun to answer then
OPENED: dict[str, tuple[list[Deed], int]] = {
    "one upstream": ([_text(), _refusal, _refusal], 1),
    "another starts over": ([_text(), _restart, _text(), _refusal, _refusal], 2),
    "another continues": ([_text(), _continue, _text(), _refusal, _refusal], 2),
    "another is to continue, and a third starts over": (
        [_text(), _continue, _restart, _text(), _refusal, _refusal],
        2,
    ),
}


@pytest.mark.parametrize("case", OPENED)
def test_a_listener_hears_once_of_each_upstream_that_begins_to_answer(case: str) -> None:
    deeds, times = OPENED[case]
    _, calls = run(deeds, Log())
    assert calls == ["open"] * times


def test_a_finish_is_forgotten_with_the_upstream_that_sent_it() -> None:
    """One that broke behind its finish: whoever continues the answer has to finish it."""
    log = Log()
    stream, _ = run([_text(), _finish(), _continue], log)
    assert stream.state is State.OPEN
    for deed in (_text(), _end):
        deed(stream)
    assert log.heard == ["0:role", "0:a", "0:a", "fail upstream_incomplete"]


# what has come of two choices, and what the failure says
UNFINISHED: dict[str, tuple[list[Deed], str]] = {
    "one, finished": ([_text(), _finish()], "The upstream gave 1 of 2 choices."),
    "one, unfinished": ([_text()], "The upstream ended its answer without a finish."),
    "two, one of them finished": (
        [_text(0), _text(1), _finish(0)],
        "The upstream ended its answer without a finish.",
    ),
    "none": ([], "The upstream's answer was empty."),
}


@pytest.mark.parametrize("case", UNFINISHED)
def test_an_answer_that_ends_too_soon_says_what_is_missing(case: str) -> None:
    deeds, message = UNFINISHED[case]
    stream, _ = run([lambda stream: stream.expect(2), *deeds, _end], Log())
    assert stream.error is not None
    assert stream.error.message == message


def test_what_is_final_is_final() -> None:
    for state in State:
        assert bool(LEGAL[state]) is (state.value in ("waiting", "open", "finished"))
    stream = Stream(still, 0.0)
    stream.cancel()
    with pytest.raises(AssertionError, match="from cancelled to open"):
        stream._to(State.OPEN)


def test_many_choices_begin_each_with_its_role() -> None:
    body = b"".join(text(f"{index}", index) for index in range(9))
    body += b"".join(finish(index=index) for index in range(9)) + DONE
    choices = whole(body).choices
    assert [choices[index]["content"] for index in range(9)] == list("012345678")


def test_several_subscribers_get_the_same() -> None:
    for late in (False, True):
        stream = Stream(still, 0.0)
        logs = [Log(), Log(), Log()]
        if not late:
            stream.subscribe(*logs)
        for deed in (_text(), _text(), _finish()):
            deed(stream)
        if late:
            stream.subscribe(*logs)
        stream.end()
        for log in logs:
            assert log.heard == ["0:role", "0:a", "0:a", "0:stop", "complete"]


def test_a_subscriber_that_has_missed_something_is_refused() -> None:
    for deeds in ((_text(),), (_text(), _cancel), (_finish(), _end)):
        stream = Stream(still, 0.0)
        stream.subscribe(Log())
        for deed in deeds:
            deed(stream)
        with pytest.raises(RuntimeError):
            stream.subscribe(Log())


def test_only_what_bears_content_is_progress() -> None:
    now = iter(range(1, 100))
    stream = Stream(lambda: float(next(now)), 0.0)
    for deed in (_usage, _text(), _text()):
        deed(stream)
    stream.push(raw_chunk(choice({"role": "assistant", "content": ""})))
    _finish()(stream)
    stream.end()
    assert stream.timings.pieces == 2
    assert (stream.timings.first, stream.timings.last) == (1.0, 2.0)


# Failures

FAILURES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "", "upstream_empty"),
    "done alone": (DONE, "", "upstream_empty"),
    "comments alone": (b": working\n\n" * 3, "", "upstream_empty"),
    "a role alone": (say(choice({"role": "assistant"})), "", "upstream_empty"),
    "no finish": (text("a"), "a", "upstream_incomplete"),
    "done without a finish": (text("a") + DONE, "a", "upstream_incomplete"),
    "one of two choices": (
        text("a") + text("b", 1) + finish() + DONE,
        "a",
        "upstream_incomplete",
    ),
    "an unknown finish": (text("a") + finish("exploded"), "a", "upstream_aborted"),
    "a finish that says error": (text("a") + finish("error") + DONE, "a", "upstream_aborted"),
    "an unknown finish with content": (
        say(choice({"content": "a"}, "exploded")),
        "",
        "upstream_aborted",
    ),
    "no json": (text("a") + b"data: {oops\n\n" + finish() + DONE, "a", "upstream_malformed"),
    "half a chunk": (text("a") + text("b")[:40], "a", "upstream_malformed"),
    "no object": (text("a") + b"data: []\n\n", "a", "upstream_malformed"),
    "an error": (
        text("a") + data({"error": {"message": "no", "code": "gpu_lost"}}),
        "a",
        "gpu_lost",
    ),
    "an error, then an end": (
        text("a") + data({"error": {"message": "no", "code": "gpu_lost"}}) + finish() + DONE,
        "a",
        "gpu_lost",
    ),
    "an error by name": (
        text("a") + b'event: error\ndata: {"message": "no", "type": "gpu_lost"}\n\n' + DONE,
        "a",
        "gpu_lost",
    ),
    "an error after the finish": (
        text("a") + finish() + data({"error": {"message": "no", "code": "gpu_lost"}}) + DONE,
        "a",
        "gpu_lost",
    ),
    "text that is no utf-8": (
        text("a") + text("X").replace(b"X", b"\xff") + finish() + DONE,
        "a",
        "upstream_malformed",
    ),
    "half a character": (
        text("a") + text("X").replace(b"X", "🐎".encode()[:2]) + finish() + DONE,
        "a",
        "upstream_malformed",
    ),
    "no utf-8 in a member that nobody knows": (
        text("a") + say(choice({"content": "b", "z": "X"})).replace(b"X", b"\xff") + DONE,
        "a",
        "upstream_malformed",
    ),
    "an index that is text": (
        text("a") + say({"index": "0", "delta": {"content": "b"}, "finish_reason": None}),
        "a",
        "upstream_malformed",
    ),
    "choices that are no list": (
        text("a") + data({"choices": {"a": 1}}),
        "a",
        "upstream_malformed",
    ),
    "tool calls that are no list": (
        text("a") + say(choice({"tool_calls": {"index": 0}})),
        "a",
        "upstream_error",
    ),
}


def all_ways(body: bytes, stride: int = 1) -> Iterable[list[bytes]]:
    """Byte by byte, and cut once at every `stride`th place."""
    yield [body[place : place + 1] for place in range(len(body))]
    for place in range(0, len(body) + 1, stride):
        yield [body[:place], body[place:]]


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_ends_the_stream_without_done(name: str) -> None:
    body, result, code = FAILURES[name]
    out = play([body])
    checked = check_body(out)
    assert checked.error is not None
    assert checked.error["code"] == code
    assert not checked.done
    assert b"[DONE]" not in out
    assert checked.choices.get(0, {"content": ""})["content"] == result
    assert collected([body])["error"]["code"] == code
    for pieces in all_ways(body):
        assert play(pieces) == out, pieces


def test_nothing_comes_after_the_end() -> None:
    body = text("a") + finish() + DONE
    out = play([body])
    for after in (text("b"), finish(), DONE, b"data: {oops\n\n", b"\xff" * 10):
        assert play([body + after]) == out
        assert play([body, after]) == out


# All of it, cut anywhere


class Habits:
    """An upstream with habits. `events` is what it sent, `sent` what a client should make of it."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.indices = draw(st.permutations(range(draw(st.integers(1, 3)))))
        self.role = draw(st.sampled_from(["first", "own", "every", "never"]))
        self.unknown = draw(st.booleans())
        self.events: list[bytes] = []
        self.result: dict[int, Json] = {}  # by the upstream's index, in the order of first use
        self.usage: Json | None = None
        self.pieces = self.thoughts = 0
        self._number = itertools.count()
        self._all: dict[int, Json] = {
            index: {"content": "", "reasoning": "", "tools": [], "finish": None}
            for index in self.indices
        }

    def emit(self, index: int, delta: Json, reason: str | None = None) -> None:
        if self.role == "every" or (self.role == "first" and index not in self.result):
            delta = {"role": "assistant"} | delta
        elif self.role == "own" and index not in self.result:
            self.events.append(say(choice({"role": "assistant", "content": None}, index=index)))
        self.result[index] = self._all[index]
        more: Json = {"provider": f"p{next(self._number)}"} if self.unknown else {}
        if self.draw(st.booleans()):
            more |= {"id": f"other-{next(self._number)}", "created": next(self._number)}
        self.events.append(say(choice(delta, reason, index), **more))

    def content(self, index: int, word: str) -> None:
        self._all[index]["content"] += word
        self.pieces += 1
        self.emit(index, {"content": word})

    def reasoning(self, index: int, word: str) -> None:
        self._all[index]["reasoning"] += word
        self.pieces += 1
        self.thoughts += 1
        self.emit(index, {self.draw(st.sampled_from(["reasoning", "reasoning_content"])): word})

    def tool(self, index: int, word: str) -> None:
        calls = self._all[index]["tools"]
        function: Json = {"arguments": word}
        call: Json = {}
        if not calls or self.draw(st.booleans()):
            call = {"id": f"call-{index}-{len(calls)}", "type": "function"}
            function["name"] = "f"
            calls.append({"id": call["id"], "name": "f", "arguments": ""})
        calls[-1]["arguments"] += word
        self.pieces += 1
        result = {"index": len(calls) - 1} | call | {"function": function}
        self.emit(index, {"tool_calls": [result]})

    def count(self, index: int, word: str) -> None:
        number = next(self._number)
        self.usage = {"prompt_tokens": number, "completion_tokens": 1, "total_tokens": 2}
        self.events.append(say(usage=self.usage))

    @property
    def shown(self) -> Json:
        """The usage that a client gets: what was not sent is counted."""
        counted = {
            "prompt_tokens": 0,
            "completion_tokens": self.pieces,
            "total_tokens": self.pieces,
        }
        usage = self.usage or counted
        thoughts = min(self.thoughts, usage["completion_tokens"])
        return usage | {"completion_tokens_details": {"reasoning_tokens": thoughts}}

    def comment(self, index: int, word: str) -> None:
        self.events.append(b": " + word.replace("\n", "").encode() + b"\n\n")

    def finish(self, index: int, merged: bool) -> None:
        reason = self.draw(st.sampled_from(["stop", "length", "tool_calls"]))
        has_calls = bool(self._all[index]["tools"])
        self._all[index]["finish"] = "tool_calls" if has_calls and reason == "stop" else reason
        if merged:
            self._all[index]["content"] += "end"
            self.pieces += 1
        self.emit(index, {"content": "end"} if merged else {}, reason)


@st.composite
def upstreams(draw: st.DrawFn) -> tuple[bytes, dict[int, Json], Json]:
    """An upstream's body; what each choice says, by our index; the usage that is shown."""
    habits = Habits(draw)
    deeds = [habits.content, habits.reasoning, habits.tool, habits.count, habits.comment]
    words = st.text('abž🐎\u2028\x85\n"\\ ', min_size=1, max_size=4)
    for _ in range(draw(st.integers(0, 12))):
        draw(st.sampled_from(deeds))(draw(st.sampled_from(habits.indices)), draw(words))
    merged = draw(st.booleans())
    for index in habits.indices:
        habits.finish(index, merged)
    if draw(st.booleans()):
        habits.count(0, "")
    body = b"".join(habits.events)
    body += draw(st.sampled_from([b"", DONE, DONE[:-1], DONE[:-2]]))
    body = body.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    body = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + body
    return body, dict(enumerate(habits.result.values())), habits.shown


@QUICK
@given(upstreams(), st.lists(st.integers(0, 6000), max_size=40), st.booleans())
def test_any_stream_cut_anywhere_says_the_same(
    upstream: tuple[bytes, dict[int, Json], Json], places: list[int], wants_usage: bool
) -> None:
    body, result, usage = upstream
    out = play([body], wants_usage=wants_usage)
    checked = check_body(out, wants_usage=wants_usage)
    assert checked.done
    assert checked.choices == result
    if wants_usage:
        assert checked.usage == usage
    assert (
        play(cut(body, [min(place, len(body)) for place in places]), wants_usage=wants_usage) == out
    )
    assert (
        play([body[place : place + 1] for place in range(len(body))], wants_usage=wants_usage)
        == out
    )
    answer = collected([body])
    assert answer["usage"] == usage
    folded = {
        each["index"]: {
            "content": each["message"]["content"] or "",
            "reasoning": each["message"].get("reasoning_content", ""),
            "tools": [
                {"id": call["id"]} | call["function"]
                for call in each["message"].get("tool_calls", [])
            ],
            "finish": each["finish_reason"],
        }
        for each in answer["choices"]
    }
    assert folded == result


@QUICK
@given(upstreams(), st.integers(0, 40))
def test_a_stream_cut_off_anywhere_is_whole_or_a_failure(
    upstream: tuple[bytes, dict[int, Json], Json], percent: int
) -> None:
    """However early the bytes stop: a prefix of the text, and never a finish nobody sent."""
    body, result, _ = upstream
    checked = check_body(play([body[: len(body) * percent // 40]]))
    for index, so_far in checked.choices.items():
        theirs = result[index]
        assert theirs["content"].startswith(so_far["content"])
        assert theirs["reasoning"].startswith(so_far["reasoning"])
        assert so_far["finish"] in (None, theirs["finish"])
    if checked.done:
        assert checked.choices == {index: result[index] for index in checked.choices}


X = data({"x": [1]})
# events, with a member `x` on one or more of those without a choice
ONCE: dict[str, list[bytes]] = {
    "before a text": [X, text("a"), text("b"), finish()],
    "before a role": [X, say(choice({"role": "assistant", "content": ""})), text("a"), finish()],
    "before a call": [
        X,
        say(choice({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]})),
        finish(),
    ],
    "before half a surrogate pair": [
        X,
        text("\U0001f600").replace(rb"\ude00", b"").replace("\U0001f600".encode(), rb"\ud83d"),
        text("a"),
        finish(),
    ],
    "before a finish": [X, finish(), text("a")],
    "before a text with its finish": [text("a"), X, say(choice({"content": "b"}, "stop"))],
    "before reasoning with a text": [
        X,
        say(choice({"reasoning_content": "hm", "content": "a"})),
        finish(),
    ],
    "in mid-answer, twice": [text("a"), X, X, text("b"), finish()],
    "after the finish": [text("a"), finish(), X],
    "after the finish, before the usage": [text("a"), finish(), X, say(usage=USAGE)],
    "with the usage": [text("a"), finish(), say(usage=USAGE, x=[1])],
}


@pytest.mark.parametrize("case", ONCE)
def test_members_without_a_choice_are_sent_once(case: str) -> None:
    body = b"".join([*ONCE[case], DONE])
    assert play([body], wants_usage=True).count(b'"x":[1]') == 1
    assert collected([body])["x"] == [1]


def test_unknown_members_of_a_choice_wait_for_its_first_text() -> None:
    """Also where another choice begins before it."""
    events = [say(choice(index=index, native=index + 7)) for index in (1, 0)]
    events += [say(choice(more=[7])), text("a"), finish(), text("b", 1), finish(index=1), DONE]
    checked = whole(b"".join(events))
    seen = [each for chunk in checked.chunks for each in chunk["choices"] if "native" in each]
    assert [(each["index"], each["native"]) for each in seen] == [(0, 7), (1, 8)]
    assert [each["delta"]["content"] for each in seen] == ["a", "b"]
    assert [each.get("more") for each in seen] == [[7], None]


def test_members_beside_every_finish_of_a_choice_are_kept() -> None:
    """The last finish counts, and says what earlier ones had beside them."""
    events = [text("a"), say(choice(finish="stop"), x=[1]), say(choice(finish="length"), y=2)]
    *_, last = whole(b"".join([*events, DONE])).chunks
    assert last["choices"] == [choice(finish="length")]
    assert (last["x"], last["y"]) == ([1], 2)


def test_members_without_a_choice_join_those_of_the_next_event() -> None:
    events = [X, data({"y": 1}), say(choice({"content": "a"}), z={"n": 1}), finish(), DONE]
    first, *_ = whole(b"".join(events)).chunks
    assert {name: first[name] for name in "xyz"} == {"x": [1], "y": 1, "z": {"n": 1}}


def delta(**members: Any) -> bytes:
    """With halves of surrogate pairs as they are."""
    return b"data: " + json.dumps({"choices": [choice(members)]}).encode() + b"\n\n"


HALVES: dict[str, tuple[list[bytes], Json]] = {
    "arguments of a function": (
        [
            delta(function_call={"name": "p", "arguments": "a\ud83d"}),
            delta(function_call={"arguments": "\ude00b"}),
        ],
        {"function_call": {"name": "p", "arguments": "a\U0001f600b"}},
    ),
    "one that never comes": (
        [delta(function_call={"name": "p", "arguments": "a\ud83d"})],
        {"function_call": {"name": "p", "arguments": "a\ufffd"}},
    ),
    "one of a tool call that never comes": (
        [
            delta(
                tool_calls=[
                    {
                        "index": 0,
                        "id": "c",
                        "type": "function",
                        "function": {"name": "p", "arguments": "a\ud83d"},
                    }
                ]
            )
        ],
        {
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "p", "arguments": "a\ufffd"}}
            ]
        },
    ),
    "a part of another type": (
        [delta(content=[{"type": "reference", "text": "a\ud83d"}, {"type": "text", "text": "b"}])],
        {"content": "b", "content_parts": [{"type": "reference", "text": "a\ufffd"}]},
    ),
    "a number larger than all floats": (
        [text("a").replace(b'"index"', b'"logprobs": {"content": [{"logprob": -1e999}]}, "index"')],
        {"content": "a"},
    ),
    "a text in an object": (
        [delta(content=[{"type": "text", "text": {"value": "a"}}, {"type": "text", "text": [1]}])],
        {"content": "a"},
    ),
}


@pytest.mark.parametrize("case", HALVES)
def test_halves_of_surrogate_pairs_wherever_text_is(case: str) -> None:
    events, wanted = HALVES[case]
    message = collected([*events, finish(), DONE])["choices"][0]["message"]
    assert {name: message[name] for name in wanted} == wanted
    assert play([*events, finish(), DONE]).endswith(DONE)


HIGH, LOW = "\ud83d", "\ude00"
# deltas, and what comes out of them
PARTED: dict[str, tuple[list[Json], list[Json]]] = {
    "behind a text": (
        [{"content": "a" + HIGH}, {"content": LOW + "b"}],
        [{"content": "a"}, {"content": "\U0001f600b"}],
    ),
    "alone": ([{"content": HIGH}, {"content": LOW}], [{"content": "\U0001f600"}]),
    "the first of all pairs": (
        [{"content": "\ud800"}, {"content": "\udc00"}],
        [{"content": "\U00010000"}],
    ),
    "the last of all pairs": (
        [{"content": "\udbff"}, {"content": "\udfff"}],
        [{"content": "\U0010ffff"}],
    ),
    "of reasoning": (
        [{"reasoning_content": "a" + HIGH}, {"reasoning_content": LOW}],
        [{"reasoning_content": "a"}, {"reasoning_content": "\U0001f600"}],
    ),
    "of a refusal": (
        [{"refusal": HIGH}, {"refusal": LOW + "b"}],
        [{"refusal": "\U0001f600b"}],
    ),
    "of a refusal, behind other texts": (
        [{"content": "a", "refusal": HIGH}, {"refusal": LOW}],
        [{"content": "a"}, {"refusal": "\U0001f600"}],
    ),
    "of two texts at once": (
        [{"content": HIGH, "refusal": HIGH}, {"content": LOW, "refusal": LOW}],
        [{"content": "\U0001f600", "refusal": "\U0001f600"}],
    ),
    "two halves that are no pair": (
        [{"content": HIGH}, {"content": HIGH}, {"content": "a"}],
        [{"content": "\ufffd"}, {"content": "\ufffda"}],
    ),
    "a text behind half of a pair": (
        [{"content": "a"}, {"content": HIGH}, {"content": "b"}, {"content": "c"}],
        [{"content": "a"}, {"content": "\ufffdb"}, {"content": "c"}],
    ),
    "a second half alone": ([{"content": LOW}], [{"content": "\ufffd"}]),
}


@pytest.mark.parametrize("case", PARTED)
def test_surrogate_pairs_that_two_chunks_share(case: str) -> None:
    """Half of one waits for the other, and nothing comes in its place meanwhile."""
    deltas, wanted = PARTED[case]
    checked = whole(b"".join([*(delta(**each) for each in deltas), finish(), DONE]))
    seen = [each["delta"] for chunk in checked.chunks[1:-1] for each in chunk["choices"]]
    assert seen == wanted


def test_surrogate_pairs_that_typed_chunks_share() -> None:
    """Of a dialect that has no `choices` as JSON, which could not be written with half of one."""
    sink = Sink()
    stream = Stream(still, 0.0)
    stream.subscribe(sink.writer)
    for piece in ("a", HIGH, LOW, "b"):
        stream.push(Chunk([Choice(Delta(content=piece), 0, None)]))
    _finish()(stream)
    stream.end()
    assert check_body(sink.body).choices[0]["content"] == "a\U0001f600b"


def test_the_arguments_of_a_call_are_there_while_half_of_a_pair_waits() -> None:
    function = {"name": "f", "arguments": HIGH}
    calls = [{"index": 0, "id": "c", "type": "function", "function": function}]
    more = [{"index": 0, "function": {"arguments": LOW}}]
    body = delta(tool_calls=calls) + delta(tool_calls=more) + finish() + DONE
    first, second = [each["choices"][0]["delta"] for each in whole(body).chunks[1:-1]]
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": ""}
    assert second["tool_calls"][0]["function"] == {"arguments": "\U0001f600"}


# members of the choices of events without a text, and what stands beside them
ALONE: dict[str, Json] = {
    "a call": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
    "a refusal": {"refusal": "no"},
    "a member that nobody knows": {"annotations": [1]},
    "nothing": {},
}


@pytest.mark.parametrize("case", ALONE)
@pytest.mark.parametrize("reason", [None, "stop"])
def test_unknown_members_of_a_choice_are_sent_once(case: str, reason: str | None) -> None:
    """Beside what they came with; with its finish, where that came with it."""
    events = [text("a"), say(choice(ALONE[case], reason, native=7))]
    events += [] if reason else [finish()]
    members = [each["choices"][0] for each in whole(b"".join([*events, DONE])).chunks]
    assert [bool(each["finish_reason"]) for each in members if "native" in each] == [bool(reason)]


@pytest.mark.parametrize("case", ALONE)
def test_members_beside_what_is_normalized_are_sent_once(case: str) -> None:
    events = [text("a"), say(choice(ALONE[case]), x=[1]), text("b"), finish(), DONE]
    assert play(events).count(b'"x":[1]') == 1
