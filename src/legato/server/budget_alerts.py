"""Tells the operator when 50, 80 and 100 % of a budget are spent: in the log, and by a webhook."""

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from legato.store.live import Crossed

if TYPE_CHECKING:  # it takes memory that most servers can do without
    import httpx

#: Messages that wait for a webhook that is away. Older ones go.
MAX_WAITING: Final = 1000

#: Seconds before each further try; then a message is given up.
RETRIES: Final = (1.0, 5.0, 25.0, 125.0, 600.0)

_TIMEOUT: Final = 10.0

SIGNATURE: Final = "x-legato-signature"


def signature(secret: str, moment: int, body: bytes) -> str:
    """`t=UNIX,v1=HEX`: HMAC-SHA256 of the time, a dot, and the body. Whoever checks it also looks
    at the time, so that an old message cannot be sent again."""
    signed = hmac.new(secret.encode(), b"%d.%b" % (moment, body), hashlib.sha256)
    return f"t={moment},v1={signed.hexdigest()}"


class BudgetAlerts:
    """`clock` gives Unix seconds; `sleep` waits for seconds."""

    def __init__(
        self,
        webhook: str | None = None,
        secret: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Any] = asyncio.sleep,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        self.sent = 0
        self.given_up = 0
        self._webhook = webhook
        self._secret = secret or ""
        self._clock = clock
        self._sleep = sleep
        self._transport = transport
        self._log = structlog.get_logger("legato")
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def crossed(self, passed: Crossed) -> None:
        """A budget has passed a threshold. Returns at once."""
        subject, unit, period = _parts(passed.name)
        said: dict[str, Any] = {
            "budget": subject,
            "unit": unit,
            "period": period,
            "percent": passed.percent,
            "spent": passed.spent,
            "amount": passed.amount,
        }
        self._log.warning("budget_threshold", **said)
        if self._webhook is None:
            return
        event = {"event": "budget.threshold", "time": int(self._clock())} | said
        self._waiting.append(msgspec.json.encode(event))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send(), name="webhook")

    async def stop(self, seconds: float = 5.0) -> None:
        """Sends what waits, if that does not take long."""
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        if not done:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        import httpx

        async with httpx.AsyncClient(timeout=_TIMEOUT, transport=self._transport) as client:
            while self._waiting:
                await self._deliver(client, self._waiting.popleft())

    async def _deliver(self, client: "httpx.AsyncClient", body: bytes) -> None:
        for wait in (*RETRIES, None):
            problem = await self._post(client, body)
            if problem is None:
                self.sent += 1
                return
            if wait is None:
                self.given_up += 1
                self._log.error("webhook_failed", problem=problem)
                return
            await self._sleep(wait)

    async def _post(self, client: "httpx.AsyncClient", body: bytes) -> str | None:
        """What went wrong; None: nothing. Neither address nor answer is told: they may be
        secret."""
        import httpx

        assert self._webhook is not None
        signed = signature(self._secret, int(self._clock()), body)
        headers = {"content-type": "application/json", SIGNATURE: signed}
        try:
            answer = await client.post(self._webhook, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__
        return None if answer.is_success else f"status {answer.status_code}"


def _parts(name: str) -> tuple[str, str, str]:
    """(subject, unit, period) of a budget's counter."""
    rest, _, period = name.rpartition(":")
    subject, _, unit = rest.rpartition(":")
    return subject, unit, period
