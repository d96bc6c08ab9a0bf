"""Alerts of budgets: each threshold once, signed, and sent again until it is taken."""

import hashlib
import hmac
import json
from typing import Any

import httpx
import pytest

from legato.server.budget_alerts import RETRIES, SIGNATURE, BudgetAlerts
from legato.store.live import Crossed

SECRET = "whsec"
HALF = Crossed("owner:team:usd:2026-11", "budget_usd", 50, 5.25, 10.0)


class Receiver:
    """Takes webhooks; answers with `statuses`, then with 200. None: the line breaks."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = list(statuses)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now = 1_000.9
        self.alerts = BudgetAlerts(
            "https://hooks.example/x?token=t",
            SECRET,
            clock=lambda: self.now,
            sleep=self.sleep,
            transport=httpx.MockTransport(self.take),
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def take(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        if status is None:
            raise httpx.ConnectError("no route")
        return httpx.Response(status)


async def test_what_is_sent() -> None:
    receiver = Receiver()
    receiver.alerts.crossed(HALF)
    await receiver.alerts.stop()
    (request,) = receiver.requests
    assert json.loads(request.content) == {
        "event": "budget.threshold",
        "time": 1000,
        "budget": "owner:team",
        "unit": "usd",
        "period": "2026-11",
        "percent": 50,
        "spent": 5.25,
        "amount": 10.0,
    }
    moment, _, code = request.headers[SIGNATURE].partition(",v1=")
    assert moment == "t=1000"
    wanted = hmac.new(SECRET.encode(), b"1000." + request.content, hashlib.sha256).hexdigest()
    assert code == wanted


@pytest.mark.parametrize("statuses", [[500], [None, 429, 302], [503] * len(RETRIES)])
async def test_it_is_sent_again_until_it_is_taken(statuses: list[Any]) -> None:
    receiver = Receiver(*statuses)
    receiver.alerts.crossed(HALF)
    await receiver.alerts.stop()
    assert len(receiver.requests) == len(statuses) + 1
    assert receiver.slept == list(RETRIES[: len(statuses)])
    assert (receiver.alerts.sent, receiver.alerts.given_up) == (1, 0)
    assert len({each.content for each in receiver.requests}) == 1
    signed = [each.headers[SIGNATURE] for each in receiver.requests]
    assert len(set(signed)) == len(signed), "each try says when it was made"


async def test_a_message_that_nobody_takes_does_not_hold_up_the_next() -> None:
    receiver = Receiver(*[500] * (len(RETRIES) + 1))
    receiver.alerts.crossed(HALF)
    receiver.alerts.crossed(Crossed(HALF.name, "budget_usd", 80, 8.0, 10.0))
    await receiver.alerts.stop()
    assert (receiver.alerts.sent, receiver.alerts.given_up) == (1, 1)
    assert json.loads(receiver.requests[-1].content)["percent"] == 80


async def test_without_a_webhook_nothing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    alerts = BudgetAlerts()
    alerts.crossed(HALF)
    await alerts.stop()
    assert "budget_threshold" in capsys.readouterr().out
