"""All dialects, one test: whoever sends an answer, in whatever pieces, its client gets the same."""

import contextlib
import importlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from legato import dialects
from legato.core.chunk import Chunk, Usage
from legato.core.dialect import Dialect
from legato.core.errors import ApiError, UpstreamError
from legato.core.sse import EventTooLarge
from legato.core.stream import State, Stream
from legato.core.usage import Tokens, count
from tests.support.transcripts import GOLDEN, GOLDEN_WHOLE, Golden


class Heard:
    """A subscriber that looks at the bytes a client gets."""

    def __init__(self) -> None:
        self.choices: list[dict[str, Any]] = []
        self.tokens: Tokens | None = None
        self.error: ApiError | None = None

    def push(self, chunk: Chunk) -> None:
        assert chunk.raw is not None
        assert len(chunk.raw.decode().splitlines()) == 1
        self.choices += json.loads(chunk.raw)

    def flush(self) -> None:
        pass

    def complete(self, usage: Usage, extras: bytes) -> None:
        # Who writes to a cache is told by one format alone.
        self.tokens = replace(count(usage), cache_writes=0)

    def fail(self, error: ApiError) -> None:
        self.error = error

    def check(self) -> None:
        """What the contract says of every answer, whole or not."""
        choices: dict[int, list[dict[str, Any]]] = {}
        for each in self.choices:
            choices.setdefault(each["index"], []).append(each)
        assert list(choices) == list(range(len(choices)))
        for members in choices.values():
            assert members[0]["delta"] == {"role": "assistant", "content": ""}
            assert not any("role" in each["delta"] for each in members[1:])
            assert not any(each["finish_reason"] for each in members[:-1])
            assert self.error is not None or members[-1]["finish_reason"] is not None
            for each in members[1:]:
                assert each["delta"] or each["finish_reason"] or len(each) > 3, "more members"

    def answer(self) -> Golden:
        text, thoughts, calls = [], [], []
        for delta in (each["delta"] for each in self.choices):
            if delta.get("content"):
                text.append(delta["content"])
            if delta.get("reasoning_content"):
                assert not text, "thoughts come before the answer"
                thoughts.append(delta["reasoning_content"])
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(calls):
                    assert call["id"]
                    assert call["type"] == "function"
                    calls.append([call["function"]["name"], ""])
                else:
                    assert "id" not in call
                    assert "name" not in call["function"]
                calls[call["index"]][1] += call["function"]["arguments"]
        return Golden(
            tuple(text),
            tuple(thoughts),
            tuple((name, json.loads(arguments)) for name, arguments in calls),
            self.choices[-1]["finish_reason"] if self.choices else None,
            self.tokens,
        )


def feed(stream: Stream, reader: Any, events: list[tuple[bytes, bytes]]) -> None:
    """Behind the finish what is no chunk fails nothing, an error does."""
    for name, data in events:
        try:
            chunk = reader.read(name, data)
        except UpstreamError as error:
            if stream.state is State.FINISHED and error.code == "upstream_malformed":
                continue
            raise
        if chunk is None:
            stream.end()
        if stream.done:
            return
        assert chunk is not None
        stream.push(chunk)


def play(dialect: Dialect, pieces: list[bytes]) -> Heard:
    """An answer's body, as `upstreams.response` reads it."""
    stream, heard = Stream(lambda: 0.0, 0.0), Heard()
    stream.subscribe(heard)
    decoder, reader = dialect.decoder(), dialect.reader()
    try:
        for piece in pieces:
            feed(stream, reader, decoder.feed(piece))
            if stream.done:
                return heard
        with contextlib.suppress(ApiError):  # half an event is what a cut leaves
            feed(stream, reader, decoder.close())
        stream.end()
    except ApiError as error:
        stream.fail(error)
    except EventTooLarge:
        stream.fail(UpstreamError(502, "upstream_error", "too large"))
    assert stream.done
    assert (stream.state is State.COMPLETE) == (heard.error is None)
    return heard


def transcripts(name: str) -> Any:
    """The module of a dialect's transcripts; `LACKS` names what its format has no words for."""
    try:
        return importlib.import_module(f"tests.support.transcripts.{name.replace('-', '_')}")
    except ModuleNotFoundError:
        return None


def transcript(name: str, conversation: str) -> bytes:
    module = transcripts(name)
    if module is None:
        pytest.fail(f"the dialect `{name}` has no tests/transcripts/{name}.py")
    return module.TRANSCRIPTS[conversation]


def conversations() -> Iterator[tuple[str, str]]:
    for name in dialects.NAMES:
        lacks = getattr(transcripts(name), "LACKS", ())
        yield from ((name, conversation) for conversation in GOLDEN if conversation not in lacks)


@pytest.mark.parametrize("name", dialects.NAMES)
def test_a_dialect_has_all_the_transcripts_that_its_format_has_words_for(name: str) -> None:
    module = transcripts(name)
    assert module is not None, f"write tests/transcripts/{name}.py"
    assert set(module.TRANSCRIPTS) == set(GOLDEN) - set(module.LACKS)


def ways(body: bytes, seed: str) -> Iterator[list[bytes]]:
    """Ways in which a body may come."""
    yield [body]
    yield [body[n : n + 1] for n in range(len(body))]
    draw = random.Random(seed)
    for _ in range(30):
        edges = [0, *sorted(draw.randrange(len(body) + 1) for _ in range(draw.randrange(9)))]
        yield [body[a:b] for a, b in zip(edges, [*edges[1:], len(body)], strict=True)]


every_conversation = pytest.mark.parametrize(("name", "conversation"), list(conversations()))


@every_conversation
def test_a_client_gets_the_same_whoever_sent_it(name: str, conversation: str) -> None:
    golden = GOLDEN[conversation]
    body = transcript(name, conversation)
    for pieces in ways(body, conversation):
        heard = play(dialects.named(name), pieces)
        heard.check()
        result = golden.error
        assert heard.answer() == Golden(
            golden.text, golden.thoughts, golden.calls, golden.finish, golden.tokens
        )
        if result is None:
            assert heard.error is None
        else:
            assert isinstance(heard.error, ApiError)
            assert result in heard.error.message
            assert heard.error.status in (502, 503)


@pytest.mark.parametrize("name", dialects.NAMES)
def test_an_answer_in_one_piece_says_what_its_stream_would_have_said(name: str) -> None:
    dialect, body = dialects.named(name), transcripts(name).WHOLE
    stream, heard, reader = Stream(lambda: 0.0, 0.0), Heard(), dialect.reader()
    stream.subscribe(heard)
    for data in dialect.unstreamed(body):
        chunk = reader.read(b"", data)
        if chunk is not None:
            stream.push(chunk)
    stream.end()
    heard.check()
    assert heard.answer() == GOLDEN_WHOLE


@pytest.mark.parametrize("name", dialects.NAMES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"[1]",
        b"{}",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"error":{"message":"no"}}',
        b'[{"error":{"message":"no"}}]',
        b'{"choices":[]}',
        b'{"choices":[{"index":0}]}',
        b'{"choices":7,"candidates":[],"type":"message"}',
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(name: str, body: bytes) -> None:
    """Gemini's readers know nothing that an event must have: an empty one says nothing."""
    dialect = dialects.named(name)
    reader = dialect.reader()
    for data in dialect.unstreamed(body):
        chunk = reader.read(b"", data)
        assert chunk is not None
        assert chunk.members() == []


@pytest.mark.parametrize("name", dialects.NAMES)
def test_a_changed_answer_in_one_piece_is_an_answer_or_the_upstreams_failure(name: str) -> None:
    dialect, body = dialects.named(name), transcripts(name).WHOLE
    draw = random.Random(name)
    for change in (with_other_bytes, with_other_values):
        for _ in range(300):
            stream, heard, reader = Stream(lambda: 0.0, 0.0), Heard(), dialect.reader()
            stream.subscribe(heard)
            try:
                for data in dialect.unstreamed(change(body, draw)):
                    chunk = reader.read(b"", data)
                    if chunk is not None:
                        stream.push(chunk)
                stream.end()
            except ApiError as error:
                stream.fail(error)
            heard.check()


# What readers give, without a stream behind them

#: For each dialect: the event of a text (as JSON has it, without its quotes), of a thought, and the
#: end of an answer. Written out: no encoder writes half a surrogate pair as it is meant here.
EVENTS: dict[str, tuple[str, str, str]] = {
    "openai": (
        'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{"reasoning":"%s"},"finish_reason":null}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    ),
    "anthropic": (
        'data: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"%s"}}\n\n',
        'data: {"type":"content_block_delta","index":1,'
        '"delta":{"type":"thinking_delta","thinking":"%s"}}\n\n',
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
    ),
    "gemini": (
        'data: {"candidates":[{"content":{"parts":[{"text":"%s"}]},"index":0}]}\n\n',
        'data: {"candidates":[{"content":{"parts":[{"text":"%s","thought":true}]}}]}\n\n',
        'data: {"candidates":[{"finishReason":"STOP"}]}\n\n',
    ),
    "ollama": (
        '{"message":{"role":"assistant","content":"%s"},"done":false}\n',
        '{"message":{"role":"assistant","content":"","thinking":"%s"},"done":false}\n',
        '{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n',
    ),
    "openai-responses": (
        'data: {"type":"response.output_text.delta","item_id":"msg_1","output_index":1,'
        '"content_index":0,"delta":"%s"}\n\n',
        'data: {"type":"response.reasoning_text.delta","item_id":"rs_1","output_index":0,'
        '"content_index":0,"delta":"%s"}\n\n',
        'data: {"type":"response.completed","response":{"status":"completed"}}\n\n',
    ),
}


def chunks(dialect: Dialect, pieces: list[bytes]) -> list[Chunk]:
    """All chunks of a body."""
    decoder, reader = dialect.decoder(), dialect.reader()
    found: list[Chunk] = []
    for events in (*(decoder.feed(piece) for piece in pieces), decoder.close()):
        for name, data in events:
            chunk = reader.read(name, data)
            if chunk is not None:
                found.append(chunk)
    return found


def facts(chunk: Chunk | None) -> Any:
    return chunk and (chunk.members(), chunk.usage, chunk.extras, len(chunk.choices))


def deltas(found: list[Chunk], name: str) -> list[Any]:
    values = [each["delta"].get(name) for chunk in found for each in chunk.members()]
    return [each for each in values if each not in (None, "")]


# texts as JSON has them, the same as strings
HALVES: dict[str, tuple[list[str], list[str]]] = {
    "parted": ([r"hi \ud83d", r"\ude00 ok"], ["hi \ud83d", "\ude00 ok"]),
    "alone": ([r"hi \ud83d", " ok"], ["hi \ud83d", " ok"]),
    "at the end": (["hi ", r"\ud83d"], ["hi ", "\ud83d"]),
    "in the middle": ([r"a\ud83d b", r"\ude00"], ["a\ud83d b", "\ude00"]),
    "whole": ([r"hi \ud83d\ude00", "ok"], ["hi 😀", "ok"]),
    "words that are no numbers": (["NaN", " -Infinity"], ["NaN", " -Infinity"]),
}


@pytest.mark.parametrize("case", HALVES)
@pytest.mark.parametrize("name", dialects.NAMES)
def test_half_a_surrogate_pair_is_handed_on_in_texts(name: str, case: str) -> None:
    """Never dropped or replaced there: the other half may come with the next event."""
    texts, wanted = HALVES[case]
    text, thought, end = EVENTS[name]
    for event, member in ((text, "content"), (thought, "reasoning_content")):
        body = "".join([*(event % each for each in texts), end]).encode()
        for pieces in ways(body, case):
            found = chunks(dialects.named(name), pieces)
            joined = deltas(found, member) or deltas(found, "reasoning")
            assert joined == wanted
            assert [f for c in found for m in c.members() if (f := m["finish_reason"])] == ["stop"]


#: Those whose events of texts have no members that a client gets.
NO_EXTRAS = ("anthropic", "openai-responses")


@pytest.mark.parametrize("name", dialects.NAMES)
def test_nan_is_null_and_changes_nothing_else(name: str) -> None:
    text, _, end = EVENTS[name]
    event = (text % "NaN ž").replace("{", '{"x":NaN,"y":[Infinity,{"z":-Infinity}],', 1)
    body = (event + end).encode()
    for pieces in ways(body, name):
        found = chunks(dialects.named(name), pieces)
        assert deltas(found, "content") == ["NaN ž"]
        if name not in NO_EXTRAS:
            extras = json.loads(b"{%b}" % found[0].extras[1:])
            assert extras["y"] == [None, {"z": None}]


@pytest.mark.parametrize("nothing", ["null", " null ", "", " "])
@pytest.mark.parametrize("name", dialects.NAMES)
def test_an_event_that_says_nothing_is_passed_over_wherever_it_stands(
    name: str, nothing: str
) -> None:
    text, _, end = EVENTS[name]
    null = f"{nothing}\n" if name == "ollama" else f"data: {nothing}\n\n"
    body = (null + text % "Hello" + null + text % " world" + null * 2 + end + null).encode()
    for pieces in ways(body, nothing):
        found = chunks(dialects.named(name), pieces)
        assert deltas(found, "content") == ["Hello", " world"]
        members = [member for chunk in found for member in chunk.members()]
        assert [each["finish_reason"] for each in members] == [None, None, "stop"]


@pytest.mark.parametrize("name", dialects.NAMES)
def test_null_is_no_event_before_and_after_any_other(name: str) -> None:
    """It leaves a reader as it is: what comes next is read as if it had not been there."""
    for conversation in transcripts(name).TRANSCRIPTS.values():
        dialect = dialects.named(name)
        undisturbed, sprinkled = dialect.reader(), dialect.reader()
        with contextlib.suppress(ApiError):
            for event in dialect.decoder().feed(conversation):
                for data in (b"null", b"", b" null"):
                    nothing = sprinkled.read(b"", data)
                    assert nothing is not None
                    assert (nothing.members(), nothing.usage, nothing.extras) == ([], None, b"")
                one, other = undisturbed.read(*event), sprinkled.read(*event)
                assert facts(one) == facts(other)
                assert undisturbed.identity == sprinkled.identity


NO_CHUNKS: list[bytes] = [
    b"hello",
    b'{"usage": broken',
    b'"[DONE]"',
    b'"DONE"',
    b"7",
    b"1.5",
    b"true",
    b"NaN",
    b"[]",
    b"[1]",
    b'["x"]',
    b"[[]]",
    b"\xff",
    b'{"x":"\xff',
    b"[" * 100_000,
    b'{"choices":7,"candidates":7,"message":7,"type":7}',
    b'{"choices":[7],"candidates":[7],"message":[7],"type":[7]}',
    b'{"choices":[],"usage":[],"usageMetadata":[],"type":"message_delta","delta":[],"message":[]}',
    b"<html>",
    b": comment",
]


@pytest.mark.parametrize("data", NO_CHUNKS, ids=range(len(NO_CHUNKS)))
@pytest.mark.parametrize("name", dialects.NAMES)
def test_what_is_no_chunk_is_malformed_and_nothing_else(name: str, data: bytes) -> None:
    """By its code what is passed over behind the finish is told from an error."""
    text, _, end = EVENTS[name]
    dialect = dialects.named(name)
    reader = dialect.reader()
    for event in (None, *dialect.decoder().feed((text % "a" + end).encode())):
        if event is not None:
            reader.read(*event)
        with pytest.raises(UpstreamError) as caught:
            reader.read(b"", data)
        assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


@pytest.mark.parametrize("name", dialects.NAMES)
def test_an_error_behind_the_finish_is_one(name: str) -> None:
    _, _, end = EVENTS[name]
    dialect = dialects.named(name)
    reader = dialect.reader()
    for event in dialect.decoder().feed(end.encode()):
        reader.read(*event)
    with pytest.raises(ApiError) as caught:
        reader.read(b"", b'{"error":{"message":"melted"}}')
    assert "melted" in caught.value.message
    assert caught.value.code != "upstream_malformed"


@every_conversation
def test_a_stateless_event_may_be_read_again_with_another_text(
    name: str, conversation: str
) -> None:
    """Whatever is read of it, later events mean the same."""
    dialect = dialects.named(name)
    undisturbed, again = dialect.reader(), dialect.reader()
    stateless = 0
    with contextlib.suppress(ApiError):
        for kind, data in dialect.decoder().feed(transcript(name, conversation)):
            one, other = undisturbed.read(kind, data), again.read(kind, data)
            assert facts(one) == facts(other)
            if one is None or not one.choices or not again.is_stateless(other or one):
                continue
            for text in deltas([one], "content") + deltas([one], "reasoning_content"):
                quoted = json.dumps(text, ensure_ascii=False).encode()
                changed = again.read(kind, data.replace(quoted, b'"another text"'))
                assert changed is not None
                stateless += deltas([changed], "content") == ["another text"]
    assert stateless or not GOLDEN[conversation].text or conversation == "noise"


@pytest.mark.parametrize("name", dialects.NAMES)
def test_members_called_like_ours_are_not_passed_on(name: str) -> None:
    """A frame has each of its own members once, whatever an upstream of another format says."""
    _, _, end = EVENTS[name]
    ours = '"id":"x","object":"o","created":1,"model":"m","obfuscation":"x","y":[7]'
    ours += "" if name == "openai" else ',"choices":[{}],"usage":{"a":1}'
    body = end.replace("{", "{" + ours + ",", 1)
    found = chunks(dialects.named(name), [body.encode()])
    assert json.loads(b"{%b}" % found[0].extras[1:]) == {"y": [7]}
    assert deltas(found, "content") == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "gemini",
            b'data: {"candidates":[{"delta":7,"finish_reason":7,"usage":7,"logprobs":7}]}\n\n',
        ),
        ("ollama", b'{"message":{"reasoning":7,"refusal":[7],"function_call":7,"role":7}}\n'),
    ],
)
def test_members_called_like_openais_are_not_taken_for_them(name: str, body: bytes) -> None:
    assert [chunk.members() for chunk in chunks(dialects.named(name), [body])] == [[]]


SPLINTERS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\n",
    b"\\",
    b"\x00",
    b"\xff",
    b"null",
    b"0",
]
VALUES: list[Any] = [None, True, -1, 7.5, 10**30, "", "x", "\ud83d", [], [None], {}, {"x": 1}, [[]]]


def with_other_bytes(body: bytes, draw: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(changed))
        match draw.randrange(4):
            case 0:
                changed[at] = draw.randrange(256)
            case 1:
                del changed[at : at + draw.randrange(40)]
            case 2:
                changed[at:at] = changed[draw.randrange(len(changed)) :][: draw.randrange(40)]
            case _:
                changed[at:at] = draw.choice(SPLINTERS)
        if not changed:
            return b""
    return bytes(changed)


def with_other_values(body: bytes, draw: random.Random) -> bytes:
    """The same lines, but for some member of some of their JSON."""
    lines = body.split(b"\n")
    spots = [number for number, line in enumerate(lines) if b"{" in line]
    for number in draw.choices(spots, k=draw.randrange(1, 4)):
        start = lines[number].index(b"{")
        try:
            tree = json.loads(lines[number][start:])
        except ValueError:
            continue
        places = list(_places(tree))
        if places:
            owner, key = draw.choice(places)
            if draw.random() < 0.2:
                del owner[key]
            else:
                owner[key] = draw.choice(VALUES)
        lines[number] = lines[number][:start] + json.dumps(tree).encode()
    return b"\n".join(lines)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


@every_conversation
@pytest.mark.parametrize("changed", [with_other_bytes, with_other_values])
def test_whatever_is_sent_is_an_answer_or_the_upstreams_failure(
    name: str, conversation: str, changed: Callable[[bytes, random.Random], bytes]
) -> None:
    body = transcript(name, conversation)
    draw = random.Random(f"{name} {conversation}")
    for _ in range(150):
        heard = play(dialects.named(name), [changed(body, draw)])
        heard.check()
        if heard.error is not None:
            assert isinstance(heard.error, ApiError)
            assert heard.error.status >= 429
