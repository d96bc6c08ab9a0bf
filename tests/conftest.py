"""A real server in the test's own event loop, in front of a scripted upstream on a real socket."""

import asyncio
import functools
import gc
import importlib.util
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn.server
import uvloop

from legato.configuration import load
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.server.app import App
from legato.settings import Settings
from legato.store.database import Database
from legato.store.ledger import summary
from tests.support.oracle.summary import (  # noqa: F401
    pytest_configure,
    pytest_terminal_summary,
)
from tests.support.postgres import address, postgres  # noqa: F401

DEADLINE = 10.0


class Hasty:
    """asyncio for uvicorn's server, which sleeps a tenth of a second before it looks whether it is
    to end, and another before it does: for a thousand servers that would be minutes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


uvicorn.server.asyncio = Hasty()

# Each client of httpx or its next version, and so each of an SDK, reads the certificates of the
# system anew, which takes 20 ms.
for name in ("httpx", "httpx2"):
    if importlib.util.find_spec(name) is not None:
        clients: Any = importlib.import_module(f"{name}._transports.default")
        clients.create_ssl_context = functools.cache(clients.create_ssl_context)


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Any:
    return {"uvloop": uvloop.new_event_loop}


#: Files whose tests run a real llama.cpp: one after the other, since two of them at once keep each
#: other waiting for many times as long.
ENGINES = frozenset(
    {
        "engine/test_answers.py",
        "engine/test_engine_sdks.py",
        "engine/test_supervisor.py",
        "engine/test_tools.py",
        "scenarios/test_anthropic_upstreams.py",
        "scenarios/test_engine_continuation.py",
    }
)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A long value would make a name that no log can show and no environment variable can hold; one
    that is compressed has the time in it, and so is another one for each worker."""
    if isinstance(val, str | bytes) and (len(val) > 100 or val[:2] == b"\x1f\x8b"):
        return f"{argname} of {len(val):,}"
    return None


#: Groups that take longest, in the order to begin with: what is left at the end is then short, and
#: no worker is idle while another has minutes to go.
LONGEST = (
    "engines",
    "postgres",
    "bench/test_bench.py",
    "oracle 0",
    "oracle 1",
    "oracle 2",
    "oracle 3",
)


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one worker gets: a file, or all that runs an engine; unless a test says otherwise. Then
    the order in which groups are handed out (`--no-loadscope-reorder`): the longest first."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        if marker is None:
            name = item.path.relative_to(Path(__file__).parent).as_posix()
            marker = pytest.mark.xdist_group("engines" if name in ENGINES else name).mark
            item.add_marker(pytest.mark.xdist_group(*marker.args))
        groups.setdefault(str(marker.args[0]), []).append(item)
    if len(groups) > 1:
        order = sorted(groups, key=lambda name: (name not in LONGEST, -len(groups[name])))
        items[:] = [item for name in order for item in groups[name]]


def pytest_collection_finish(session: Any) -> None:
    """All that was imported stays: a collection behind each test need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def migrated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A database with nothing in it but its tables: making them anew for each server takes time."""
    global _empty
    folder = tmp_path_factory.mktemp("migrated")

    async def make() -> None:
        await (await Database.open(folder)).close()

    asyncio.run(make())
    _empty = folder / "legato.db"


_empty: Path | None = None


async def until(condition: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Waits for a condition, not for a time; fails where it does not come true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (value := condition()):
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"did not come true within {seconds} s: {what or condition}")
        await asyncio.sleep(0.005)
    return value


class Running:
    """One running server."""

    def __init__(self, app: App, server: Any, key: str) -> None:
        self.app = app
        self.server = server
        self.key = key
        self.url: str = server.url
        self.port = int(self.url.rpartition(":")[2])
        self.auth = {"authorization": f"Bearer {key}"}

    @property
    def busy(self) -> int:
        """Upstream connections with an answer on them."""
        targets = [upstream.target for upstream in self.app.upstreams.values()]
        return sum(target.pool.busy for target in targets if target is not None)

    async def rows(self) -> list[dict[str, Any]]:
        """The ledger's, oldest first."""
        await self.app.ledger.flush()
        return (await summary(self.app.database, 0))["rows"]

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.auth, timeout=30, **options)


@asynccontextmanager
async def serving(
    settings: Settings, files: dict[str, Path] | None = None, *, key: str | None = None
) -> AsyncIterator[Running]:
    before = set(asyncio.all_tasks())
    app = App(settings, files or {})
    server = app.server()
    await app.open()
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started, "the server listens")
    key = key or app.first_key
    assert key is not None
    running = Running(app, server, key)
    try:
        yield running
        # Nothing may be left of any call: connection upstream, task, connection of a client.
        await until(lambda: running.busy == 0, "upstream connections are given back")
        await until(lambda: not server.server_state.tasks, "calls are settled")
    finally:
        server.should_exit = True
        await task
        await app.close()
    current = asyncio.current_task()
    left = {each for each in asyncio.all_tasks() - before - {current} if not each.done()}
    assert not left, f"tasks are left: {left}"


def settings_for(tmp_path: Path, upstream: str | None, models: Any = (), **more: Any) -> Settings:
    """Settings with one deployment and a route for each of `models` to it, which is asked once."""
    deploy = {"open_after": 0} | more.pop("deploy", {})
    flags: dict[str, Any] = {"data": str(tmp_path / "data"), "server.port": 0, **more}
    if upstream is not None:
        flags["deployments"] = [
            {"name": f"at-{model}", "base_url": upstream, "model": model, **deploy}
            for model in models
        ]
        flags["routes"] = [
            {"model": model, "deployments": [f"at-{model}"], "attempts": 1} for model in models
        ]
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    settings = load(empty, flags, {})
    database = Path(settings.data) / "legato.db"
    if _empty is not None and not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(_empty, database)
    return settings


@pytest.fixture
async def scripted() -> AsyncIterator[MockServer]:
    server = MockServer(SCRIPTS)
    yield server
    await until(lambda: server.open_connections == 0, "no connection to the upstream is left")
    await server.stop()


@pytest.fixture
async def legato(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    """A server with a route for every script, and quick timers."""
    base = await scripted.start()
    settings = settings_for(
        tmp_path,
        base,
        SCRIPTS,
        deploy={"first_token_seconds": 1.0, "stall_seconds": 0.5},
        **{"streams.gate_seconds": 0.2, "streams.heartbeat_seconds": 0.2},
    )
    async with serving(settings) as running:
        yield running


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Any:
    """What a module leaves behind is pytest's reports: collections need not look at them again."""
    yield
    gc.collect()
    gc.freeze()


#: Folders whose tests open nothing, and are many: garbage is collected behind each module alone.
SANS_IO = frozenset({"core", "dialects", "fronts", "policy"})


@pytest.fixture(autouse=True)
def no_garbage(request: pytest.FixtureRequest) -> Any:
    """A leaked socket or coroutine warns when it is collected, and a warning is an error. Only
    young objects are looked at: what a module shares is looked at once, by `frozen`."""
    yield
    if request.path.parent.name not in SANS_IO:
        gc.collect(1)
