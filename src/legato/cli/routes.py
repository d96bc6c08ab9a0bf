"""`legato routes`: shows the health of a running server's deployments."""

import math
import ssl

import httpx
import msgspec
import typer
from msgspec import Struct

from legato.cli.options import ApiKey, BaseUrl, Config, Data, Json
from legato.cli.server_address import ServerAddress, server_address
from legato.cli.terminal import clean, settings, stop

app = typer.Typer(add_completion=False)


class Deployment(Struct):
    """Health of a deployment, as in the response of `GET /legato/routes`. Times in seconds."""

    name: str
    weight: float | None
    state: str
    seconds_left: float | None
    busy: int
    calls: int
    failures: int
    ttft: float | None
    failing: float


class Route(Struct):
    model: str
    strategy: str
    deployments: list[Deployment]
    aliases: list[str] = []
    affinity: str = "none"


class _Response(Struct):
    data: list[Route]


@app.command()
def routes(
    base_url: BaseUrl = None,
    key: ApiKey = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show the health of a running server's deployments.

    state: of the circuit breaker; busy: calls in progress;
    failing: recent share of failures; TTFT: average time to first token.
    """
    found = _fetch(server_address(settings(config, data=data), base_url, key))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print_routes(found)


def _fetch(server: ServerAddress) -> list[Route]:
    base = server.base_url.rstrip("/").removesuffix("/v1")
    try:
        context = ssl.create_default_context()
        if server.certificate:
            context.load_verify_locations(server.certificate)
        headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
        with httpx.Client(headers=headers, trust_env=not server.is_local, verify=context) as client:
            response = client.get(f"{base}/legato/routes")
    except (httpx.ConnectError, httpx.ConnectTimeout):
        stop(f"no server answers at {base}: start one with `legato serve`")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError, OSError) as error:
        stop(f"the request to {base} failed: {error}")
    try:
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=_Response).data
        problem = clean(str(response.json()["error"]["message"]))
    except (ValueError, TypeError, KeyError):
        problem = f"the server at {base} is not a Legato server, or an older version"
    return stop(problem)


def _print_routes(found: list[Route]) -> None:
    if not found:
        print("the server has no routes")
        return
    from legato.cli.tables import Cell, Column, print_table

    columns = (
        Column("model", drop_order=5, min_width=10),
        Column("deployment", min_width=18),
        Column("state"),
        Column("busy", drop_order=1, is_number=True),
        Column("calls", drop_order=3, is_number=True),
        Column("failures", drop_order=4, is_number=True),
        Column("failing", drop_order=2, is_number=True),
        Column("TTFT", is_number=True),
    )
    rows: list[list[Cell]] = []
    for route in found:
        for number, each in enumerate(route.deployments):
            rows.append(
                [
                    "" if number else _model(route),
                    each.name,
                    _state(each),
                    *map(str, (each.busy, each.calls, each.failures)),
                    f"{each.failing:.0%}",
                    "-" if each.ttft is None else f"{each.ttft:.3f} s",
                ]
            )
    print_table(columns, rows)


def _model(route: Route) -> str:
    notes = [route.strategy] if len(route.deployments) > 1 else []
    if notes and route.affinity != "none":
        notes = [f"by {route.affinity}"]
    if route.aliases:
        notes.append(f"also {', '.join(route.aliases)}")
    return f"{route.model} ({'; '.join(notes)})" if notes else route.model


def _state(deployment: Deployment) -> tuple[str, str]:
    """(state of the circuit breaker, colour)."""
    if deployment.state == "open":
        return f"open, {math.ceil(deployment.seconds_left or 0)} s left", "red"
    return deployment.state, "green" if deployment.state == "closed" else "yellow"
