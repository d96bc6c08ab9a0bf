"""The examples of docs/messages.md, run as they stand in front of the scripted upstream."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.conftest import serving, settings_for
from tests.support import examples
from tests.support.messages_order import MessagesBody


def all_examples() -> list[Any]:
    return [
        pytest.param(language, code, id=f"{language}-{number}")
        for language in ("python", "bash")
        for number, code in enumerate(examples.of_page("messages.md", language))
    ]


@pytest.mark.parametrize(("language", "code"), all_examples())
async def test_examples_run_as_they_stand(
    tmp_path: Path, scripted: MockServer, language: str, code: str
) -> None:
    model = "tools" if "tools=" in code else "happy"
    assert model in SCRIPTS
    base = await scripted.start()
    async with serving(settings_for(tmp_path, base, [model])) as legato:
        for placeholder, value in (
            ("SERVER_URL", legato.url),
            ("YOUR_API_KEY", legato.key),
            ("MODEL", model),
        ):
            code = code.replace(placeholder, value)
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-c", code]
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    if language == "bash":
        assert MessagesBody(output).is_whole
    elif model == "tools":
        assert output.decode().splitlines() == ["tool_use {'a': 1, 'b': 2}", "tool_use {}"]
    else:
        assert output.decode() == "Once upon a time, there was a stream.\n10 tokens\n"
