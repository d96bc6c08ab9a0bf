"""The operations of the admin API on API keys and the audit log."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict
from sqlalchemy.exc import SQLAlchemyError

from legato.core.errors import ApiError, invalid
from legato.policy import key_fields
from legato.policy import keys as key_policy
from legato.policy.key_fields import KeyChanges, Name, NewKey, ShownKey, Time
from legato.server.admin import Call, Operation
from legato.store import audit as audit_store
from legato.store import keys as key_store
from legato.store.audit import Entry
from legato.store.database import Database
from legato.store.keys import Row

#: Rows of a list, if the client names no number, and at most.
_USUAL: Final = 100
_MOST: Final = 1000

Id = Annotated[str, Meta(min_length=1, max_length=64)]
Limit = Annotated[int, Meta(ge=1, le=_MOST)]


class KeyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`after`: the id of the last key of the page before. `owner`: only this owner's keys."""

    limit: Limit = _USUAL
    after: Id | UnsetType = UNSET
    owner: Name | UnsetType = UNSET


class AuditQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`before`: the id of the last entry of the page before. `since`: Unix seconds. `subject`: the
    id of a key."""

    limit: Limit = _USUAL
    before: Annotated[int, Meta(ge=1, le=2**53)] | UnsetType = UNSET
    since: Time = 0.0
    subject: Id | UnsetType = UNSET


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    """`overlap_seconds`: for how long the old secret is good beside the new one."""

    overlap_seconds: Annotated[float, Meta(ge=0, le=key_fields.LONGEST_OVERLAP)] = 0.0


class KeyList(Struct, frozen=True):
    """One page of keys, oldest first."""

    object: Literal["list"]
    data: list[ShownKey]
    has_more: bool


class AuditList(Struct, frozen=True):
    """One page of the audit log, newest first."""

    object: Literal["list"]
    data: list[Entry]
    has_more: bool


class KeyWithSecret(ShownKey, frozen=True):
    """An API key and its secret, `key`, which is never shown again."""

    key: str


class KeyOperations:
    """What the admin API does with API keys. Admin keys are none of its business: they are managed
    at the command line, so that no key can make itself more powerful."""

    def __init__(
        self,
        database: Database,
        tiers: Collection[str],
        refresh: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`tiers`: the names of all. `refresh`: awaited after each change, so that it is in force
        when the client has its answer. May raise the database's errors."""
        self._database = database
        self._tiers = tiers
        self._refresh = refresh
        self._clock = clock

    def operations(self) -> list[Operation]:
        keys, one = "/keys", "/keys/{id}"
        return [
            Operation(
                *("GET", keys, "listKeys", "List API keys", self.list),
                KeyList,
                query=KeyQuery,
                errors=(404,),
            ),
            Operation(
                *("POST", keys, "createKey", "Create an API key", self.create),
                KeyWithSecret,
                body=NewKey,
                status=201,
            ),
            Operation(
                *("GET", one, "getKey", "Show an API key", self.get), ShownKey, errors=(404,)
            ),
            Operation(
                *("PATCH", one, "updateKey", "Change fields of an API key", self.update),
                ShownKey,
                body=KeyChanges,
                errors=(404, 409),
            ),
            Operation(
                *("POST", f"{one}/rotate", "rotateKey", "Give an API key another secret"),
                self.rotate,
                KeyWithSecret,
                body=Rotation,
                errors=(404, 409),
            ),
            Operation(
                *("POST", f"{one}/revoke", "revokeKey", "Revoke an API key for good", self.revoke),
                ShownKey,
                errors=(404, 409),
            ),
            Operation(
                *("GET", "/audit", "listAudit", "List administrative acts", self.audit),
                AuditList,
                query=AuditQuery,
            ),
        ]

    async def list(self, call: Call) -> KeyList:
        query: KeyQuery = call.query
        with _refusals():
            rows = await key_store.page(
                self._database,
                after=query.after or None,
                limit=query.limit + 1,
                owner=query.owner or None,
                has_role=False,
            )
        found = [self._shown(row) for row in rows[: query.limit]]
        return KeyList("list", found, len(rows) > query.limit)

    async def create(self, call: Call) -> KeyWithSecret:
        fields: NewKey = call.body
        self._check(fields)
        identity, secret, digest = key_policy.create()
        columns = key_fields.new_columns(fields)
        row = await key_store.add(self._database, identity, fields.name, digest, call.by, **columns)
        return await self._with_secret(row, secret)

    async def get(self, call: Call) -> ShownKey:
        return self._shown(await self._row(call))

    async def update(self, call: Call) -> ShownKey:
        changes: KeyChanges = call.body
        self._check(changes)
        return await self._change(call, partial(key_fields.changed_columns, changes), "update")

    async def rotate(self, call: Call) -> KeyWithSecret:
        rotation: Rotation = call.body
        identity = (await self._row(call))["id"]
        secret, digest = key_policy.create_secret()
        with _refusals():
            row = await key_store.rotate(
                self._database, identity, digest, rotation.overlap_seconds, call.by
            )
        return await self._with_secret(row, secret)

    async def revoke(self, call: Call) -> ShownKey:
        now = self._clock()
        return await self._change(call, lambda row: {"revoked": now}, "revoke")

    async def audit(self, call: Call) -> AuditList:
        query: AuditQuery = call.query
        found = await audit_store.entries(
            self._database,
            since=query.since,
            before=query.before or None,
            subject=query.subject or None,
            limit=query.limit + 1,
        )
        return AuditList("list", found[: query.limit], len(found) > query.limit)

    async def _change(
        self, call: Call, change: Callable[[Row], Mapping[str, Any]], action: str
    ) -> ShownKey:
        identity = (await self._row(call))["id"]
        with _refusals():
            row = await key_store.update(self._database, identity, change, call.by, action)
        await self._apply()
        return self._shown(row)

    async def _with_secret(self, row: Row, secret: str) -> KeyWithSecret:
        await self._apply()
        return KeyWithSecret(**asdict(self._shown(row)), key=secret)

    async def _apply(self) -> None:
        """Loads what has changed. What is written is written: a database that fails only now is no
        reason to lose the secret, and the server follows when it is back."""
        with suppress(OSError, SQLAlchemyError):
            await self._refresh()

    async def _row(self, call: Call) -> Row:
        """The key that the path names. Raises `ApiError` 404, also for an admin key."""
        with _refusals():
            row = await key_store.get(self._database, call.path["id"])
            if row["role"] is not None:
                raise key_store.UnknownKey(row["id"])
        return row

    def _check(self, fields: NewKey | KeyChanges) -> None:
        try:
            key_fields.check(fields, self._tiers)
        except ValueError as error:
            param = str(error).partition(":")[0]
            raise invalid(f"{error}.", param=param, code="invalid_value") from None

    def _shown(self, row: Row) -> ShownKey:
        return key_fields.shown(key_fields.from_row(row.values()), self._clock())


@contextmanager
def _refusals() -> Iterator[None]:
    """What the store refuses, as answers."""
    try:
        yield
    except key_store.UnknownKey as error:
        name = str(error.args[0])[:100]
        raise ApiError(404, "key_not_found", f"There is no API key `{name}`.") from None
    except key_store.RevokedKey as error:
        problem = f"The API key `{error.args[0]}` has been revoked, for good: create another."
        raise ApiError(409, "key_revoked", problem) from None
