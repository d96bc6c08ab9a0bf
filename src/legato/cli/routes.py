"""`legato routes`: what a running server knows of its deployments."""

import contextlib
import math
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import httpx
import msgspec
import typer
from msgspec import Struct

from legato.cli.conversation import clean
from legato.cli.terminal import settings, stop
from legato.settings import Settings

app = typer.Typer(add_completion=False)


class Deployment(Struct):
    """How one is doing, as `GET /legato/routes` says it. Times in seconds."""

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


class _Answer(Struct):
    data: list[Route]


@app.command()
def routes(
    base_url: Annotated[
        str | None,
        typer.Option(envvar="LEGATO_BASE_URL", help="The API; else where the settings say."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="LEGATO_API_KEY", help="API key; else this machine's first one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array.")] = False,
    data: Annotated[str | None, typer.Option(help="Folder for keys and usage.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; else ./legato.toml.")] = None,
) -> None:
    """Show how the deployments of a running server are doing."""
    chosen = settings(config, data=data)
    found = _ask(chosen, base_url or _here(chosen), key)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _show(found)


def _here(chosen: Settings) -> str:
    server = chosen.server
    if server.port == 0:
        stop("with port 0, --base-url has to say where the server listens", 2)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if server.tls_cert else 'http'}://{host}:{server.port}/v1"


def _ask(chosen: Settings, base_url: str, key: str | None) -> list[Route]:
    base = base_url.rstrip("/").removesuffix("/v1")
    try:
        near = urlsplit(base).hostname in {chosen.server.host, "127.0.0.1", "::1", "localhost"}
        if key is None and near:  # our key is nobody else's business
            with contextlib.suppress(OSError):
                key = (chosen.data_dir / "key").read_text()
        context = ssl.create_default_context()
        if near and chosen.server.tls_cert:
            context.load_verify_locations(chosen.server.tls_cert)
        headers = {"authorization": f"Bearer {key.strip()}"} if key else {}
        with httpx.Client(headers=headers, trust_env=not near, verify=context) as client:
            response = client.get(f"{base}/legato/routes")
    except (httpx.ConnectError, httpx.ConnectTimeout):
        stop(f"no server answers at {base}: start one with `legato serve`")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError, OSError) as error:
        stop(f"{base} cannot be asked: {error}")
    try:
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=_Answer).data
        problem = clean(str(response.json()["error"]["message"]))
    except (ValueError, TypeError, KeyError):
        problem = f"what answers at {base} is no Legato server, or an older one"
    return stop(problem)


def _show(found: list[Route]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("model", "deployment"):
        table.add_column(name, overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("busy", "calls", "failures", "failing", "TTFT"):
        table.add_column(name, justify="right")
    for route in found:
        for number, each in enumerate(route.deployments):
            table.add_row(
                Text("" if number else clean(_model(route))),
                Text(clean(each.name)),
                Text(*_state(each)),
                *map(str, (each.busy, each.calls, each.failures)),
                f"{each.failing:.0%}",
                "-" if each.ttft is None else f"{each.ttft:.3f} s",
            )
    console = Console(highlight=False)
    console.print(table if found else "the server has no routes")


def _model(route: Route) -> str:
    return f"{route.model} ({route.strategy})" if len(route.deployments) > 1 else route.model


def _state(deployment: Deployment) -> tuple[str, str]:
    """What is said of its breaker, and in which color."""
    state = clean(deployment.state)
    if state == "open":
        return f"open, {math.ceil(deployment.seconds_left or 0)} s left", "red"
    return state, "green" if state == "closed" else "yellow"
