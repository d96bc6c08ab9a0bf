"""Upstreams that say what no upstream should: numbers that are none, half of what was asked for,
ends that do not come, waits of a century. A client sees what the contract says all the same."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from legato.core.usage import count
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from legato.policy.ledger import Row
from legato.store.database import Database
from legato.store.ledger import Writer, summary
from tests.conftest import Running, serving, settings_for, until
from tests.fronts.test_chat_writer import check_body
from tests.scenarios.test_slow_client import narrow
from tests.support.fault_stage import _narrow as narrow_lines
from tests.support.wire import Answer, Wire, ask, chat, request

Json = dict[str, Any]

#: Tokens of one call that are believed at most.
MOST = 2**40

HEAD: Json = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
HAPPY = "Once upon a time, there was a stream."


def usage(**more: Any) -> Json:
    return {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9} | more


def choice(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    return {"index": 0, "delta": delta or {}, "finish_reason": finish} | more


def chunk(*choices: Json, **more: Any) -> Step:
    return Step(chunk=HEAD | {"choices": list(choices)} | more)


def script(*steps: Step, **more: Any) -> Script:
    return Script(steps=list(steps), **more)


AB = (Step(say="a"), Step(say="b"))
FINISH = Step(finish="stop")
DONE = Step(done=True)


@asynccontextmanager
async def fronting(
    tmp_path: Path,
    scripted: MockServer,
    scripts: dict[str, Script],
    *,
    attempts: int = 1,
    deploy: Json | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """A server with a route for each of `scripts`, and timers that are in nobody's way."""
    scripted.scripts |= scripts
    base = await scripted.start()
    terms: Json = {"first_token_seconds": 8.0, "stall_seconds": 8.0, "open_after": 0}
    flags: Json = {
        "deployments": [
            {"name": f"at-{name}", "model": name, "base_url": base} | terms | (deploy or {})
            for name in scripts
        ],
        "routes": [
            {"model": name, "deployments": [f"at-{name}"], "attempts": attempts} for name in scripts
        ],
    }
    async with serving(settings_for(tmp_path, None, **flags, **more)) as running:
        yield running


async def answered(
    tmp_path: Path, scripted: MockServer, played: Script, body: Json, **more: Any
) -> tuple[Answer, Json]:
    """What comes of one request, and its row."""
    async with fronting(tmp_path, scripted, {"it": played}, **more) as legato:
        answer = await ask(legato.port, legato.key, chat("it", **body))
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        (row,) = await legato.rows()
    assert row["outcome"] != "open"
    return answer, row


BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def told(answer: Answer, *, stream: bool) -> Json:
    """The usage that a client is shown; a stream's was asked for."""
    if stream:
        shown = check_body(answer.body, wants_usage=True).usage
        assert shown is not None
        return shown
    return answer.json["usage"]


def asking(stream: bool) -> Json:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {}


# Numbers


COUNTED: dict[str, tuple[Any, int]] = {
    # as the upstream says it, as it is believed
    "a number": (7, 7),
    "none": (0, 0),
    "less than none": (-5, 0),
    "far less than none": (-(10**30), 0),
    "the most": (MOST, MOST),
    "more than that": (MOST + 1, MOST),
    "more than a database takes": (2**63, MOST),
    "more than anybody takes": (10**30, MOST),
    "a whole number with a point": (3.0, 3),
    "a huge one with a point": (1e300, MOST),
    "without end": (float("inf"), MOST),
    "without beginning": (float("-inf"), 0),
    "no number": (float("nan"), 0),
    "null": (None, 0),
    "text": ("7", 0),
    "a list": ([7], 0),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_number_of_tokens_is_one_that_everybody_can_hold(name: str) -> None:
    result, believed = COUNTED[name]
    tokens = count(
        usage(
            prompt_tokens=result,
            completion_tokens=result,
            prompt_tokens_details={"cached_tokens": result},
            completion_tokens_details={"reasoning_tokens": result},
        )
    )
    assert (tokens.prompt, tokens.completion) == (believed, believed)
    assert (tokens.cached, tokens.reasoning) == (believed, believed)


def _literal(number: str) -> Script:
    result = (
        f'{{"prompt_tokens":{number},"completion_tokens":2,"total_tokens":{number},'
        f'"prompt_tokens_details":{{"cached_tokens":{number}}}}}'
    )
    return script(*AB, FINISH, Step(raw=f'data: {{"choices":[],"usage":{result}}}\n\n'), DONE)


@BOTH
@pytest.mark.parametrize(
    ("number", "believed"),
    [("-5", 0), (str(2**63), MOST), ("1" + "0" * 30, MOST), ("1e300", MOST), ("2.5", 2)],
    ids=["negative", "over 63 bits", "thirty digits", "an exponent", "a fraction"],
)
async def test_a_call_with_an_impossible_number_has_its_row(
    tmp_path: Path, scripted: MockServer, number: str, believed: int, stream: bool
) -> None:
    """One upstream that cannot count does not end the accounts of all others."""
    scripts = {"it": _literal(number), "happy": SCRIPTS["happy"]}
    async with fronting(tmp_path, scripted, scripts) as legato:
        answer = await ask(legato.port, legato.key, chat("it", **asking(stream)))
        assert (await ask(legato.port, legato.key, chat("happy"))).status == 200
        await until(lambda: not legato.server.server_state.tasks, "the calls are settled")
        odd, happy = await legato.rows()
    shown = told(answer, stream=stream)
    assert shown["prompt_tokens"] == believed
    assert shown["completion_tokens"] == 2
    assert all(isinstance(shown[f"{kind}_tokens"], int) for kind in ("prompt", "total"))
    assert 0 <= shown["total_tokens"] <= MOST
    assert (odd["outcome"], odd["prompt_from"]) == ("complete", "exact")
    assert (odd["prompt_tokens"], odd["cached_tokens"]) == (believed, believed)
    assert odd["completion_tokens"] == 2
    assert (happy["outcome"], happy["prompt_tokens"]) == ("complete", 7)


@BOTH
async def test_a_number_that_no_float_holds_is_no_harm(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    """Read as the most there is, or as JSON that is none; written down in either case."""
    answer, row = await answered(tmp_path, scripted, _literal("1" + "0" * 350), {"stream": stream})
    if row["outcome"] == "complete":
        assert answer.done if stream else answer.status == 200
        assert 0 <= row["prompt_tokens"] <= MOST
    else:
        assert answer.error is not None
        assert answer.error["code"] == row["error"] == "upstream_malformed"


async def test_names_that_are_no_text_do_not_reach_the_database(
    tmp_path: Path, scripted: MockServer
) -> None:
    """Half of a surrogate pair is legal JSON, and nothing that could be written down."""
    odd = r"\ud83d"
    first = f'{{"id":"x{odd}","choices":[{{"index":0,"delta":{{"content":"a"}}}}]}}'
    error = f'{{"error":{{"message":"no{odd}","code":"c{odd}","type":"t{odd}"}}}}'
    scripts = {
        "id": script(Step(raw=f"data: {first}\n\n"), FINISH, DONE),
        "error": script(Step(raw=f"data: {error}\n\n")),
        "late error": script(*AB, Step(raw=f"data: {error}\n\n")),
        "refusal": Script(status=500, headers={"x": "y"}, steps=[Step(raw=error)]),
    }
    scripts = {name.replace(" ", "-"): each for name, each in scripts.items()}
    async with fronting(tmp_path, scripted, scripts) as legato:
        for name in scripts:
            for stream in (True, False):
                answer = await ask(legato.port, legato.key, chat(name, stream=stream))
                answer.body.decode()
        await until(lambda: not legato.server.server_state.tasks, "the calls are settled")
        rows = await legato.rows()
    assert len(rows) == 2 * len(scripts)
    assert all(row["outcome"] in ("complete", "failed") for row in rows)


# The ledger's writer


class Unwritable:
    """What no database has a type for."""


BAD_ROWS: dict[str, Json] = {
    "a number over 63 bits": {"prompt_tokens": 2**70},
    "nothing where there must be something": {"outcome": None},
    "an object": {"error": Unwritable()},
    "half a surrogate pair": {"upstream_id": "\ud83d"},
}


@pytest.mark.parametrize("name", BAD_ROWS)
async def test_a_row_that_no_database_takes_is_changed_alone(tmp_path: Path, name: str) -> None:
    """It is reported and made to fit, and takes neither its neighbours along nor what comes after
    it."""
    database = await Database.open(tmp_path)
    reported: list[BaseException] = []
    writer = Writer(database, reported.append)

    async def written() -> set[str]:
        return {row["id"] for row in (await summary(database, 0))["rows"]}

    bad = Row("bad", 0.0)
    for column, value in BAD_ROWS[name].items():
        setattr(bad, column, value)
    for row in (Row("before", 0.0), bad, Row("behind", 0.0)):
        writer.put(row.id, row)
    await until(lambda: reported, "the row is reported")
    await writer.flush()
    assert await written() == {"before", "bad", "behind"}
    writer.put("later", Row("later", 0.0))
    await writer.flush()
    await writer.stop()
    assert await written() == {"before", "bad", "behind", "later"}
    assert len(reported) == 1
    await database.close()


async def test_a_database_that_is_away_for_a_while_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path)
    reported: list[BaseException] = []
    writer = Writer(database, reported.append)
    away(database, monkeypatch, times=3)
    writer.put("one", Row("one", 0.0))
    for _ in range(3):
        with pytest.raises(OSError, match="disk"):
            await writer.flush()
    writer.put("two", Row("two", 0.0))
    await writer.stop()
    assert len((await summary(database, 0))["rows"]) == 2
    await database.close()


async def test_a_database_that_is_back_is_written_to_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.store.ledger.RETRY_SECONDS", 0.01)
    database = await Database.open(tmp_path)
    states: list[BaseException | None] = []
    writer = Writer(database, lambda error: pytest.fail(str(error)), states.append)
    away(database, monkeypatch, times=3)
    writer.put("one", Row("one", 0.0))
    await until(lambda: states, "the first failure is reported")
    assert not writer.is_reachable
    writer.put("two", Row("two", 0.0))
    while len((await summary(database, 0))["rows"]) < 2:
        pass
    await until(lambda: writer.is_reachable, "the database is back")
    assert [str(each) for each in states] == ["the disk is gone", "None"]
    writer.put("three", Row("three", 0.0))
    while len((await summary(database, 0))["rows"]) < 3:
        pass
    await writer.stop()
    await database.close()


def away(database: Database, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """So many times it cannot be written to."""
    write = database.write

    async def refuses(*args: Any) -> None:
        nonlocal times
        if times:
            times -= 1
            raise OSError("the disk is gone")
        await write(*args)

    monkeypatch.setattr(database, "write", refuses)


@pytest.mark.parametrize("way", ["stream", "whole", "refused", "leaves"])
async def test_whatever_closing_a_row_does_all_is_given_back(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The connection upstream, the call's task, its place at the deployment."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("it cannot be closed")

    bugs: list[BaseException] = []
    scripts = {name: SCRIPTS[name] for name in ("happy", "500", "stall")}
    name = {"refused": "500", "leaves": "stall"}.get(way, "happy")
    async with fronting(tmp_path, scripted, scripts) as legato:
        legato.app.services.on_bug = bugs.append
        monkeypatch.setattr("legato.gateway.call.complete", broken)
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat(name, stream=way in ("stream", "leaves"))))
            if way == "leaves":
                await wire.head()
                await wire.chunk()
            else:
                answer = await wire.answer()
                assert answer.status == (502 if way == "refused" else 200)
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        await until(lambda: legato.busy == 0, "the connection upstream is given back")
        health = legato.app.services.router.health.values()
        assert not any(each.busy for each in health)
        assert [row["outcome"] for row in await legato.rows()] == ["failed"]
        assert [str(each) for each in bugs] == ["it cannot be closed"]
        monkeypatch.undo()
        assert (await ask(legato.port, legato.key, chat("happy", stream=True))).done
        # Nobody keeps its row back: it is in the database, as far as it is known.
        assert len(await legato.rows()) == 2


# Several choices

TWO: Json = {"n": 2}
ONE_OF_TWO = (Step(say="one"), FINISH)


@BOTH
@pytest.mark.parametrize("end", [(Step(usage=usage()), DONE), (DONE,), ()], ids=len)
async def test_fewer_choices_than_asked_for_are_no_answer(
    tmp_path: Path, scripted: MockServer, stream: bool, end: tuple[Step, ...]
) -> None:
    played = script(*ONE_OF_TWO, *end)
    answer, row = await answered(tmp_path, scripted, played, TWO | {"stream": stream})
    assert answer.error is not None
    assert answer.error["code"] == "upstream_incomplete"
    if stream:
        assert answer.text() == "one"
        assert b"[DONE]" not in answer.body
    else:
        assert answer.status == 502
    assert (row["outcome"], row["error"]) == ("failed", "upstream_incomplete")


@BOTH
async def test_a_choice_that_begins_late_is_not_cut_off(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The first one's finish is not the answer's: nothing is waiting for the end of the body."""
    monkeypatch.setattr("legato.gateway.dispatch.LINGER", 0.1)
    played = script(
        *ONE_OF_TWO,
        Step(wait=0.5),
        Step(say="two", choice=1),
        Step(finish="stop", choice=1),
        Step(usage=usage()),
        DONE,
    )
    more: Json = {"streams.heartbeat_seconds": 0.1, "streams.gate_seconds": 0.1}
    answer, row = await answered(tmp_path, scripted, played, TWO | {"stream": stream}, **more)
    if stream:
        assert answer.done
        assert [answer.text(index) for index in (0, 1)] == ["one", "two"]
        assert [answer.finishes(index) for index in (0, 1)] == [["stop"], ["stop"]]
    else:
        contents = [each["message"]["content"] for each in answer.json["choices"]]
        assert contents == ["one", "two"]
    assert (row["outcome"], row["completion_from"]) == ("complete", "exact")


@BOTH
async def test_a_choice_that_never_begins_is_a_stall(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    played = script(*ONE_OF_TWO, Step(stall=True))
    answer, row = await answered(
        tmp_path, scripted, played, TWO | {"stream": stream}, deploy={"stall_seconds": 0.2}
    )
    assert answer.error is not None
    assert answer.error["code"] == row["error"] == "upstream_stalled"


# The end of the body


def quick_end(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long the end of the body may come behind the finish."""
    monkeypatch.setattr("legato.gateway.dispatch.LINGER", seconds)


@BOTH
@pytest.mark.parametrize("wait", [0.0, 0.5], ids=["at once", "after a while"])
async def test_an_answer_ends_soon_after_its_finish(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch, wait: float, stream: bool
) -> None:
    """Without any other timer that would look after it: gate and heartbeats are far off."""
    quick_end(monkeypatch, 0.2)
    played = script(*AB, Step(wait=wait), FINISH, Step(stall=True))
    async with fronting(tmp_path, scripted, {"it": played}) as legato:
        asked = time.monotonic()
        answer = await ask(legato.port, legato.key, chat("it", stream=stream))
        took = time.monotonic() - asked
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        (row,) = await legato.rows()
    assert answer.done if stream else answer.json["choices"][0]["message"]["content"] == "ab"
    assert wait + 0.2 <= took < wait + 3.0
    assert (row["outcome"], row["completion_from"]) == ("complete", "counted")


@BOTH
async def test_usage_that_comes_soon_after_the_finish_is_taken(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The time runs from the finish, not from the last text; and however often it is looked at."""
    quick_end(monkeypatch, 1.0)
    result = usage(completion_tokens=77, total_tokens=84)
    played = script(*AB, Step(wait=1.2), FINISH, Step(wait=0.3), Step(usage=result), DONE)
    more: Json = {"streams.heartbeat_seconds": 0.05, "streams.gate_seconds": 0.05}
    answer, row = await answered(tmp_path, scripted, played, asking(stream), **more)
    assert told(answer, stream=stream)["completion_tokens"] == 77
    assert (row["completion_tokens"], row["completion_from"]) == (77, "exact")


async def test_an_end_that_is_held_back_for_a_client_comes_all_the_same(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's line is full in the read that brings the finish: it is we who do not read on,
    and the usage behind it is no later for that."""
    quick_end(monkeypatch, 0.3)
    fat = "x" * 4_000_000
    last = "".join(
        f"data: {json.dumps(HEAD | {'choices': [each]})}\n\n"
        for each in (choice({"content": "y" * 3_000}), choice(finish="stop"))
    )
    steps = (Step(wait=0.2), Step(raw=last), Step(wait=0.5), Step(usage=usage()), DONE)
    played = script(Step(say=fat), *steps)
    async with fronting(tmp_path, scripted, {"it": played}) as legato:
        narrow_lines(legato)
        legato.app.services.backlog_bytes = 2_000
        state = legato.server.server_state
        async with await narrow(legato.port) as wire:
            wire.send(request(legato.key, chat("it", **asking(stream=True))))
            is_full = lambda: any(each.write_paused for each in state.connections)  # noqa: E731
            await until(is_full, "the client's line is full")
            await until(
                lambda: scripted.requests[-1].is_complete, "the upstream has sent all of it"
            )
            assert state.tasks, "the call ended without what the upstream sent"
            answer = await wire.answer()
        await until(lambda: not state.tasks, "the call is settled")
        (row,) = await legato.rows()
    checked = check_body(answer.body, wants_usage=True)
    assert checked.done
    assert len(checked.choices[0]["content"]) == len(fat) + 3_000
    assert checked.usage is not None
    assert checked.usage["completion_tokens"] == 2
    assert (row["completion_tokens"], row["completion_from"]) == (2, "exact")


# Padding of others

PADDED = [
    chunk(choice({"content": "a"}), obfuscation="x"),
    chunk(choice({"content": "b"}), obfuscation="xyz"),
    chunk(choice({"content": "c"}), obfuscation="xy", provider="Somebody"),
    chunk(choice({"content": "d"}), obfuscation=None),
]
OBFUSCATED = script(
    *PADDED,
    chunk(choice(finish="stop"), obfuscation="zzz"),
    chunk(usage=usage(), obfuscation="zz"),
    DONE,
)


@BOTH
async def test_an_upstream_s_padding_never_reaches_a_client(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    answer, _ = await answered(tmp_path, scripted, OBFUSCATED, asking(stream))
    assert b"obfuscation" not in answer.body
    assert b"Somebody" in answer.body  # others that nobody knows do
    if stream:
        assert check_body(answer.body, wants_usage=True).choices[0]["content"] == "abcd"
    else:
        assert answer.json["choices"][0]["message"]["content"] == "abcd"


async def test_a_client_that_wants_padding_gets_ours(tmp_path: Path, scripted: MockServer) -> None:
    """One member a frame, and every frame of the same size."""
    body = {"stream": True, "stream_options": {"include_obfuscation": True}}
    answer, _ = await answered(tmp_path, scripted, OBFUSCATED, body)
    assert answer.done
    texts = [
        frame
        for frame in answer.frames
        if b'"content":"' in frame and b'"role"' not in frame and b"Somebody" not in frame
    ]
    assert len(texts) == 3
    assert all(frame.count(b'"obfuscation"') == 1 for frame in texts)
    assert len({len(frame) for frame in texts}) == 1


@pytest.mark.parametrize("provider", ["openai", None])
@pytest.mark.parametrize("wanted", [None, True, False])
async def test_openai_is_told_not_to_pad(
    tmp_path: Path, scripted: MockServer, provider: str | None, wanted: bool | None
) -> None:
    """Others may not know the word, and are not told it, whatever the client says."""
    options = {} if wanted is None else {"stream_options": {"include_obfuscation": wanted}}
    deploy: Json = {} if provider is None else {"provider": provider}
    answer, _ = await answered(
        tmp_path, scripted, SCRIPTS["happy"], {"stream": True} | options, deploy=deploy
    )
    assert answer.done
    result = scripted.requests[-1].request["stream_options"]
    assert result["include_usage"] is True
    assert ("include_obfuscation" in result) is (provider == "openai")
    assert not result.get("include_obfuscation")


# Waits

DAY = 86_400

WAITS: dict[str, tuple[str, int, int]] = {
    # `Retry-After`; the least and the most that a client is told
    "seconds": ("7", 7, 7),
    "a decimal": ("1.5", 1, 2),
    "a small decimal": ("0.2", 1, 1),
    "nothing": ("0", 1, 1),
    "less than nothing": ("-5", 1, 1),
    "a day": ("86400", DAY, DAY),
    "more than a day": ("86401", DAY, DAY),
    "a century": ("3155760000", DAY, DAY),
    "four hundred nines": ("9" * 400, DAY, DAY),
    "an exponent": ("1e9", DAY, DAY),
    "without end": ("Infinity", 1, DAY),
    "no number": ("nan", 1, 1),
    "odd digits": ("²", 1, DAY),
    "digits of another script": ("٣", 1, DAY),
    "words": ("soon", 1, 1),
    "empty": ("", 1, 1),
    "a date that has been": ("Sun, 06 Nov 1994 08:49:37 GMT", 1, 1),
    "a date of the far future": ("Sun, 06 Nov 9994 08:49:37 GMT", DAY, DAY),
    "a year with five digits": ("Sun, 06 Nov 99999 08:49:37 GMT", 1, DAY),
    "half a date": ("Sun, 06 Nov", 1, DAY),
}


async def test_a_retry_after_is_a_whole_number_up_to_a_day(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripts = {
        f"wait-{number}": Script(status=429, headers={"retry-after": wait}, body="{}")
        for number, (wait, _, _) in enumerate(WAITS.values())
    }
    async with fronting(tmp_path, scripted, scripts) as legato:
        for number, (name, (_, least, most)) in enumerate(WAITS.items()):
            answer = await ask(legato.port, legato.key, chat(f"wait-{number}", stream=True))
            assert answer.status == 429, name
            assert answer.error is not None
            assert answer.error["code"] == "upstream_rate_limited", name
            assert least <= int(answer.headers["retry-after"]) <= most, name
        rows = await legato.rows()
    assert [row["error"] for row in rows] == ["upstream_rate_limited"] * len(WAITS)


async def test_a_date_is_told_in_seconds(tmp_path: Path, scripted: MockServer) -> None:
    then = {"retry-after": formatdate(time.time() + 100, usegmt=True)}
    answer, _ = await answered(tmp_path, scripted, Script(status=429, headers=then, body="{}"), {})
    assert 60 <= int(answer.headers["retry-after"]) <= 100


async def test_a_deployment_is_left_alone_for_five_minutes_at_most(
    tmp_path: Path, scripted: MockServer
) -> None:
    """With a circuit breaker the wait becomes its own: the server goes on, and says how long."""
    played = Script(status=429, headers={"retry-after": "9" * 400}, body="{}")
    async with fronting(tmp_path, scripted, {"it": played}, deploy={"open_after": 1}) as legato:
        for status, most in ((429, DAY), (503, 300)):
            answer = await ask(legato.port, legato.key, chat("it", stream=True))
            assert answer.status == status
            assert most - 60 <= int(answer.headers["retry-after"]) <= most


TOO_MANY = '{"error": {"message": "Slow down.", "type": "rate", "code": 429}}'
BUSY: dict[str, Script] = {
    "a status alone": Script(status=429, body="{}"),
    "a page": Script(status=429, headers={"content-type": "text/html"}, body="<h1>No</h1>"),
    "an error object": Script(status=429, body='{"error": {"message": "slow", "type": "rate"}}'),
    "a wait of nothing": Script(status=429, headers={"retry-after": "0"}, body="{}"),
    "200 with a JSON error": Script(body=TOO_MANY),
    "an error as first event": script(Step(raw=f"data: {TOO_MANY}\n\n")),
}


@BOTH
@pytest.mark.parametrize("name", BUSY)
async def test_a_429_always_says_when_to_come_again(
    tmp_path: Path, scripted: MockServer, name: str, stream: bool
) -> None:
    answer, _ = await answered(tmp_path, scripted, BUSY[name], {"stream": stream})
    assert answer.status == 429
    assert answer.error is not None
    assert answer.error["type"] == "rate_limit_error"
    assert int(answer.headers["retry-after"]) >= 1


@BOTH
async def test_a_429_of_one_of_several_requests_says_so_too(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    answer, _ = await answered(
        tmp_path,
        scripted,
        BUSY["a status alone"],
        {"n": 2, "stream": stream},
        deploy={"n": "fan-out"},
    )
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1


# Usage

USAGES: dict[str, tuple[Json, Json]] = {
    # as the upstream says it; what of it must be shown
    "all of it": (usage(), usage()),
    "two of three": (
        {"prompt_tokens": 1, "completion_tokens": 2},
        {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    ),
    "other names": (
        {"input_tokens": 1, "output_tokens": 2},
        {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    ),
    "no completion": ({"prompt_tokens": 5, "total_tokens": 9}, {"prompt_tokens": 5}),
    "completion alone": ({"completion_tokens": 2}, {"completion_tokens": 2}),
    "total alone": ({"total_tokens": 9}, {}),
    "a null": (usage(completion_tokens=None, total_tokens=7), {"prompt_tokens": 7}),
    "nulls": (usage(prompt_tokens=None, completion_tokens=None, total_tokens=None), {}),
    "points": (
        {"prompt_tokens": 3.0, "completion_tokens": 2.0, "total_tokens": 5.0},
        {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    ),
    "text": ({"prompt_tokens": "3", "completion_tokens": "2", "total_tokens": "5"}, {}),
    "a null in the details": (
        usage(completion_tokens_details={"reasoning_tokens": None}),
        usage(),
    ),
    "details alone": ({"prompt_tokens_details": {"cached_tokens": 3}}, {}),
    "empty": ({}, {}),
}
THREE = ("prompt_tokens", "completion_tokens", "total_tokens")


def has_three_numbers(shown: Json) -> None:
    for name in THREE:
        assert type(shown[name]) is int, (name, shown)
        assert 0 <= shown[name] <= MOST


@pytest.mark.parametrize("name", USAGES)
async def test_a_usage_always_has_its_three_numbers(
    tmp_path: Path, scripted: MockServer, name: str
) -> None:
    result, wanted = USAGES[name]
    played = script(*AB, FINISH, Step(usage=result), DONE)
    running = {"include_usage": True, "continuous_usage_stats": True}
    async with fronting(tmp_path, scripted, {"it": played}) as legato:
        streamed = await ask(legato.port, legato.key, chat("it", **asking(stream=True)))
        folded = await ask(legato.port, legato.key, chat("it"))
        each = await ask(legato.port, legato.key, chat("it", stream=True, stream_options=running))
    shown = told(streamed, stream=True)
    assert shown == told(folded, stream=False) == each.chunks[-1]["usage"]
    has_three_numbers(shown)
    assert {name: shown[name] for name in wanted if name in THREE} == {
        name: number for name, number in wanted.items() if name in THREE
    }
    for one in each.chunks:
        has_three_numbers(one["usage"])


# Members that nobody knows


EXTRAS: Json = {"citations": ["http://example.com/1"], "service_tier": "flex"}
CITED = script(Step(say="hi"), FINISH, chunk(usage=usage(), **EXTRAS), DONE)


async def test_what_comes_with_the_usage_is_with_the_usage(
    tmp_path: Path, scripted: MockServer
) -> None:
    async with fronting(tmp_path, scripted, {"it": CITED}) as legato:
        streamed = await ask(legato.port, legato.key, chat("it", **asking(stream=True)))
        without = await ask(legato.port, legato.key, chat("it", stream=True))
        folded = await ask(legato.port, legato.key, chat("it"))
    check_body(streamed.body, wants_usage=True)
    last = streamed.chunks[-1]
    assert last["choices"] == []
    for name, value in EXTRAS.items():
        assert last[name] == folded.json[name] == value
        assert not any(name in each for each in streamed.chunks[:-1])
    # Nobody who has not asked for usage gets a chunk without a choice.
    check_body(without.body)
    assert without.text() == "hi"


FILTERED: Json = {
    "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
    "content_filter_offsets": {"start_offset": 1},
}
BARE: dict[str, Json] = {
    "no delta": {"index": 0, "finish_reason": None},
    "a null": {"index": 0, "finish_reason": None, "delta": None},
    "an empty delta": {"index": 0, "finish_reason": None, "delta": {}},
    "no finish reason": {"index": 0},
}


@pytest.mark.parametrize("name", BARE)
async def test_a_choice_without_a_delta_says_what_it_has_to_say(
    tmp_path: Path, scripted: MockServer, name: str
) -> None:
    """Azure's word on what it filters comes in a chunk of its own."""
    bare = BARE[name] | FILTERED
    played = script(Step(say="hi"), chunk(bare), FINISH, Step(usage=usage()), DONE)
    async with fronting(tmp_path, scripted, {"it": played}) as legato:
        streamed = await ask(legato.port, legato.key, chat("it", stream=True))
        folded = await ask(legato.port, legato.key, chat("it"))
        rows = await legato.rows()
    checked = check_body(streamed.body)
    assert checked.choices[0]["content"] == "hi"
    (shown,) = [
        each["choices"][0]
        for each in checked.chunks
        if "content_filter_results" in each["choices"][0]
    ]
    (whole,) = folded.json["choices"]
    assert shown["delta"] == {}
    assert shown["finish_reason"] is None
    for name, value in FILTERED.items():
        assert shown[name] == whole[name] == value
    assert whole["message"]["content"] == "hi"
    assert [row["completion_tokens"] for row in rows] == [2, 2]


@BOTH
@pytest.mark.parametrize("place", [0, 2], ids=["first", "behind the finish"])
async def test_such_a_choice_is_no_answer_and_no_harm_elsewhere(
    tmp_path: Path, scripted: MockServer, place: int, stream: bool
) -> None:
    steps = [Step(say="hi"), FINISH, Step(usage=usage()), DONE]
    steps.insert(place, chunk(BARE["no delta"] | FILTERED))
    answer, row = await answered(tmp_path, scripted, script(*steps), asking(stream))
    if stream:
        assert check_body(answer.body, wants_usage=True).choices[0]["content"] == "hi"
    else:
        assert answer.json["choices"][0]["message"]["content"] == "hi"
    assert row["outcome"] == "complete"


# Clients that have left


@pytest.mark.parametrize("after", [None, 0.3], ids=["while it waits", "behind its head"])
async def test_a_drained_call_that_fails_is_settled_at_once(
    tmp_path: Path, scripted: MockServer, after: float | None
) -> None:
    """There is nothing under way that would be worth waiting for: neither where the upstream
    refuses after its client has left, nor between two attempts."""
    played = Script(status=500, body="{}", head_after=after or 0.0)
    deploy = {"on_disconnect": "drain", "drain_seconds": 60.0}
    async with fronting(
        tmp_path, scripted, {"it": played}, attempts=3 if after is None else 1, deploy=deploy
    ) as legato:
        monotonic = time.monotonic
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("it", stream=True)))
            await until(lambda: scripted.requests, "the upstream was asked")
            if after is None:
                await until(lambda: scripted.requests[-1].is_complete, "it has refused")
            wire.writer.transport.abort()
        left = monotonic()
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        assert monotonic() - left < 5.0
        (row,) = await legato.rows()
    assert row["outcome"] == "cancelled"
    assert row["completion_tokens"] == 0


# Errors


ERROR = '{"error": {"message": "The GPU fell off.", "type": "server_error", "code": "gpu_lost"}}'
PRETTY = json.dumps(json.loads(ERROR), indent=2)
STREAMED = {"content-type": "text/event-stream"}
BARE_ERRORS: dict[str, Script] = {
    "as it stands": Script(headers=STREAMED, steps=[Step(raw=ERROR)]),
    "with a line end": Script(headers=STREAMED, steps=[Step(raw=ERROR + "\n")]),
    "with a blank line": Script(headers=STREAMED, steps=[Step(raw=ERROR + "\n\n")]),
    "over several lines": Script(headers=STREAMED, steps=[Step(raw=PRETTY)]),
    "byte by byte": Script(headers=STREAMED, steps=[Step(raw=ERROR)], pieces=1),
    "as text": Script(headers={"content-type": "text/plain"}, steps=[Step(raw=ERROR)]),
    "to the end of the connection": Script(
        headers=STREAMED, steps=[Step(raw=ERROR)], framing="close"
    ),
    "as JSON": Script(headers={"content-type": "application/json"}, steps=[Step(raw=ERROR)]),
}


@BOTH
@pytest.mark.parametrize("name", BARE_ERRORS)
async def test_an_error_in_the_place_of_a_stream_is_told(
    tmp_path: Path, scripted: MockServer, name: str, stream: bool
) -> None:
    answer, row = await answered(tmp_path, scripted, BARE_ERRORS[name], {"stream": stream})
    assert answer.status == 502
    assert answer.error is not None
    assert answer.error["code"] == row["error"] == "gpu_lost"
    assert answer.error["message"] == "The GPU fell off. Try again later."


@BOTH
async def test_such_an_error_may_be_the_caller_s(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    error = '{"error": {"message": "This is too much.", "code": "context_length_exceeded"}}'
    played = Script(headers=STREAMED, steps=[Step(raw=error)])
    answer, row = await answered(tmp_path, scripted, played, {"stream": stream})
    assert answer.status == 400
    assert answer.error is not None
    assert answer.error["code"] == row["error"] == "context_length_exceeded"


@BOTH
@pytest.mark.parametrize("nothing", [None, "", {}, False], ids=str)
async def test_an_error_that_says_nothing_is_none(
    tmp_path: Path, scripted: MockServer, nothing: Any, stream: bool
) -> None:
    """Some have the member in every event, and as the body of an answer in one piece."""
    events = script(
        chunk(choice({"content": "a"}), error=nothing),
        chunk(choice({"content": "b"}), error=nothing),
        chunk(choice(finish="stop"), error=nothing),
        chunk(usage=usage(), error=nothing),
        DONE,
    )
    message = {"role": "assistant", "content": "ab"}
    result = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = Script(body=json.dumps({"choices": [result], "usage": usage(), "error": nothing}))
    async with fronting(tmp_path, scripted, {"events": events, "whole": whole}) as legato:
        for name in ("events", "whole"):
            answer = await ask(legato.port, legato.key, chat(name, stream=stream))
            assert answer.status == 200
            if stream:
                assert check_body(answer.body).choices[0]["content"] == "ab"
            else:
                assert answer.json["choices"][0]["message"]["content"] == "ab"
            assert b'"error"' not in answer.body


FINISHES = {
    "STOP": "stop",
    "Stop": "stop",
    "end": "stop",
    "END": "stop",
    "EOS": "stop",
    "LENGTH": "length",
    "MAX_TOKENS": "length",
    "Tool_Calls": "tool_calls",
    "safety": "content_filter",
    "SAFETY": "content_filter",
    "recitation": "content_filter",
    "RECITATION": "content_filter",
    "CONTENT_FILTER": "content_filter",
}


async def test_finish_reasons_are_read_in_any_case(tmp_path: Path, scripted: MockServer) -> None:
    scripts = {f"finish-{theirs}": script(*AB, Step(finish=theirs), DONE) for theirs in FINISHES}
    async with fronting(tmp_path, scripted, scripts) as legato:
        for theirs, word in FINISHES.items():
            for stream in (True, False):
                answer = await ask(legato.port, legato.key, chat(f"finish-{theirs}", stream=stream))
                assert answer.status == 200, theirs
                if stream:
                    assert answer.done, theirs
                    assert answer.finishes() == [word], theirs
                else:
                    assert answer.json["choices"][0]["finish_reason"] == word, theirs


@BOTH
@pytest.mark.parametrize("theirs", ["ABORT", "Error", "exploded"])
async def test_one_that_says_nothing_we_know_is_still_a_failure(
    tmp_path: Path, scripted: MockServer, theirs: str, stream: bool
) -> None:
    played = script(*AB, Step(finish=theirs), DONE)
    answer, _ = await answered(tmp_path, scripted, played, {"stream": stream})
    assert answer.error is not None
    assert answer.error["code"] == "upstream_aborted"


NAMELESS = script(
    Step(raw='data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'),
    Step(raw='data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'),
    DONE,
)


@pytest.mark.parametrize(
    ("first", "then", "shown"),
    [
        (NAMELESS, NAMELESS, None),
        (NAMELESS, SCRIPTS["happy"], "scripted-1"),
        (SCRIPTS["happy"], NAMELESS, "scripted-1"),
        (SCRIPTS["happy"], SCRIPTS["happy"], "scripted-1,scripted-1"),
    ],
    ids=["none", "the second", "the first", "both"],
)
async def test_the_names_of_several_answers(
    tmp_path: Path, scripted: MockServer, first: Script, then: Script, shown: str | None
) -> None:
    """With commas between those that there are."""
    played = Script(steps=first.steps, then=then)
    _, row = await answered(
        tmp_path, scripted, played, {"n": 2, "stream": True}, deploy={"n": "fan-out"}
    )
    assert row["outcome"] == "complete"
    assert row["upstream_id"] == shown


CODES: dict[str, Any] = {
    "long": "x" * 5_000,
    "long, with spaces": "no good " * 1_000,
    "line ends": "a\r\nb\n\nc",
    "controls": "a\x00b\x1b[31mc",
    "separators": "a\u2028b\u2029c\x85d",
    "spaces alone": "   ",
    "empty": "",
    "a number": 12_345_678_901_234_567_890,
    "a list": ["a"],
    "an object": {"a": "b"},
}


@pytest.mark.parametrize("name", CODES)
async def test_an_error_s_code_is_short_and_printable(
    tmp_path: Path, scripted: MockServer, name: str
) -> None:
    """As a status, in a frame, in the ledger: whichever way it came."""
    error = {"message": "no", "type": "server_error", "code": CODES[name]}
    body = json.dumps({"error": error})
    scripts = {
        "first": script(Step(error=error)),
        "late": script(*AB, Step(error=error)),
        "body": Script(body=body),
        "refusal": Script(status=500, body=body),
        "caller": Script(status=400, body=body),
    }
    async with fronting(tmp_path, scripted, scripts) as legato:
        codes: list[Any] = []
        for each in scripts:
            answer = await ask(legato.port, legato.key, chat(each, stream=True))
            assert answer.error is not None
            codes.append(answer.error["code"])
        await until(lambda: not legato.server.server_state.tasks, "the calls are settled")
        rows = await legato.rows()
    assert [row["error"] for row in rows] == codes
    for code in codes:
        assert isinstance(code, str)
        assert 0 < len(code) <= 64
        assert code.isprintable()
    if name == "long":
        assert codes[0] == codes[1] == codes[2] == "x" * 64


# The scripted upstream itself

NO_JSON: dict[str, bytes] = {
    "half an object": b'{"model": "happy", ',
    "text": b"hello",
    "nothing": b"",
    "not UTF-8": b'{"model": "\xff"}',
    "no object": b'["happy"]',
}


@pytest.mark.parametrize("name", NO_JSON)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_a_body_that_is_no_json_is_refused_by_the_mock(
    scripted: MockServer, name: str, path: str
) -> None:
    """In words that tell what is wrong; the connection is as good as before."""
    port = int((await scripted.start()).split(":")[2].split("/")[0])
    async with await Wire.open(port) as wire:
        wire.send(request(None, NO_JSON[name], path=path))
        answer = await wire.answer()
        assert answer.status == 400
        assert "JSON" in json.dumps(answer.json["error"])
        wire.send(request(None, chat("happy", stream=True)))
        assert (await wire.answer()).text() == HAPPY
    assert [each.model for each in scripted.requests] == ["happy"]
