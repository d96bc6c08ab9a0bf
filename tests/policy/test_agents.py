"""The name of a client's program, as its headers tell it."""

import re

import pytest

from legato.policy.agents import MAX_LENGTH, MAX_NAME_LENGTH, MAX_VERSION_LENGTH, agent_of

USER_AGENTS: dict[str, str | None] = {
    # coding agents
    "claude-cli/2.1.197 (external, cli)": "claude-code/2.1.197",
    "claude-cli/2.1.76 (external, claude-vscode, agent-sdk/0.2.76)": "claude-code/2.1.76",
    "codex_cli_rs/0.171.0 (Ubuntu 24.4.0; x86_64) xterm-256color": "codex/0.171.0",
    "codex_exec/0.171.0 (Mac OS 26.2.0; arm64) unknown (codex_exec; 0.171.0)": "codex/0.171.0",
    "codex-tui/0.156.0 (Mac OS 26.0.0; arm64) iTerm.app/3.6.1": "codex/0.156.0",
    "codex_vscode/0.170.1": "codex/0.170.1",
    "codexify/1.0": "codexify/1.0",
    "opencode/1.18.33 ai-sdk/openai-compatible/2.0.60 runtime/bun/1.3": "opencode/1.18.33",
    "QwenCode/0.15.10 (linux; x64)": "qwen-code/0.15.10",
    "GeminiCLI/0.30.0/gemini-3 (linux; x64)": "GeminiCLI/0.30.0/gemini-3",
    # SDKs and libraries
    "ai-sdk/openai/3.0.41 ai-sdk/provider-utils/4.0.1": "ai-sdk/openai/3.0.41",
    "OpenAI/Python 2.30.0": "openai-python/2.30.0",
    "AsyncOpenAI/Python 2.30.0": "openai-python/2.30.0",
    "OpenAI/JS 6.40.0": "openai-js/6.40.0",
    "Anthropic/JS 0.94.0": "anthropic-js/0.94.0",
    "AsyncAnthropic/Python 0.90.0": "anthropic-python/0.90.0",
    "OpenAI/Python": "openai-python",
    "curl/8.5.0": "curl/8.5.0",
    "node": "node",
    "Mozilla/5.0 (X11; Linux x86_64)": "Mozilla/5.0",
    "  padded/1 ": "padded/1",
    # what is no product
    "": None,
    " ": None,
    "(only a comment)": None,
    "\x1b[31m/1": None,
    "žluťoučký/1": None,
    "a\x00b/1": "a",
    "/1.0": None,
    "name/": "name",
    "name/latest": "name/latest",
    "name/v2": "name/v2",
}


@pytest.mark.parametrize("user_agent", USER_AGENTS)
def test_the_first_product_counts(user_agent: str) -> None:
    assert agent_of(user_agent.encode()) == USER_AGENTS[user_agent]


def test_a_client_that_says_nothing() -> None:
    assert agent_of(None) is None
    assert agent_of(None, b"") is None


TITLES: dict[str, tuple[bytes | None, bytes, str | None]] = {
    # user agent, `x-title`, agent
    "an SDK": (b"OpenAI/JS 6.40.0", b"Cline", "cline"),
    "a library": (b"python-httpx/0.28.1", b"My Editor", "my-editor"),
    "the AI SDK": (b"ai-sdk/openai-compatible/2.0.60", b"Z Code@cli", "z-code@cli"),
    "no user agent": (None, b"Roo Code", "roo-code"),
    "a program's own name": (b"opencode/1.18.33", b"something", "opencode/1.18.33"),
    "an empty title": (b"OpenAI/JS 6.40.0", b"", "openai-js/6.40.0"),
    "a title without letters": (b"OpenAI/JS 6.40.0", b" \x1b[ ", "openai-js/6.40.0"),
    "a long title": (None, b"x" * 5000, "x" * MAX_NAME_LENGTH),
}


@pytest.mark.parametrize("case", TITLES)
def test_a_title_names_the_program_behind_a_library(case: str) -> None:
    user_agent, title, agent = TITLES[case]
    assert agent_of(user_agent, title) == agent


@pytest.mark.parametrize(
    "user_agent",
    [
        b"x" * 100_000,
        b"name/" + b"1" * 100_000,
        b"n" * 300 + b"/1.0",
        b"a/" * 50_000,
        b"OpenAI/" + b"P" * 200 + b" 1.0",
        bytes(range(256)),
        b"a" * 39 + b"/" + b"\xff" * 100,
    ],
)
def test_length_and_characters_are_bounded(user_agent: bytes) -> None:
    agent = agent_of(user_agent)
    if agent is not None:
        assert len(agent) <= MAX_LENGTH == MAX_NAME_LENGTH + 1 + MAX_VERSION_LENGTH
        assert re.fullmatch(r"[\w.+@/-]+", agent, re.ASCII)
