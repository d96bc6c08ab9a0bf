"""The local engine, started once for all tests of this folder that only ask it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from legato.configuration import load
from legato.engine.catalog import Catalog
from tests.conftest import Running
from tests.support.engines import MODEL, THINKING, engines


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Both models, and the first one with the template in its file."""
    path = Catalog(load().models_dir).pull(MODEL)
    models = {"name": MODEL}, {"name": THINKING}, {"name": "bare", "path": str(path)}
    async with engines(tmp_path_factory.mktemp("engine"), *models) as running:
        yield running
