"""The OpenAPI document of the admin API: valid, and what the server does."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from jsonschema import Draft202012Validator

from tests.conftest import Running
from tests.support.admin import Admin

#: Requests that are generated for each operation, beside those for each bound of its schema.
EXAMPLES: Final = 5

PATHS: Final = {
    "/admin/v1/keys": {"get", "post"},
    "/admin/v1/keys/{id}": {"get", "patch"},
    "/admin/v1/keys/{id}/rotate": {"post"},
    "/admin/v1/keys/{id}/revoke": {"post"},
    "/admin/v1/audit": {"get"},
    "/admin/v1/openapi.json": {"get"},
}


async def test_what_the_document_describes(legato: Running) -> None:
    admin = await Admin.of(legato)
    found = await admin.get("openapi.json")
    assert found["openapi"] == "3.1.0"
    assert {path: set(operations) for path, operations in found["paths"].items()} == PATHS
    schemas = found["components"]["schemas"]
    assert schemas["NewKey"]["required"] == ["name"]
    tiers = schemas["NewKey"]["properties"]["tier"]["anyOf"][0]["enum"]
    assert tiers == ["basic", "enterprise", "free", "pro"]


async def test_the_document_is_valid(legato: Running) -> None:
    import schemathesis

    found = await (await Admin.of(legato)).get("openapi.json")
    schemathesis.openapi.from_dict(found).validate()
    for each in found["components"]["schemas"].values():
        Draft202012Validator.check_schema(each)


async def test_schemathesis_finds_nothing(legato: Running, tmp_path: Path) -> None:
    """Valid and invalid requests, sequences of them, wrong methods, missing keys: each answer is
    one that the document promises."""
    admin = await Admin.of(legato)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        f"{legato.url}/admin/v1/openapi.json",
        *("--header", f"Authorization: Bearer {admin.key}"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "200", "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
    )
    out, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, out.decode()
    assert "7 selected / 7 total" in out.decode()
