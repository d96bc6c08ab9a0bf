"""Makes a failing conversation small: leaves out whatever is not needed for the failure."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tests.support.oracle.conversation import Block, Conversation, Deployment, Exchange, Script

Test = Callable[[Conversation], bool]

#: Seconds after which the smallest one so far is good enough.
_PATIENCE: Final = 30.0

_SIMPLE = Exchange()


def shrunk(conversation: Conversation, fails: Test) -> Conversation:
    """A small conversation that fails as well. `conversation` does."""
    until = time.monotonic() + _PATIENCE
    is_smaller = True
    while is_smaller and time.monotonic() < until:
        is_smaller = False
        for simplify in (_fewer_exchanges, _fewer_blocks, _plain_settings, _plain_parts):
            while (smaller := _first(simplify(conversation), fails, until)) is not None:
                conversation, is_smaller = smaller, True
    return conversation


def _first(candidates: Iterator[Conversation], fails: Test, until: float) -> Conversation | None:
    for each in candidates:
        if time.monotonic() > until:
            break
        if fails(each):
            return each
    return None


def _fewer_exchanges(conversation: Conversation) -> Iterator[Conversation]:
    exchanges = conversation.exchanges
    for at in reversed(range(len(exchanges))):
        if len(exchanges) > 1:
            yield replace(conversation, exchanges=_without(exchanges, at, 1))
    if len(conversation.deployments) > 1:
        for at in range(len(conversation.deployments)):
            yield replace(
                conversation,
                deployments=_without(conversation.deployments, at, 1),
                exchanges=[
                    replace(each, scripts=_without(each.scripts, at, 1)) for each in exchanges
                ],
            )


def _fewer_blocks(conversation: Conversation) -> Iterator[Conversation]:
    for change, script in _scripts(conversation):
        size = len(script.blocks)
        while size:
            size //= 2
            for at in range(0, len(script.blocks), max(size, 1)):
                yield change(replace(script, blocks=_without(script.blocks, at, max(size, 1))))


def _plain_settings(conversation: Conversation) -> Iterator[Conversation]:
    for name in ("max_continuations", "counts_both_prompts", "padding", "heartbeat"):
        yield from _plain(conversation, name, Conversation([]))
    for name in ("heartbeat_seconds", "gate_seconds", "backlog_bytes"):
        yield from _plain(conversation, name, Conversation([]))
    for at, deployment in enumerate(conversation.deployments):
        for name in Deployment.__struct_fields__:
            for simple in _plain(deployment, name, Deployment()):
                deployments = _with(conversation.deployments, at, simple)
                yield replace(conversation, deployments=deployments)
    for at, exchange in enumerate(conversation.exchanges):
        for simple in _plain_exchange(exchange):
            yield replace(conversation, exchanges=_with(conversation.exchanges, at, simple))


def _plain_exchange(exchange: Exchange) -> Iterator[Exchange]:
    if exchange.front != _SIMPLE.front:
        yield replace(exchange, front=_SIMPLE.front, body=b"")
    for name in ("body", "is_secure", "user_agent", "idle_seconds"):
        yield from _plain(exchange, name, _SIMPLE)
    if exchange.body:
        members = msgspec.json.decode(exchange.body)
        for name in members.keys() - {"model", "messages", "input", "prompt", "max_tokens"}:
            rest = {key: value for key, value in members.items() if key != name}
            yield replace(exchange, body=msgspec.json.encode(rest))
    for number, scripts in enumerate(exchange.scripts):
        if scripts:
            yield replace(exchange, scripts=_with(exchange.scripts, number, scripts[:-1]))


def _plain_parts(conversation: Conversation) -> Iterator[Conversation]:
    for change, script in _scripts(conversation):
        for name in Script.__struct_fields__:
            if name != "blocks":
                yield from map(change, _plain(script, name, Script()))
        for at, block in enumerate(script.blocks):
            for name in ("size_form", "cuts", "ends_read", "before"):
                for simple in _plain(block, name, Block(b"")):
                    yield change(replace(script, blocks=_with(script.blocks, at, simple)))


def _scripts(
    conversation: Conversation,
) -> Iterator[tuple[Callable[[Script], Conversation], Script]]:
    """Each script, and what makes the conversation with another one in its place."""
    exchanges = conversation.exchanges
    for one, exchange in enumerate(exchanges):
        for two, scripts in enumerate(exchange.scripts):
            for three, script in enumerate(scripts):

                def change(
                    script: Script,
                    one: int = one,
                    two: int = two,
                    three: int = three,
                    exchange: Exchange = exchange,
                    scripts: list[Script] = scripts,
                ) -> Conversation:
                    others = _with(exchange.scripts, two, _with(scripts, three, script))
                    changed = replace(exchange, scripts=others)
                    return replace(conversation, exchanges=_with(exchanges, one, changed))

                yield change, script


def _plain(value: Any, name: str, default: Any) -> Iterator[Any]:
    usual = getattr(default, name)
    if getattr(value, name) is not usual:  # what is equal is not left out of a `repr`
        yield replace(value, **{name: usual})


def _with(items: list[Any], at: int, item: Any) -> list[Any]:
    return [*items[:at], item, *items[at + 1 :]]


def _without(items: list[Any], at: int, size: int) -> list[Any]:
    return [*items[:at], *items[at + size :]]
