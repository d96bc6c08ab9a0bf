"""A connection to Valkey that runs scripts, several in one round trip."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from legato.store.live_scripts import SCRIPTS, Invocation

#: Schemes of URLs, and what the client library calls them.
SCHEMES: Final[Mapping[str, str]] = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "unix",
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
}

_PROBE_MILLISECONDS: Final = 60_000

_NAMES: Final[dict[str, str]] = {}


def _name(script: str) -> str:
    """The name under which Valkey caches a script: its SHA-1."""
    if script not in _NAMES:
        _NAMES[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    return _NAMES[script]


class Connection:
    """One connection. After an error or a cancelled call it must be closed, for answers to what was
    asked may still come."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        pool = ConnectionPool.from_url(
            f"{SCHEMES[scheme]}://{rest}",
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            client_name="legato",
            decode_responses=False,
        )
        self._connection: Any = pool.make_connection()

    async def open(self) -> None:
        """Raises RedisError and OSError, here and below."""
        await self._connection.connect()
        # All at once: one that is loaded when it is first used runs behind those that follow it.
        await self._load()

    async def probe(self, key: str) -> None:
        """Writes something: who loads its data, is full or is a replica lets clients connect."""
        [answer] = await self._send([("SET", key, "1", "PX", _PROBE_MILLISECONDS)])
        if isinstance(answer, RedisError):
            raise answer

    async def run(self, invocations: Sequence[Invocation]) -> list[bytes | RedisError]:
        """The answer to each, or its error."""
        answers = await self._send([_command(each) for each in invocations])
        missing = [at for at, each in enumerate(answers) if isinstance(each, NoScriptError)]
        if missing:
            await self._load()
            again = await self._send([_command(invocations[at]) for at in missing])
            for at, answer in zip(missing, again, strict=True):
                answers[at] = answer
        return answers

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _load(self) -> None:
        for answer in await self._send([("SCRIPT", "LOAD", script) for script in SCRIPTS]):
            if isinstance(answer, RedisError):
                raise answer

    async def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        # Packed in C: the connection's own way takes a quarter of the time of an admission.
        packed = b"".join([pack_command(command) for command in commands])
        await self._connection.send_packed_command(packed)
        return [await self._answer() for _ in commands]

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except RedisError as error:
            if not self._connection.is_connected:
                raise
            return error


def _command(invocation: Invocation) -> tuple[Any, ...]:
    keys = invocation.keys
    return ("EVALSHA", _name(invocation.script), len(keys), *keys, invocation.argument)


def told(error: BaseException) -> str:
    """What is wrong, for a log: without what may be secret."""
    text = re.sub(r"(?<=://)[^/@\s]*@", "********@", str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
