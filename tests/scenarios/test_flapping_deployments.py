"""A thousand calls against two deployments that flap: each request draws its fault, breakers open
and close all the time, and who goes on with an answer says exactly what is missing of it."""

import asyncio
import contextlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from legato.policy.health import Health
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Answer, ask

CALLS = 1000
AT_ONCE = 40
SECONDS = 0.3  # that a deployment may be silent
DEPLOYMENTS = ("left", "right")

#: What comes of a request, and how often.
FAULTS = {"fine": 56, "cut": 24, "stall": 3, "429": 6, "500": 7, "gone": 4}

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(number: str) -> str:
    """The answer to a call, which is no other's: every word says where it belongs."""
    marks = ("", ",", ".\n", " 🐎", " kůň", '"')
    return "".join(f" {number}.{word}{marks[word % len(marks)]}" for word in range(30))


class Heard(Struct):
    """One request that has come."""

    deployment: str
    result: str  # what it was asked to go on with
    fault: str
    is_stale: (
        bool  # closed without a word, and not the first on its connection: asked again at once
    )


class Flapping:
    """An upstream on a real socket. It looks at what it is asked to go on with, and says the rest:
    all of it, or some of it before it breaks."""

    def __init__(self, seed: int) -> None:
        self.heard: dict[str, list[Heard]] = defaultdict(list)  # by the number of the call
        self.wrong: list[str] = []  # what was to be gone on with and is not of that answer
        self.open = 0
        self._draw = random.Random(seed)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        fresh = True
        try:
            while await self._answer(json.loads(await _body(reader)), writer, reader, fresh=fresh):
                await writer.drain()
                fresh = False
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.open -= 1

    async def _answer(
        self,
        request: dict[str, Any],
        writer: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
        *,
        fresh: bool,
    ) -> bool:
        """False where the connection is to be closed."""
        question, *begun = request["messages"]
        number = question["content"]
        result = begun[0]["content"] if begun else ""
        text = whole(number)
        if len(begun) > 1 or not text.startswith(result):
            self.wrong.append(f"{number}: {begun}")
        (fault,) = self._draw.choices(list(FAULTS), list(FAULTS.values()))
        stale = fault == "gone" and not fresh
        self.heard[number].append(Heard(request["model"], result, fault, stale))
        if fault == "gone":
            return False
        if fault in ("429", "500"):
            body = b'{"error": {"message": "Not now.", "type": "error", "code": null}}'
            head = f"HTTP/1.1 {fault} -\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            return True
        rest = text[len(result) :]
        writer.write(HEAD)
        await self._say(rest if fault == "fine" else self._some(rest), writer)
        if fault == "cut":
            return False
        if fault == "stall":
            await reader.read()  # until the peer has had enough
            return False
        writer.write(_event({}, "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True

    def _some(self, text: str) -> str:
        """Up to the middle of a word, or nothing, or all but the finish."""
        return text[: self._draw.randrange(len(text) + 1)]

    async def _say(self, text: str, writer: asyncio.StreamWriter) -> None:
        while text:
            size = self._draw.randrange(1, 40)
            writer.write(_event({"content": text[:size]}))
            text = text[size:]
            if self._draw.random() < 0.3:
                await writer.drain()
                await asyncio.sleep(0)


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return await reader.readexactly(int(size))


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    result = {"id": "x", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}
    return _chunk(b"data: " + json.dumps(result).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def flapping(tmp_path: Path, seed: int) -> AsyncIterator[tuple[Flapping, Running]]:
    upstream = Flapping(seed)
    base = await upstream.start()
    flags: dict[str, Any] = {
        "deployments": [
            {"name": name, "base_url": base, "model": name, "continue": "prefill"}
            | {"open_after": 6, "open_seconds": 0.05}
            | {"first_token_seconds": SECONDS, "stall_seconds": SECONDS}
            for name in DEPLOYMENTS
        ],
        "routes": [{"model": "public", "deployments": DEPLOYMENTS, "max_continuations": 3}],
    }
    async with serving(settings_for(tmp_path, None, **flags)) as legato:
        yield upstream, legato
    await until(lambda: not upstream.open, "no connection to the upstream is left")
    await upstream.stop()


async def test_1000_calls_against_a_pair_that_flaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call ends whole or with an honest error; nothing is repeated or lost where one goes on
    with what another began; and there is a row for each that says what was tried."""
    states: Counter[str] = Counter()  # of breakers, after each failure
    record = Health.record_failure

    def recorded(self: Health, now: float, *more: Any, **options: Any) -> None:
        record(self, now, *more, **options)
        states[self.state(now)] += 1

    monkeypatch.setattr(Health, "record_failure", recorded)
    async with flapping(tmp_path, seed=3) as (upstream, legato):
        room = asyncio.Semaphore(AT_ONCE)
        health = legato.app.services.router.health

        def somebody_may_be_asked() -> bool:
            now = legato.app.services.clock()
            return any(health[name].allows(now) for name in DEPLOYMENTS)

        async def call(number: int) -> Answer:
            async with room:
                await until(somebody_may_be_asked, seconds=30.0)
                messages = [{"role": "user", "content": f"{number}"}]
                body = {"model": "public", "messages": messages, "stream": number % 3 > 0}
                return await ask(legato.port, legato.key, body)

        answers = await asyncio.gather(*(call(number) for number in range(CALLS)))
        await until(lambda: not legato.server.server_state.tasks)
        rows = {row["id"]: row for row in await legato.rows()}
    assert not upstream.wrong
    assert len(rows) == CALLS
    outcomes: Counter[str] = Counter()
    for number, answer in enumerate(answers):
        row = rows[answer.headers["x-request-id"].replace("req_", "chatcmpl-")]
        check_answer(answer, whole(f"{number}"), row)
        check_row(row, upstream.heard[f"{number}"])
        outcomes[row["outcome"]] += 1
    joined = [row for row in rows.values() if row["continuations"] and row["outcome"] == "complete"]
    assert outcomes["complete"] > CALLS / 4
    assert outcomes["failed"]
    assert len(joined) > CALLS / 50
    assert max(row["continuations"] for row in joined) > 1
    assert states["open"], "no breaker ever opened"


def check_answer(answer: Answer, text: str, row: dict[str, Any]) -> None:
    """All of the text and its end, or the beginning of it and an error."""
    complete = row["outcome"] == "complete"
    if not answer.headers["content-type"].startswith("text/event-stream"):
        assert (answer.status == 200) is complete, row
        if complete:
            (choice,) = answer.json["choices"]
            assert choice["message"]["content"] == text
            assert choice["finish_reason"] == "stop"
        else:
            assert answer.status in (429, 502, 503, 504)
            assert answer.error is not None
            assert answer.error["code"] == row["error"]
        return
    assert answer.status == 200
    assert answer.done is complete is (answer.error is None), row
    assert (b"[DONE]" in answer.body) is complete
    assert answer.finishes() == (["stop"] if complete else [])
    if complete:
        assert answer.text() == text
    else:
        assert text.startswith(answer.text())
        assert answer.error is not None
        assert answer.error["code"] == row["error"]


def check_row(row: dict[str, Any], heard: list[Heard]) -> None:
    """Who was asked, in order, and with what each of them failed."""
    heard = [each for each in heard if not each.is_stale]
    tried = row["deployments"].split(",") if row["deployments"] else []
    errors = row["errors"].split(",") if tried else []
    assert len(tried) == len(errors) == row["attempts"], row
    if not tried:  # both breakers were open
        assert (row["outcome"], row["error"]) == ("refused", "no_deployment")
        return
    assert row["outcome"] in ("complete", "failed"), row
    assert all(errors[:-1]), row
    assert bool(errors[-1]) is (row["outcome"] == "failed"), row
    assert tried == [each.deployment for each in heard], (row, heard)
    for each, error in zip(heard, errors, strict=True):
        assert error == CODES[each.fault] or error in LATE, (row, heard)


#: What is sent of a stall; on a busy machine anything may come too late.
LATE = ("upstream_first_token_timeout", "upstream_stalled")
CODES = {
    "fine": "",
    "cut": "upstream_cut",
    "stall": LATE[0],
    "429": "upstream_rate_limited",
    "500": "upstream_500",
    "gone": "upstream_cut",
}
