"""The two forms of a heartbeat, and who gets which (contract, section 4)."""

from pathlib import Path
from typing import Any

import pytest

from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.conftest import serving, settings_for
from tests.support.wire import Wire, ask, chat, request

SILENCE = {"index": 0, "delta": {}, "finish_reason": None}

#: The setting, the client's name, what it gets.
CLIENTS: list[tuple[str | None, str, str]] = [
    (None, "OpenAI/Go 3.42.0", "chunk"),
    (None, "OpenAI/Go 2.99.9", "chunk"),
    (None, "OpenAI/Go 3.43.0", "comment"),
    (None, "OpenAI/Go 3.100.0", "comment"),
    (None, "OpenAI/Go 10.0.0", "comment"),
    (None, "OpenAI/Python 1.2.3", "comment"),
    (None, "OpenAI/Go", "comment"),
    ("chunk", "curl/8", "chunk"),
    ("comment", "OpenAI/Go 3.42.0", "comment"),
]


@pytest.mark.parametrize(("setting", "agent", "wanted"), CLIENTS)
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("usage", [False, True])
async def test_a_heartbeat(
    tmp_path: Path,
    scripted: MockServer,
    setting: str | None,
    agent: str,
    wanted: str,
    begun: bool,
    usage: bool,
) -> None:
    """Before the first chunk and behind it; it is no progress, so that the stream still stalls."""
    words = [Step(say="Hello"), Step(say=" world")] if begun else []
    scripted.scripts["silent"] = Script(steps=[*words, Step(stall=True)])
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["silent"],
        deploy={"first_token_seconds": 0.3, "stall_seconds": 0.3},
        **{
            "streams.gate_seconds": 0.05,
            "streams.heartbeat_seconds": 0.06,
            **({"streams.heartbeat": setting} if setting else {}),
        },
    )
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    async with serving(settings) as running, await Wire.open(running.port) as wire:
        body = chat("silent", stream=True, **more)
        wire.send(request(running.key, body, **{"user-agent": agent}))
        answer = await wire.answer()
    assert answer.error is not None
    assert answer.error["code"] in ("upstream_stalled", "upstream_first_token_timeout")
    silent = [each for each in answer.chunks if each["choices"] == [SILENCE]]
    assert bool(silent) is (wanted == "chunk")
    assert (b": keep-alive\n\n" in answer.body) is (wanted == "comment")
    head = {each: answer.chunks[0][each] for each in ("id", "created", "model")} if silent else {}
    for each in silent:
        assert each.items() >= head.items()
        assert ("usage" in each) is usage
        assert each.get("usage") is None


async def test_the_progress_of_a_prompt_is_a_comment(tmp_path: Path, scripted: MockServer) -> None:
    """As far as the upstream tells it, and until its answer begins."""
    progress = {"choices": [], "prompt_progress": {"total": 8, "cache": 0, "processed": 2}}
    steps = [
        Step(chunk=progress),
        Step(wait=0.2),
        Step(say="Hello"),
        Step(wait=0.2),
        Step(finish="stop"),
        Step(done=True),
    ]
    scripted.scripts["reads"] = Script(steps=steps)
    timers = {"streams.gate_seconds": 0.05, "streams.heartbeat_seconds": 0.06}
    settings = settings_for(tmp_path, await scripted.start(), ["reads"], **timers)
    async with serving(settings) as running:
        answer = await ask(running.port, running.key, chat("reads", stream=True))
    assert answer.done
    first = next(at for at, frame in enumerate(answer.frames) if frame.startswith(b"data:"))
    assert b": prefill 25%" in answer.frames[:first]
    behind = {frame for frame in answer.frames[first:] if frame.startswith(b":")}
    assert behind == {b": keep-alive"}
