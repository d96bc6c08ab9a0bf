"""The contract, section 7 (padding), over the wire. The first line of each docstring is the
sentence that it holds."""

import gc
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from legato.core.padding import BUCKET
from tests.support.contract_server import ContractServer, built, heard
from tests.support.wire import Answer, Wire, chat, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROXY = {"x_forwarded_proto": "https"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def contract(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContractServer]:
    async with built(
        tmp_path_factory.mktemp("house"), **{"server.trusted_proxies": ["127.0.0.1"]}
    ) as contract:
        yield contract


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


SIZES = {
    "asked for": ({"include_obfuscation": True}, {}, True),
    "asked for behind a proxy": ({"include_obfuscation": True}, PROXY, True),
    "refused": ({"include_obfuscation": False}, {}, False),
    "refused behind a proxy": ({"include_obfuscation": False}, PROXY, False),
    "auto on plain HTTP": ({}, {}, False),
    "auto behind a proxy with TLS": ({}, PROXY, True),
    "auto behind a proxy without": ({}, {"x_forwarded_proto": "http"}, False),
}


@pytest.mark.parametrize("case", SIZES)
async def test_padding_is_on_where_the_line_is_encrypted(
    contract: ContractServer, case: str
) -> None:
    """`include_obfuscation`: an `obfuscation` field evens out frame sizes. By default it is on
    where the client's line is TLS (a trusted proxy's `x-forwarded-proto: https`), off on plain
    HTTP."""
    options, headers, padded = SIZES[case]
    body = chat("separators", stream=True, stream_options=options)
    is_padded(await contract.post(body, **headers), padded)


def is_padded(answer: Answer, padded: bool) -> None:
    assert heard(answer).done
    assert [("obfuscation" in chunk) for chunk in answer.chunks] == [padded] * len(answer.chunks)
    sizes = {(len(frame) + 2) % BUCKET for frame in answer.frames[:-1]}
    assert (sizes == {0}) is padded


async def test_padding_is_on_where_the_line_is_ours_and_encrypted(tmp_path: Path) -> None:
    """On where the client's line is TLS (ours)."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = {"server.tls_cert": str(cert), "server.tls_key": str(key)}
    async with built(tmp_path, **tls) as safe:
        for options, padded in (({}, True), ({"include_obfuscation": False}, False)):
            async with await Wire.open(safe.legato.port, ssl=context) as wire:
                body = chat("happy", stream=True, stream_options=options)
                wire.send(request(safe.legato.key, body))
                is_padded(await wire.answer(), padded)
