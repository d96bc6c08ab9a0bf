"""What the row of each call must say."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from legato.mock.server import RecordedRequest
from tests.support.books.played import Plan

KINDS: Final = ("prompt", "completion", "reasoning", "cached")

Json = dict[str, Any]

#: What a row must say of each kind: outcome, error, and where its numbers are from. "sent" are the
#: upstream's, of the whole answer or ("so far") as it told them before it broke; "sent" is what it
#: sent and was read, to the last piece; "some" a part of it.
BOOKS: dict[str, tuple[str, str | None, str]] = {
    "text": ("complete", None, "result"),
    "text, untold": ("complete", None, "sent"),
    "thoughts": ("complete", None, "result"),
    "thoughts, untold": ("complete", None, "sent"),
    "tools": ("complete", None, "result"),
    "tools, untold": ("complete", None, "sent"),
    "native": ("complete", None, "result"),
    "fan": ("complete", None, "result"),
    "fan, untold": ("complete", None, "sent"),
    "cut": ("failed", "upstream_cut", "sent"),
    "cut, told": ("failed", "upstream_cut", "so far"),
    "error": ("failed", "gpu_lost", "sent"),
    "stall": ("failed", "upstream_stalled", "sent"),
    "fan cut": ("failed", "upstream_cut", "some"),
    "500": ("failed", "upstream_500", "none"),
    "400": ("refused", "no_way", "none"),
    "leave": ("cancelled", None, "sent"),
    "leave, told": ("cancelled", None, "so far"),
    "leave native": ("cancelled", None, "sent"),
    "fan leave": ("cancelled", None, "sent"),
    "leave early": ("cancelled", None, "some"),
    "drained": ("cancelled", None, "result"),
}


def is_right(plan: Plan, row: Json, played: list[RecordedRequest]) -> None:
    outcome, error, basis = BOOKS[plan.kind]
    told = (row["outcome"], row["error"])
    assert told == (outcome, error), f"the row says {told}"
    assert row["front"] == plan.front.name
    assert row["streamed"] is plan.is_streamed
    assert (row["deployments"], row["attempts"]) == (plan.deployment, 1)
    if plan.identity is not None:
        assert row["id"].endswith(plan.identity), f"{row['id']}, told {plan.identity}"
    if plan.leaves == 0 and basis != "result":
        basis = "some"  # of an answer that its client has not seen
    if basis in ("result", "so far"):
        of_usage(plan, row, sure="exact" if basis == "result" else "partial")
    else:
        of_pieces(plan, row, played, whole=basis == "sent")


def of_usage(plan: Plan, row: Json, *, sure: str) -> None:
    """The prompt counts once, whatever number of requests it was sent in."""
    sent, times = plan.sent, plan.asked
    completion, reasoning = sent.result["completion"] * times, sent.result["reasoning"] * times
    wanted = sent.result | {"completion": completion, "reasoning": reasoning}
    found = {kind: row[f"{kind}_tokens"] for kind in KINDS}
    assert found == wanted, f"{found}, not {wanted}"
    froms = dict.fromkeys(KINDS, sure)
    if not sent.tells_reasoning:
        froms["reasoning"] = "counted"
    found = {kind: row[f"{kind}_from"] for kind in KINDS}
    assert found == froms, f"{found}, not {froms}"


def of_pieces(plan: Plan, row: Json, played: list[RecordedRequest], *, whole: bool) -> None:
    """Without a usage, what came counts; and the upstream knows what it has sent."""
    pieces = sum(each.content_tokens + each.reasoning_tokens for each in played)
    thoughts = sum(each.reasoning_tokens for each in played)
    completion, reasoning = row["completion_tokens"], row["reasoning_tokens"]
    told = row["completion_from"] == "partial"  # it had sent its usage, where that was read
    if told:
        assert plan.kind == "leave, told"
        of_usage(plan, row, sure="partial")
        return
    if whole:
        found, wanted = (completion, reasoning), (pieces, thoughts)
        assert found == wanted, f"{found} of {wanted}"
    else:
        assert plan.seen <= completion <= pieces, f"{plan.seen} <= {completion} <= {pieces}"
        assert reasoning <= min(thoughts, completion)
    counted = "counted" if completion else "none"
    assert (row["completion_from"], row["reasoning_from"]) == (counted, counted)
    assert (row["prompt_tokens"], row["prompt_from"]) == (0, "none")
    assert (row["cached_tokens"], row["cached_from"]) == (0, "none")


def was_played(plan: Plan, played: list[RecordedRequest]) -> None:
    """The upstream was asked as often as it should be, and heard to its end or left."""
    outcome, _, _ = BOOKS[plan.kind]
    if plan.kind == "fan cut":
        assert 1 <= len(played) <= plan.asked
    else:
        assert len(played) == plan.asked
    assert all(each.model == plan.deployment for each in played)
    if outcome == "complete" or plan.kind == "drained":
        assert all(each.is_complete for each in played)
        sent = sum(each.content_tokens + each.reasoning_tokens for each in played)
        assert sent == plan.sent.pieces * plan.asked
        assert sum(each.reasoning_tokens for each in played) == plan.sent.thoughts * plan.asked
        seen = sent if plan.is_streamed and plan.leaves != 0 else 0
        assert plan.seen == seen, f"its client has seen {plan.seen} of {seen}"
    elif outcome == "cancelled":
        assert all(each.is_disconnected and not each.is_complete for each in played)


def reconcile(
    books: Json, plans: Sequence[Plan], asked_by: Callable[[Plan], list[RecordedRequest]]
) -> None:
    """One row for each call, each of them right, and their sums. `asked_by`: what the upstream has
    played for a call."""
    rows = {row["route"]: row for row in books["rows"]}
    ids = {row["id"] for row in books["rows"]}
    found = (len(books["rows"]), len(rows), len(ids))
    assert found == (len(plans),) * 3, f"rows, calls, ids: {found}"
    wrong: list[str] = []
    for plan in plans:
        row, played = rows[plan.name], asked_by(plan)
        try:
            was_played(plan, played)
            is_right(plan, row, played)
        except AssertionError as error:
            streams = "streamed" if plan.is_streamed else "whole"
            wrong.append(
                f"{plan.name}: {plan.kind}, {plan.front.name}, {streams},"
                f" leaves {plan.leaves}: {error}"
            )
    assert not wrong, "\n\n".join([f"{len(wrong)} of {len(plans)} calls", *wrong[:10]])
    total = {kind: sum(row[f"{kind}_tokens"] for row in rows.values()) for kind in KINDS}
    assert {kind: books["total"][f"{kind}_tokens"] for kind in KINDS} == total
    assert books["total"]["calls"] == len(plans)
    assert Counter(books["outcomes"]) == Counter(BOOKS[plan.kind][0] for plan in plans)
