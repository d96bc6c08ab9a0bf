"""Keeps the answers of the Responses API, so that a later request can go on with one of them.

Nothing is kept unless the operator has turned it on: it is the text of prompts and answers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from legato.core.errors import ApiError, invalid, service_unavailable
from legato.core.front import Front, FrontRequest
from legato.fronts.responses_content import objects
from legato.fronts.responses_history import continued, echoed, read
from legato.store.responses import StoredResponse

#: After how many kept responses those that have expired are deleted.
PURGE_EVERY: Final = 256

#: Seconds for which a request waits for the response that it goes on with to be written, and then
#: for the database.
WAIT_SECONDS: Final = 10.0


class Store(Protocol):
    async def find(self, identity: str, key: str, now: float) -> StoredResponse | None: ...
    async def put(self, response: StoredResponse) -> None: ...
    async def delete(self, identity: str, key: str) -> bool: ...
    async def purge(self, now: float) -> None: ...


class KeptResponses:
    """The kept responses of one server. `clock` gives Unix seconds."""

    def __init__(self, store: Store, keep_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._under_way: dict[str, asyncio.Future[None]] = {}  # calls whose answer will be kept
        self._puts = 0

    async def find(self, identity: str, key: str) -> StoredResponse:
        """Raises `ApiError` 404 where it is not there, or is another key's, and 503 where the
        database is away."""
        response = await self._find(identity, key)
        if response is None:
            raise _not_found(identity)
        return response

    async def _find(self, identity: str, key: str) -> StoredResponse | None:
        writing = self._under_way.get(identity)
        if writing is not None:
            await asyncio.wait([writing], timeout=WAIT_SECONDS)
        async with _answering():
            return await self._store.find(identity, key, self._clock())

    async def delete(self, identity: str, key: str) -> None:
        """Raises `ApiError` 404."""
        await self.find(identity, key)
        async with _answering():
            is_deleted = await self._store.delete(identity, key)
        if not is_deleted:
            raise _not_found(identity)  # another request has just deleted it

    async def begin(
        self, identity: str, key: str, body: bytes, front: Front
    ) -> tuple[FrontRequest, "KeptCall | None"]:
        """Reads a request whose answer has the id `identity`; None where it is not kept. Raises
        `ApiError` 400 for an earlier response that is not there, and for what the front refuses."""
        turn = read(body)
        if turn is None:
            return front.parse(body), None
        history: list[Any] = []
        if turn.previous is None:
            request = front.parse(body)
        else:
            earlier = await self._find(turn.previous, key)
            if earlier is None:
                raise invalid(
                    f"There is no response `{turn.previous[:100]}`: it was not kept, has expired,"
                    " or belongs to another key.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            history = msgspec.json.decode(earlier.items)
            request = continued(body, history, turn, front)
        request = echoed(request, turn)
        if not turn.is_kept:
            return request, None
        self._under_way[identity] = asyncio.get_running_loop().create_future()
        return request, KeptCall(self, identity, key, history + turn.items)

    async def put(self, call: "KeptCall", response: bytes) -> None:
        items, output = call.items, objects(msgspec.json.decode(response)["output"])
        row = StoredResponse(
            call.identity,
            call.key,
            self._clock() + self._keep_seconds,
            len(items),
            msgspec.json.encode(items + output),
            response,
        )
        async with asyncio.timeout(WAIT_SECONDS):  # until then the call holds what it was granted
            await self._store.put(row)
        self._puts += 1
        if self._puts % PURGE_EVERY == 1:
            await self._store.purge(self._clock())

    def over(self, identity: str) -> None:
        """A call is settled: who waits for its answer need not wait longer."""
        writing = self._under_way.pop(identity, None)
        if writing is not None:
            writing.set_result(None)


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Raises `ApiError` 503 where the database is away, or does not answer."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            yield
    except (OSError, SQLAlchemyError):  # a TimeoutError is an OSError
        problem = "Responses that are kept cannot be read now."
        raise service_unavailable(problem, code="responses_unavailable") from None


def _not_found(identity: str) -> ApiError:
    return ApiError(404, "response_not_found", f"There is no response `{identity[:100]}`.")


class KeptCall:
    """One call whose answer is kept. `items`: the conversation up to it."""

    __slots__ = ("_kept", "identity", "items", "key")

    def __init__(self, kept: KeptResponses, identity: str, key: str, items: list[Any]) -> None:
        self._kept = kept
        self.identity = identity
        self.key = key
        self.items = items

    async def keep(self, response: bytes) -> None:
        """The answer is complete. `response`: the object as the client has it."""
        await self._kept.put(self, response)

    def settle(self) -> None:
        self._kept.over(self.identity)
