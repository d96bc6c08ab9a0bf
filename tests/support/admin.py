"""A client of the admin API, and keys of each kind for tests."""

from typing import Any

import httpx

from legato.policy import keys as policy
from legato.policy.keys import Role
from legato.store import keys as store
from tests.conftest import Running


async def key_of(running: Running, role: Role | None, **columns: Any) -> str:
    """The secret of a new key, which is in force."""
    identity, secret, digest = policy.create(role)
    database = running.app.database
    await store.add(database, identity, role or "ordinary", digest, role=role, **columns)
    await running.app._key_sync.refresh()
    return secret


class Admin:
    """Requests with one key."""

    def __init__(self, running: Running, key: str | None) -> None:
        self._url = f"{running.url}/admin/v1/"
        self.key = key

    @classmethod
    async def of(cls, running: Running, role: Role | None = "admin") -> "Admin":
        return cls(running, await key_of(running, role))

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers) as client:
            return await client.request(method, path, json=body, **more)

    async def get(self, path: str, **query: Any) -> Any:
        return (await self.ask("GET", path, params=query)).raise_for_status().json()

    async def post(self, path: str, body: Any = None) -> Any:
        return (await self.ask("POST", path, body)).raise_for_status().json()

    async def patch(self, path: str, body: Any) -> Any:
        return (await self.ask("PATCH", path, body)).raise_for_status().json()
