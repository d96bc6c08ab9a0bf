"""Which failures before the first token are tried again, how often, and after how long."""

import random
from collections.abc import Callable
from typing import Final, Literal

from legato.core.errors import UpstreamError

Kind = Literal["connection", "busy", "server", "timeout", "empty", "ours"]

#: How often one deployment is asked again within one call after a failure of a kind. Another
#: deployment is asked in any case. A timeout has cost its time already; what is wrong with our own
#: credential or address will be wrong again.
BUDGETS: Final[dict[Kind, int]] = {
    "connection": 2,
    "busy": 2,
    "server": 2,
    "timeout": 1,
    "empty": 1,
    "ours": 0,
}

#: Seconds before the second request to a deployment; twice as long before each further one.
BACKOFF: Final = 0.25

_KINDS: Final[dict[str, Kind]] = {
    "upstream_unreachable": "connection",
    "upstream_connect_timeout": "connection",
    "upstream_cut": "connection",
    "upstream_busy": "busy",
    "upstream_rate_limited": "busy",
    "upstream_409": "busy",
    "upstream_empty": "empty",
    "upstream_first_token_timeout": "timeout",
    "upstream_total_timeout": "timeout",
    "upstream_408": "timeout",
    "upstream_tls": "ours",
    "upstream_proxy": "ours",
    "upstream_quota": "ours",
    "model_loading": "ours",
    **{f"upstream_{status}": "ours" for status in (401, 402, 403, 404, 405)},
}


def kind(error: UpstreamError) -> Kind:
    return _KINDS.get(error.code, "busy" if error.status == 429 else "server")


class Budget:
    """What one call may still spend on trying again. `draw` gives numbers between 0 and 1."""

    __slots__ = ("_asked", "_attempts", "_deadline", "_draw", "_gate", "_spent")

    def __init__(
        self,
        attempts: int,
        deadline: float,
        gate: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`attempts`: requests in all; `deadline`: nobody is asked again after it; `gate`: until
        when a status can still be told. Nobody waits beyond that only to ask the same one again."""
        self._attempts = attempts
        self._deadline = deadline
        self._gate = min(gate, deadline)
        self._draw = draw
        self._spent: dict[tuple[str, Kind], int] = {}
        self._asked: dict[str, int] = {}

    def asked(self, deployment: str) -> None:
        """It has been, once more."""
        self._attempts -= 1
        self._asked[deployment] = self._asked.get(deployment, 0) + 1

    def allows(self, deployment: str, now: float) -> bool:
        """One that has not been asked may be, however long the others took."""
        return self._attempts > 0 and (deployment not in self._asked or now < self._deadline)

    def again(self, deployment: str, error: UpstreamError, now: float) -> float | None:
        """When this deployment may be asked again, in seconds from now; None: not in this call."""
        what = kind(error)
        spent = self._spent[deployment, what] = self._spent.get((deployment, what), 0) + 1
        if spent > BUDGETS[what]:
            return None
        wait = BACKOFF * 2 ** (self._asked.get(deployment, 0) - 1) * (0.5 + self._draw())
        wait = max(wait, error.retry_after or 0.0)
        return wait if now + wait < self._gate else None
