"""`legato mock` as an application developer uses it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

COMMAND = [sys.executable, "-m", "legato", "mock"]


@contextmanager
def mock(*arguments: str) -> Iterator[openai.OpenAI]:
    child = subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    url = child.stdout.readline().split(" at ")[1].split()[0]
    try:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client
    finally:
        child.terminate()
        child.communicate()


def say(client: openai.OpenAI, model: str) -> str:
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_the_model_names_the_script() -> None:
    with mock() as client:
        assert say(client, "happy") == "Once upon a time, there was a stream."
        with pytest.raises(openai.APIError, match="GPU"):
            say(client, "error-in-band")
        with pytest.raises(openai.RateLimitError):
            say(client, "429-then-ok")
        assert say(client, "429-then-ok").startswith("Once")
        with pytest.raises(openai.NotFoundError):
            say(client, "nothing")


def test_a_script_of_ones_own(tmp_path: Path) -> None:
    script = tmp_path / "mine.toml"
    script.write_text(
        'description = "two words"\nsteps = [{say = "Hello"}, {wait = 0.01}, {say = " you"},'
        ' {finish = "stop"}, {done = true}]\n'
    )
    with mock("--script", str(script)) as client:
        assert say(client, "whatever") == "Hello you"


@pytest.mark.parametrize(
    ("text", "named"),
    [("steps = 3", "steps"), ("stepz = []", "stepz"), ("[", "mine.toml"), (None, "--list")],
)
def test_a_wrong_script_is_named(tmp_path: Path, text: str | None, named: str) -> None:
    script = tmp_path / "mine.toml"
    if text is not None:
        script.write_text(text)
    done = subprocess.run([*COMMAND, "--script", str(script)], capture_output=True, text=True)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_says_what_each_does() -> None:
    done = subprocess.run([*COMMAND, "--list"], capture_output=True, text=True, check=True)
    assert "happy" in done.stdout
    assert "a valid answer" in done.stdout
