"""`legato models check`: every deployment of the settings asked once, the way the server asks."""

import asyncio
import json
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from msgspec import Struct

from legato.cli.conversation import clean
from legato.cli.terminal import settings, stop
from legato.core.dialect import Dialect
from legato.core.errors import ApiError, gateway_timeout
from legato.core.front import AnswerHead
from legato.core.request import parse
from legato.core.stream import Stream
from legato.core.usage import count
from legato.fronts.chat_aggregator import ChatAggregator
from legato.gateway.attempt import SPENT
from legato.server import assembly
from legato.settings import Deployment, SettingsError
from legato.upstreams.upstream import Upstream

#: Codes that mean that nobody was there.
_AWAY: Final = ("upstream_unreachable", "upstream_connect_timeout", "upstream_tls")
_REFUSED: Final = ("upstream_401", "upstream_403")

_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time of day.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_QUESTION: Final = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
_FORCED: Final = {
    "messages": [{"role": "user", "content": "What time is it?"}],
    "max_tokens": 128,
    "tools": [_TOOL],
    "tool_choice": {"type": "function", "function": {"name": "get_time"}},
}


class Checked(Struct):
    """What a deployment was found to do; None: that did not show. Times in seconds."""

    deployment: str
    model: str
    ok: bool = False  # a stream came through to its end
    reachable: bool | None = None
    auth: bool | None = None  # every key of ours is taken
    listed: bool | None = None  # the model is in its list; not all are that answer
    ttft: float | None = None
    tokens_per_second: float | None = None
    reasoning: bool | None = None
    usage: bool | None = None  # it says how many tokens there were
    tools: bool | None = None  # a call that was demanded came
    problems: list[str] = []


def run(config: Path | None, as_json: bool, seconds: float) -> None:
    """Ends the program with 1 where a deployment is not all right."""
    wanted = settings(config).deployments
    if not wanted:
        stop("there are no [[deployments]] in the settings", 2)
    try:
        found = asyncio.run(check_all(wanted, seconds))
    except (SettingsError, OSError) as error:  # a certificate that cannot be read
        stop(error, 2)
    if as_json:
        print(json.dumps([msgspec.to_builtins(each) for each in found]))
    else:
        _show(found)
    if not all(each.ok for each in found):
        raise SystemExit(1)


async def check_all(wanted: Sequence[Deployment], seconds: float) -> list[Checked]:
    """In their order. Those of one server are asked one after the other: none slows another."""
    servers: dict[str, list[Deployment]] = {}
    for each in wanted:
        servers.setdefault(each.endpoint.authority, []).append(each)

    async def in_turn(server: list[Deployment]) -> list[Checked]:
        return [await check_one(each, seconds) for each in server]

    done = await asyncio.gather(*map(in_turn, servers.values()))
    found = {each.deployment: each for group in done for each in group}
    return [found[each.name] for each in wanted]


async def check_one(wanted: Deployment, seconds: float) -> Checked:
    found = Checked(wanted.name, wanted.model, problems=[])
    upstream = assembly.upstream(wanted, time.monotonic)
    try:
        await _list_models(wanted, upstream.dialect, found, seconds)
        if found.reachable is not False:
            await _stream(upstream, found, seconds)
    finally:
        if upstream.target is not None:
            upstream.target.pool.close()
    return found


# The list of models


async def _list_models(
    wanted: Deployment, dialect: Dialect, found: Checked, seconds: float
) -> None:
    """Each key is tried: a bad one among several shows only when the others are used up."""
    url = wanted.endpoint.url(dialect.models_path())
    keys = wanted.credentials
    async with _client(wanted, seconds) as client:
        for number, key in enumerate(keys, 1):
            try:
                response = await client.get(url, headers=dialect.headers(key))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                found.reachable = False
                shown = url.partition("?")[0]
                found.problems.append(f"{shown} cannot be reached: {error or 'no answer in time'}")
                return
            except httpx.HTTPError as error:
                found.problems.append(f"its list of models did not come: {_name(error)}")
                return
            found.reachable = True
            if response.status_code in (401, 403):
                found.auth = False
                which = f"key {number} of {len(keys)}" if len(keys) > 1 else "its key"
                found.problems.append(f"{which} is refused ({response.status_code})")
            elif response.status_code == 200:
                found.auth = found.auth is not False
                found.listed = _is_listed(wanted.model, dialect, response.content)


def _client(wanted: Deployment, seconds: float) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=wanted.ca_file)
    if wanted.client_cert:
        context.load_cert_chain(wanted.client_cert, wanted.client_key)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(seconds, connect=wanted.connect_seconds),
        verify=context,
        proxy=None if wanted.proxy in (None, "none") else wanted.proxy,
        trust_env=wanted.proxy is None,
    )


def _name(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_listed(model: str, dialect: Dialect, body: bytes) -> bool | None:
    """Ollama lists `llama3` as `llama3:latest`."""
    try:
        names = dialect.models(body)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        return None
    return model in names or f"{model}:latest" in names


# The answers


async def _stream(upstream: Upstream, found: Checked, seconds: float) -> None:
    for left in reversed(range(upstream.credentials)):
        try:
            stream, _ = await _ask(upstream, _QUESTION, seconds)
            break
        except ApiError as error:
            if error.code not in SPENT or not left:
                _explain(error, found)
                return
            upstream.rotate(upstream.credential)
    else:
        return
    found.reachable = True
    found.auth = found.auth is not False
    found.ok = found.auth
    timings = stream.timings
    found.ttft = timings.ttft
    found.usage = stream.usage.reported is not None
    found.reasoning = timings.reasoning > 0
    tokens = count(stream.usage.reported or {}).completion or timings.pieces
    if timings.first is not None and timings.last > timings.first:
        found.tokens_per_second = (tokens - 1) / (timings.last - timings.first)
    found.tools = await _calls(upstream, _FORCED, seconds)


async def _calls(upstream: Upstream, fields: dict[str, Any], seconds: float) -> bool:
    """Whether a call comes; where none can be demanded, whether one comes of itself."""
    try:
        _, collector = await _ask(upstream, fields, seconds)
    except ApiError as error:
        free = {name: said for name, said in fields.items() if name != "tool_choice"}
        if error.param != "tool_choice" or free == fields:
            return False
        return await _calls(upstream, free, seconds)
    return b'"tool_calls":[{' in collector.answer(AnswerHead("", 0, ""))


class _Listener:
    """Waits for the end of a stream (`core.subscriber.Listener`)."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def stream_opened(self) -> None: ...
    def stream_finished(self) -> None: ...
    def stream_closed(self) -> None:
        self.closed.set()


async def _ask(
    upstream: Upstream, fields: dict[str, Any], seconds: float
) -> tuple[Stream, ChatAggregator]:
    """An answer that came through to its end. Raises `ApiError`."""
    body = msgspec.json.encode(fields | {"model": upstream.name, "stream": True})
    listener = _Listener()
    stream = Stream(time.monotonic, time.monotonic(), listener)
    collector = ChatAggregator()
    stream.subscribe(collector)
    answer = None
    try:
        async with asyncio.timeout(seconds):
            answer = await upstream.send(body, parse(body), stream, stream.fail, fresh=True)
            await listener.closed.wait()
    except TimeoutError:
        raise gateway_timeout(f"No whole answer came within {seconds:g} s.") from None
    finally:
        if answer is not None:
            answer.abort()
    if stream.error is not None:
        raise stream.error
    return stream, collector


def _explain(error: ApiError, found: Checked) -> None:
    if error.code in _AWAY:
        found.reachable = False
    elif error.code in _REFUSED:
        if found.auth is False:
            return  # it has been said
        found.auth = False
    found.problems.append(f"{_WORDS.get(error.code, 'its stream failed')}: {error.message}")


_WORDS: Final = {
    **dict.fromkeys(_AWAY, "it cannot be reached"),
    **dict.fromkeys(_REFUSED, "its key is refused"),
    "upstream_404": "it does not have this model, or base_url is not right",
    "upstream_rate_limited": "its quota or rate limit is used up",
    "upstream_timeout": "it is too slow",
}


# The table


def _show(found: list[Checked]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("deployment", overflow="fold")
    for name in ("ok", "reached", "key", "listed"):
        table.add_column(name)
    for name in ("TTFT", "tok/s"):
        table.add_column(name, justify="right")
    for name in ("thinks", "usage", "tools"):
        table.add_column(name)
    for each in found:
        table.add_row(
            each.deployment,
            *map(_word, (each.ok, each.reachable, each.auth, each.listed)),
            "-" if each.ttft is None else f"{each.ttft:.3f} s",
            "-" if each.tokens_per_second is None else f"{each.tokens_per_second:.0f}",
            *map(_word, (each.reasoning, each.usage, each.tools)),
        )
    console = Console(highlight=False)
    console.print(table)
    for each in found:
        for problem in each.problems:
            console.print(clean(f"{each.deployment}: {problem}"), markup=False, style="red")


def _word(value: bool | None) -> str:
    return {None: "-", True: "yes", False: "no"}[value]
