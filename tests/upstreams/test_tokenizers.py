"""The tokenizers that deployments name, and what they count where an upstream says nothing."""

import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from tokenizers import models, pre_tokenizers

from legato.core.dialect import Quirks
from legato.core.token_counting import SLICE
from legato.mock.server import MockServer, Script, Step
from legato.server import assembly
from legato.settings import SettingsError
from legato.upstreams.tokenizers import Tokenizer, TokenizerError, load
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request
from tests.upstreams.test_gguf import encoding

TEXT = "Once upon a time, there was a stream."  # ten words and signs


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer.json: words and signs are tokens. What it says of padding is not for us."""
    made: Any = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(3)
    made.enable_padding(length=50)
    path = tmp_path / "words.json"
    made.save(str(path))
    return path


ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
SAID = {"prompt_tokens": 7, "completion_tokens": 20, "total_tokens": 27}
EXACT = SAID | {"completion_tokens_details": {"reasoning_tokens": 1}}
THOUGHT = Step(think="Let me think.")
LONG = 3 * SLICE


def says(*steps: Step) -> list[Step]:
    return [*steps, Step(finish="stop"), Step(done=True)]


def then(usage: dict[str, Any], *steps: Step) -> list[Step]:
    return [*steps, Step(finish="stop"), Step(usage=usage), Step(done=True)]


CASES: dict[str, tuple[list[Step], tuple[int, int, int], tuple[str, str, str]]] = {
    # steps; tokens of prompt, completion and reasoning; where the ledger says that they are from
    "one-piece": (says(Step(say=TEXT)), (8, 10, 0), ("counted",) * 3),
    "mid-word": (says(Step(say="Once up"), Step(say="on a")), (8, 3, 0), ("counted",) * 3),
    "thoughts": (says(THOUGHT, Step(say="Yes.")), (8, 6, 4), ("counted",) * 3),
    "long": (says(Step(say="word ", repeat=LONG)), (8, LONG, 0), ("counted",) * 3),
    "choices": (
        [
            *(Step(say=say, choice=choice) for say in ("on", "e two") for choice in (0, 1)),
            *(Step(finish="stop", choice=choice) for choice in (0, 1)),
        ],
        (8, 4, 0),
        ("counted",) * 3,
    ),
    "call": (
        says(Step(tool={"index": 0, "id": "1", "function": {"name": "sum", "arguments": " 1"}})),
        (8, 2, 0),
        ("counted",) * 3,
    ),
    "empty-usage": (then({}, Step(say=TEXT)), (8, 10, 0), ("counted",) * 3),
    "zeros": (then(ZERO, Step(say=TEXT)), (0, 0, 0), ("exact", "exact", "counted")),
    "no-reasoning": (then(SAID, THOUGHT), (7, 20, 4), ("exact", "exact", "counted")),
    "all-reported": (then(EXACT, THOUGHT), (7, 20, 1), ("exact",) * 3),
    "broken": ([Step(say=TEXT), Step(cut=True)], (8, 10, 0), ("counted",) * 3),
    "broken-reported": (
        [Step(usage=SAID), Step(say=TEXT), Step(cut=True)],
        (7, 20, 0),
        ("partial", "partial", "counted"),
    ),
    "broken-lags": (
        [Step(usage=ZERO), Step(say=TEXT), Step(cut=True)],
        (0, 10, 0),
        ("partial", "counted", "counted"),
    ),
    "broken-early": ([Step(cut=True)], (0, 0, 0), ("none",) * 3),
}


@asynccontextmanager
async def counting(
    tmp_path: Path, scripted: MockServer, tokenizer: str | Path, **scripts: list[Step]
) -> AsyncIterator[Running]:
    scripted.scripts |= {name: Script(steps=steps) for name, steps in scripts.items()}
    base = await scripted.start()
    deploy = {"tokenizer": str(tokenizer)}
    async with serving(settings_for(tmp_path, base, scripts, deploy=deploy)) as running:
        yield running


def tokens(usage: dict[str, Any]) -> tuple[int, int, int]:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"], reasoning


async def test_what_an_upstream_does_not_say_is_counted(
    tmp_path: Path, scripted: MockServer, words: Path
) -> None:
    scripts = {name: case[0] for name, case in CASES.items()}
    async with counting(tmp_path, scripted, words, **scripts) as legato:
        for name, (_, numbers, _) in CASES.items():
            more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
            streamed = await ask(legato.port, legato.key, chat(name, **more))
            folded = await ask(legato.port, legato.key, chat(name))
            if name.startswith("broken"):
                assert streamed.error is not None
                assert folded.error is not None
            else:
                assert tokens(streamed.chunks[-1]["usage"]) == numbers, name
                assert tokens(folded.json["usage"]) == numbers, name
        rows = await legato.rows()
    assert [row["route"] for row in rows] == [name for name in CASES for _ in range(2)]
    for row in rows:
        _, numbers, sources = CASES[row["route"]]
        kinds = ("prompt", "completion", "reasoning")
        assert tuple(row[f"{kind}_tokens"] for kind in kinds) == numbers, row["route"]
        assert tuple(row[f"{kind}_from"] for kind in kinds) == sources, row["route"]


async def test_a_client_that_leaves_is_counted_as_far_as_it_came(
    tmp_path: Path, scripted: MockServer, words: Path
) -> None:
    steps = [Step(say="Once upon a time,"), Step(stall=True)]
    async with counting(tmp_path, scripted, words, slow=steps) as legato:
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("slow", stream=True)))
            await wire.head()
            while b"time" not in await wire.chunk():
                pass
        await until(lambda: not legato.server.server_state.tasks)
        (row,) = await legato.rows()
    assert (row["outcome"], row["completion_from"], row["prompt_from"]) == (
        "cancelled",
        "counted",
        "counted",
    )
    assert (row["prompt_tokens"], row["completion_tokens"]) == (8, 5)


async def test_one_counts_its_own_part_of_an_answer_that_another_goes_on_with(
    tmp_path: Path, scripted: MockServer, words: Path
) -> None:
    scripted.scripts["half"] = Script(steps=[THOUGHT, Step(say=TEXT), Step(cut=True)])
    scripted.scripts["rest"] = Script(steps=says(Step(say=" And so"), Step(say=" on.")))
    base = await scripted.start()
    deployments = [
        {"name": name, "model": name, "base_url": base, **more} | {"tokenizer": str(words)}
        for name, more in (("half", {}), ("rest", {"continue": "prefill"}))
    ]
    routes = [{"model": "public", "deployments": ["half", "rest"]}]
    settings = settings_for(tmp_path, None, deployments=deployments, routes=routes)
    async with serving(settings) as legato:
        legato.app.upstreams["rest"].quirks = Quirks(continues="prefill", continues_reasoning=True)
        answer = await ask(legato.port, legato.key, chat("public"))
        assert answer.json["choices"][0]["message"]["content"] == TEXT + " And so on."
        assert tokens(answer.json["usage"]) == (8, 14 + 4, 4)
        (row,) = await legato.rows()
    assert row["continuations"] == 1
    assert (row["prompt_from"], row["completion_from"]) == ("counted", "counted")


async def test_choices_that_were_asked_for_one_by_one(
    tmp_path: Path, scripted: MockServer, words: Path
) -> None:
    scripted.scripts["one"] = Script(steps=says(Step(say=TEXT)))
    base = await scripted.start()
    deploy = {"tokenizer": str(words), "n": "fan-out"}
    async with serving(settings_for(tmp_path, base, ["one"], deploy=deploy)) as legato:
        answer = await ask(legato.port, legato.key, chat("one", n=3))
        assert tokens(answer.json["usage"]) == (8, 30, 0), "the prompt is the same for all"


async def test_a_long_prompt(tmp_path: Path, scripted: MockServer, words: Path) -> None:
    async with counting(tmp_path, scripted, words, short=says(Step(say=TEXT))) as legato:
        messages = [{"role": "user", "content": "word " * LONG}]
        answer = await ask(legato.port, legato.key, chat("short", messages=messages))
        assert tokens(answer.json["usage"]) == (LONG + 7, 10, 0)


def test_what_is_long_is_counted_in_a_thread_and_what_has_to_wait_there_is_not() -> None:
    here, busy, go_on = threading.current_thread(), threading.Event(), threading.Event()
    by: list[bool] = []

    def encode(text: str) -> str:
        by.append(threading.current_thread() is here)
        if not by[-1]:
            busy.set()
            assert go_on.wait(10)
        return text

    tokenizer = Tokenizer(encode)
    first = tokenizer.begin(["x" * (SLICE - 1), "yz"])
    assert busy.wait(10)
    second = tokenizer.begin(["x" * (SLICE + 1)])
    assert second() == SLICE + 1
    assert by == [False, True, True]
    go_on.set()
    assert first() == SLICE + 1
    assert by.count(False) == 2
    short = tokenizer.begin(["x" * SLICE])
    assert len(by) == 4, "nothing is counted before it is asked for"
    assert short() == SLICE
    assert by[-1]


# tiktoken


def test_an_encoding_of_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = encoding("o200k_base", r" ?\w+|\W", "he", "ll", "hell")
    monkeypatch.setattr(tiktoken, "get_encoding", {"o200k_base": mine}.__getitem__)
    counted = load("o200k_base", {})
    assert counted.count("hello") == 2
    assert counted.count("<|endoftext|>") == 13, "a text is a text, whatever it looks like"
    assert counted.count("") == 0
    assert counted.count("hell " * LONG) == 2 * LONG


# What cannot be used

UNUSABLE: dict[str, tuple[str, bytes | None, str]] = {
    "an unknown name": ("o201k", None, "not a tiktoken encoding (gpt2"),
    "no tokenizer.json": ("x.json", None, "there is no file"),
    "another JSON file": ("x.json", b"{}", "x.json is not a tokenizer.json"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_reported_in_one_sentence(tmp_path: Path, name: str) -> None:
    file, content, sentence = UNUSABLE[name]
    path = tmp_path / file if "." in file else file
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        load(str(path), {})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoding_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise ConnectionError(f"no way to get {name}")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(TokenizerError, match="cannot be downloaded"):
        load("o200k_base", {})


@pytest.mark.parametrize(
    ("name", "package"),
    [("o200k_base", "tiktoken"), ("x.gguf", "tiktoken"), ("x.json", "tokenizers")],
)
def test_a_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TokenizerError, match=f"needs the package {package}: pip install"):
        load(name, {})


def test_a_server_does_not_start_without_its_tokenizer(tmp_path: Path) -> None:
    deploy = {"tokenizer": str(tmp_path / "none.json")}
    settings = settings_for(tmp_path, "http://127.0.0.1:9/v1", ["m"], deploy=deploy)
    with pytest.raises(SettingsError, match="deployments `at-m`: tokenizer: there is no file"):
        assembly.load_tokenizers(settings, {}, [])


def test_at_the_command_line_that_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    config = tmp_path / "legato.toml"
    config.write_text(
        '[[deployments]]\nname = "far"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'tokenizer = "none.json"\n[server]\nport = 0\n'
    )
    command = [sys.executable, "-m", "legato", "serve", "--config", str(config), "--data", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    message = "legato: deployments `far`: tokenizer: there is no file none.json\n"
    assert ended.stderr == message
    assert ended.stdout == ""


def test_nothing_is_imported_where_no_deployment_names_a_tokenizer() -> None:
    code = "import json, sys, legato.server.app; print(json.dumps(sorted(sys.modules)))"
    there = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert "legato.upstreams.tokenizers" in there
    assert not {"tiktoken", "tokenizers"} & set(there)
