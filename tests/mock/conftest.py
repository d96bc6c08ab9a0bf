"""The mock upstream, started."""

import pytest

from legato.mock.server import MockServer


@pytest.fixture
async def mock(scripted: MockServer) -> MockServer:
    await scripted.start()
    return scripted
