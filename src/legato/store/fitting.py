"""Makes a row of the ledger fit its table: no value that an upstream or a client sent may be the
reason that a call is missing."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from legato.store.tables import calls

#: The range of an integer in both databases.
_LARGEST: Final = 2**63 - 1


def fitted(values: Sequence[Any]) -> tuple[Any, ...]:
    """`values` in the order of the columns of `calls`, each of its column's type.

    Strings are cut to the column's length, without NUL and lone surrogates; numbers are kept in
    range; what is missing (a row of an older version) or is of another type becomes the column's
    default: None, 0 or "". Values beyond the last column are left out.
    """
    given = (*values[: len(_FITS)], *(None,) * (len(_FITS) - len(values)))
    return tuple([fit(value) for fit, value in zip(_FITS, given, strict=True)])


def sought(identity: str) -> str:
    """An id that a client asks for: PostgreSQL takes a text with NUL for an error, and nothing has
    such an id."""
    return identity.replace("\0", "\ufffd")


def _fit(column: sa.Column[Any]) -> Callable[[Any], Any]:
    kind: type[Any]
    default: Any
    if isinstance(column.type, sa.String):
        kind, default = str, "chat" if column.name == "front" else ""
        length = column.type.length or 0

        def text(value: str) -> str:
            valid = value[:length].encode("utf-8", "replace").decode()
            return valid.replace("\0", "\ufffd")

        convert: Callable[[Any], Any] = text
    elif isinstance(column.type, sa.Boolean):
        kind, default, convert = bool, False, bool
    elif isinstance(column.type, sa.Float):
        kind, default = float, 0.0

        def real(value: float) -> float | None:
            return float(value) if abs(value) < math.inf else empty  # NaN compares false

        convert = real
    else:
        kind, default = int, 0

        def whole(value: int) -> int:
            return max(-_LARGEST, min(value, _LARGEST))

        convert = whole
    empty = None if column.nullable else default
    kinds = (int, float) if kind is float else kind

    def fit(value: Any) -> Any:
        return convert(value) if isinstance(value, kinds) else empty

    return fit


_FITS: Final = [_fit(column) for column in calls.c]
