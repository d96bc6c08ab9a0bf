"""`GET /v1/usage`: what a key has used, and what is left of its limits and budgets."""

import asyncio
import math
import time
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from legato.core.errors import ApiError, invalid, service_unavailable
from legato.gateway.limiter import Standing
from legato.gateway.services import Services
from legato.policy.budgets import Budget
from legato.policy.periods import seconds
from legato.store.database import Database
from legato.store.ledger import By, summary
from legato.store.live import Kind, Level

#: What a client may group by: its key is one, and others' are not its business.
BY: Final[tuple[By, ...]] = (
    "day",
    "route",
    "outcome",
    "deployment",
    "front",
    "session",
    "agent",
)

#: The most rows of an answer.
MAX_ROWS: Final = 1000

#: Reports that are read at once: they must not take all connections of the database.
_AT_ONCE: Final = 2

#: What a kind of limit is called, as in a key's limits.
_LIMITS: Final[dict[Kind, str]] = {
    "requests": "requests_per_minute",
    "tokens": "tokens_per_minute",
    "day": "requests_per_day",
    "concurrent": "concurrent",
}


class Ledger(Protocol):
    @property
    def is_reachable(self) -> bool:
        """Whether the database took the last rows."""
        ...

    async def flush(self) -> None:
        """Returns when all rows are in the database."""
        ...


def paths(services: Services, ledger: Ledger, database: Database) -> list[Path]:
    """The endpoint."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def usage(request: Request) -> Response:
        key = services.keyring.identify(request.scope["headers"])
        since, by = _asked(dict(request.query_params))
        if not ledger.is_reachable:  # nobody has to wait for the database to time out
            raise _unavailable()
        try:
            async with turns:
                await ledger.flush()
                report = await summary(database, since, by, key=key.id, limit=MAX_ROWS + 1)
        except (OSError, SQLAlchemyError):
            raise _unavailable() from None
        if len(report["rows"]) > MAX_ROWS:
            raise invalid(
                f"There are more than {MAX_ROWS:,} rows: choose a shorter `since` or another `by`.",
                param="since",
                code="too_many_rows",
            )
        left = _left(await services.limiter.standing(key))
        answer = {"object": "usage", "since": since, "by": by, **report, **left}
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return [Path("/v1/usage", usage, methods=["GET"])]


def _unavailable() -> ApiError:
    return service_unavailable("The ledger cannot be read now.", code="ledger_unavailable")


def _asked(query: dict[str, str]) -> tuple[float, By]:
    """The begin of the period, in Unix seconds, and what to group by. Raises `ApiError` 400."""
    for name in query:
        if name not in ("since", "by"):
            raise invalid(
                f"`{name[:100]}` is not a parameter; there are `since` and `by`.",
                param=name[:100],
                code="unknown_parameter",
            )
    try:
        begin = time.time() - seconds(query.get("since", "7d"))
    except ValueError as error:
        raise invalid(f"`since`: {error}.", param="since", code="invalid_value") from None
    for each in BY:
        if each == query.get("by", BY[0]):
            return begin, each
    raise invalid(f"`by` is one of {', '.join(BY)}.", param="by", code="invalid_value")


def _left(standing: Standing) -> dict[str, Any]:
    """`limits`, `budget` and `owner_budget`: what there is none of is not in the first, and null
    else."""
    limits: dict[str, Any] = {
        name: _level(standing.levels[kind])
        for kind, name in _LIMITS.items()
        if kind in standing.levels
    }
    if standing.limits.max_tokens is not None:
        limits["max_tokens"] = {"limit": standing.limits.max_tokens}
    own, owners = standing.budgets.get("key"), standing.budgets.get("owner")
    return {
        "limits": limits,
        "budget": None if own is None else _budget(*own),
        "owner_budget": None if owners is None else _budget(*owners),
    }


def _level(level: Level) -> dict[str, float]:
    """A part of a request or of a token is none, as in the headers."""
    return {
        "limit": int(level.limit),
        "remaining": max(0, math.floor(level.remaining + 1e-9)),
        "reset_seconds": level.reset,
    }


def _budget(budget: Budget, level: Level) -> dict[str, Any]:
    """`remaining`: what is neither spent nor reserved by calls in progress."""
    return {
        "unit": budget.unit,
        "period": budget.period,
        "limit": budget.amount,
        "remaining": max(0.0, level.remaining),
        "reset_seconds": level.reset if budget.period == "month" else None,
    }
