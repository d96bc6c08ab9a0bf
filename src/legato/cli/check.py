"""`legato models check`: sends test requests to each configured deployment, as the server would."""

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

from legato.cli.terminal import clean, settings, stop
from legato.core.dialect import Dialect
from legato.core.errors import ApiError, gateway_timeout
from legato.core.front import AnswerHead
from legato.core.request import parse
from legato.core.stream import Stream
from legato.core.usage import count
from legato.fronts.chat_aggregator import ChatAggregator
from legato.gateway.attempt import SPENT
from legato.policy.model_names import ANY_MODEL
from legato.server import assembly
from legato.settings import Deployment, SettingsError
from legato.upstreams.upstream import Upstream

_UNREACHABLE: Final = ("upstream_unreachable", "upstream_connect_timeout", "upstream_tls")
_KEY_REFUSED: Final = ("upstream_401", "upstream_403")

_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time of day.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_TEXT_REQUEST: Final = {
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 16,
}
_TOOL_REQUEST: Final = {
    "messages": [{"role": "user", "content": "What time is it?"}],
    "max_tokens": 128,
    "tools": [_TOOL],
    "tool_choice": {"type": "function", "function": {"name": "get_time"}},
}


class CheckResult(Struct):
    """What a deployment supports; None: unknown. Times in seconds."""

    deployment: str
    model: str
    ok: bool = False  # a stream was complete, and all keys are valid
    reachable: bool | None = None
    auth: bool | None = None  # every configured key is accepted
    listed: bool | None = None  # the model is in the upstream's list; some usable models are not
    ttft: float | None = None
    tokens_per_second: float | None = None
    reasoning: bool | None = None
    usage: bool | None = None  # it reports token counts
    tools: bool | None = None  # it made the tool call that was required
    problems: list[str] = []


def run(config: Path | None, as_json: bool, seconds: float) -> None:
    """Checks all deployments and prints the results. Exits with 1 if one has a problem."""
    deployments = settings(config).deployments
    if not deployments:
        stop("there are no [[deployments]] in the settings", 2)
    try:
        results = asyncio.run(check_all(deployments, seconds))
    except (SettingsError, OSError) as error:  # a certificate that cannot be read
        stop(error, 2)
    if as_json:
        print(json.dumps([msgspec.to_builtins(each) for each in results]))
    else:
        _print_results(results)
    if not all(each.ok for each in results):
        raise SystemExit(1)


async def check_all(deployments: Sequence[Deployment], seconds: float) -> list[CheckResult]:
    """The results in the order of `deployments`. Deployments of one server are checked one after
    the other, so that they do not slow each other down."""
    servers: dict[str, list[Deployment]] = {}
    for each in deployments:
        servers.setdefault(each.endpoint.authority, []).append(each)

    async def check_server(server: list[Deployment]) -> list[CheckResult]:
        return [await check_one(each, seconds) for each in server]

    done = await asyncio.gather(*map(check_server, servers.values()))
    results = {each.deployment: each for group in done for each in group}
    return [results[each.name] for each in deployments]


async def check_one(deployment: Deployment, seconds: float) -> CheckResult:
    result = CheckResult(deployment.name, deployment.model, problems=[])
    upstream = assembly.upstream(deployment, time.monotonic)
    try:
        await _check_model_list(deployment, upstream.dialect, result, seconds)
        if deployment.model == ANY_MODEL:
            # Which model to ask for is not known.
            result.ok = result.reachable is True and result.auth is not False
        elif result.reachable is not False:
            await _check_stream(upstream, result, seconds)
    finally:
        if upstream.target is not None:
            upstream.target.pool.close()
    return result


# The list of models


async def _check_model_list(
    deployment: Deployment, dialect: Dialect, result: CheckResult, seconds: float
) -> None:
    """Sends a request with each key: the server would use the others only after the first fails."""
    url = deployment.endpoint.url(dialect.models_path())
    keys = deployment.credentials
    async with _client(deployment, seconds) as client:
        for number, key in enumerate(keys, 1):
            try:
                response = await client.get(url, headers=dialect.headers(key))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                result.reachable = False
                shown = url.partition("?")[0]
                reason = str(error) or "no answer in time"
                result.problems.append(f"{shown} cannot be reached: {reason}")
                return
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                result.problems.append(f"the request for the list of models failed: {reason}")
                return
            result.reachable = True
            if response.status_code in (401, 403):
                result.auth = False
                which = f"key {number} of {len(keys)}" if len(keys) > 1 else "the key"
                result.problems.append(f"{which} is refused ({response.status_code})")
            elif response.status_code == 200:
                result.auth = result.auth is not False
                if deployment.model != ANY_MODEL:
                    result.listed = _is_listed(deployment.model, dialect, response.content)


def _client(deployment: Deployment, seconds: float) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=deployment.ca_file)
    if deployment.client_cert:
        context.load_cert_chain(deployment.client_cert, deployment.client_key)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(seconds, connect=deployment.connect_seconds),
        verify=context,
        proxy=None if deployment.proxy in (None, "none") else deployment.proxy,
        trust_env=deployment.proxy is None,
    )


def _is_listed(model: str, dialect: Dialect, body: bytes) -> bool | None:
    """Whether `model` is in the list. Ollama lists `llama3` as `llama3:latest`."""
    try:
        names = dialect.models(body)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        return None
    return model in names or f"{model}:latest" in names


# The streams


async def _check_stream(upstream: Upstream, result: CheckResult, seconds: float) -> None:
    for remaining in reversed(range(upstream.credentials)):
        try:
            stream, _ = await _complete(upstream, _TEXT_REQUEST, seconds)
            break
        except ApiError as error:
            if error.code not in SPENT or not remaining:
                _record_failure(error, result)
                return
            upstream.rotate(upstream.credential)
    else:
        return
    result.reachable = True
    result.auth = result.auth is not False
    result.ok = result.auth
    timings = stream.timings
    result.ttft = timings.ttft
    result.usage = stream.usage.reported is not None
    result.reasoning = timings.reasoning > 0
    tokens = count(stream.usage.reported or {}).completion or timings.pieces
    if timings.first is not None and timings.last > timings.first:
        result.tokens_per_second = (tokens - 1) / (timings.last - timings.first)
    result.tools = await _calls_tool(upstream, _TOOL_REQUEST, seconds)


async def _calls_tool(upstream: Upstream, fields: dict[str, Any], seconds: float) -> bool:
    """Whether the model calls the tool. If the upstream does not support `tool_choice`, the request
    is repeated without it."""
    try:
        _, answer = await _complete(upstream, fields, seconds)
    except ApiError as error:
        without_choice = {name: value for name, value in fields.items() if name != "tool_choice"}
        if error.param != "tool_choice" or without_choice == fields:
            return False
        return await _calls_tool(upstream, without_choice, seconds)
    return b'"tool_calls":[{' in answer.answer(AnswerHead("", 0, ""))


class _Listener:
    """Waits for the end of a stream (`core.subscriber.Listener`)."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def stream_opened(self) -> None: ...
    def stream_finished(self) -> None: ...
    def stream_closed(self) -> None:
        self.closed.set()


async def _complete(
    upstream: Upstream, fields: dict[str, Any], seconds: float
) -> tuple[Stream, ChatAggregator]:
    """Sends a request and waits for the complete answer. Raises `ApiError`."""
    body = msgspec.json.encode(fields | {"model": upstream.name, "stream": True})
    listener = _Listener()
    stream = Stream(time.monotonic, time.monotonic(), listener)
    aggregator = ChatAggregator()
    stream.subscribe(aggregator)
    response = None
    try:
        async with asyncio.timeout(seconds):
            response = await upstream.send(body, parse(body), stream, stream.fail, fresh=True)
            await listener.closed.wait()
    except TimeoutError:
        raise gateway_timeout(f"The answer was not complete within {seconds:g} s.") from None
    finally:
        if response is not None:
            response.abort()
    if stream.error is not None:
        raise stream.error
    return stream, aggregator


def _record_failure(error: ApiError, result: CheckResult) -> None:
    if error.code in _UNREACHABLE:
        result.reachable = False
    elif error.code in _KEY_REFUSED:
        if result.auth is False:
            return  # already in `problems`
        result.auth = False
    result.problems.append(f"{_SUMMARIES.get(error.code, 'the stream failed')}: {error.message}")


_SUMMARIES: Final = {
    **dict.fromkeys(_UNREACHABLE, "the upstream cannot be reached"),
    **dict.fromkeys(_KEY_REFUSED, "the key is refused"),
    "upstream_404": "the upstream does not have this model, or base_url is wrong",
    "upstream_rate_limited": "the quota or rate limit is used up",
    "upstream_timeout": "the upstream is too slow",
}


# The table


def _print_results(results: list[CheckResult]) -> None:
    from rich.console import Console

    from legato.cli.tables import Column, print_table

    columns = (
        Column("deployment", min_width=10),
        Column("ok"),
        Column("reached", drop_order=8),
        Column("key", drop_order=7),
        Column("listed", drop_order=2),
        Column("TTFT", drop_order=6, is_number=True),
        Column("tok/s", drop_order=1, is_number=True),
        Column("reasoning", drop_order=3),
        Column("usage", drop_order=4),
        Column("tools", drop_order=5),
    )
    print_table(
        columns,
        [
            (
                each.deployment,
                *map(_yes_no, (each.ok, each.reachable, each.auth, each.listed)),
                "-" if each.ttft is None else f"{each.ttft:.3f} s",
                "-" if each.tokens_per_second is None else f"{each.tokens_per_second:.0f}",
                *map(_yes_no, (each.reasoning, each.usage, each.tools)),
            )
            for each in results
        ],
    )
    console = Console(highlight=False)
    for each in results:
        for problem in each.problems:
            console.print(clean(f"{each.deployment}: {problem}"), markup=False, style="red")


def _yes_no(value: bool | None) -> str:
    return {None: "-", True: "yes", False: "no"}[value]
