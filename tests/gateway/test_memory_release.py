"""What a call was made of is free when it is over: nothing waits for the garbage collector."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from legato.core.stream import Stream
from legato.fronts.chat_writer import ChatWriter
from legato.gateway.call import Call
from legato.server.exchange import NativeExchange
from legato.server.protocol import LegatoProtocol
from legato.upstreams.connection import Connection
from legato.upstreams.response import Response
from tests.conftest import Running, until
from tests.support.wire import Wire, ask, chat, request

OF_A_CALL = (Call, Stream, ChatWriter, NativeExchange, Response, LegatoProtocol)


class Leftovers:
    """What of calls has come into being and is still there."""

    def __init__(self) -> None:
        self._before: list[Any] = []
        self._before = self._all()

    def __bool__(self) -> bool:
        before = {id(each) for each in self._before}  # held, so that no other has its id
        return any(id(each) not in before for each in self._all())

    def _all(self) -> list[Any]:
        return [each for each in gc.get_objects() if isinstance(each, OF_A_CALL) or _is_lost(each)]


def _is_lost(thing: Any) -> bool:
    """A connection to an upstream that is of no more use."""
    return isinstance(thing, Connection) and thing.is_closing


@pytest.fixture
def left() -> Iterator[Leftovers]:
    """With nobody who collects garbage."""
    gc.collect()
    gc.disable()
    yield Leftovers()
    gc.enable()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["happy", "tools", "cut", "error-in-band", "500", "400"])
async def test_nothing_is_left_of_a_call(
    legato: Running, name: str, stream: bool, left: Leftovers
) -> None:
    for _ in range(3):
        await ask(legato.port, legato.key, chat(name, stream=stream))
    await until(lambda: not left, "all is free")


async def test_nothing_is_left_of_a_call_whose_client_leaves(
    legato: Running, left: Leftovers
) -> None:
    for frames in (0, 1, 3):
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("stall", stream=True)))
            await wire.head()
            for _ in range(frames):
                await wire.chunk()
    await until(lambda: not left, "all is free")


async def test_nothing_is_left_of_a_request_in_pieces(legato: Running, left: Leftovers) -> None:
    """Also of the connection: the timer of a request that takes its time lets it go."""
    async with await Wire.open(legato.port) as wire:
        asked = request(legato.key, chat("happy", stream=True))
        wire.send(asked[:-1])
        connections: Any = legato.server.server_state.connections
        await until(lambda: any(each._request_timer for each in connections), "it is timed")
        wire.send(asked[-1:])
        assert (await wire.answer()).done
    await until(lambda: not left, "all is free")


async def test_nothing_is_left_of_calls_at_once(legato: Running, left: Leftovers) -> None:
    calls = (ask(legato.port, legato.key, chat("happy", stream=True)) for _ in range(50))
    await asyncio.gather(*calls)
    await until(lambda: not left, "all is free")
