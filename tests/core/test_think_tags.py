"""`<think>` tags, split at any place."""

import itertools
import random
from pathlib import Path

import pytest

from legato.core.think_tags import TagSplitter
from legato.mock.server import MockServer
from tests.conftest import serving, settings_for
from tests.support.wire import ask, chat

CASES: dict[str, tuple[str, str, str]] = {
    # text: reasoning, answer
    "plain": ("Forty-two.", "", "Forty-two."),
    "tags": ("<think>Let me see</think>Forty-two", "Let me see", "Forty-two"),
    "white space": (" \n<think>\nLet me\n</think>\n\nForty", "Let me\n", "Forty"),
    "never closed": ("<think>Let me see </thin", "Let me see </thin", ""),
    "only an opening": ("<think>", "", ""),
    "a part of a tag": ("<thi", "", "<thi"),
    "looks like one": ("<thinker>yes</thinker>", "", "<thinker>yes</thinker>"),
    "nested-looking": ("<think>a <think> b</think>c</think>", "a <think> b", "c"),
    "in the answer": ("Use <think> and </think>.", "", "Use <think> and </think>."),
    "in a code fence": ("<think>x</think>```\n<think>\n```", "x", "```\n<think>\n```"),
    "angle brackets": ("<think>a < b </ c <</think><b>", "a < b </ c <", "<b>"),
    "empty thoughts": ("<think></think>Yes", "", "Yes"),
    "only white space": ("  \n", "", "  \n"),
    "unicode": ("<think>žluť🐎</think>kůň", "žluť🐎", "kůň"),
}


def split(pieces: list[str], *, opened: bool = False) -> tuple[str, str]:
    splitter = TagSplitter(opened=opened)
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.close()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize("case", CASES)
def test_split_anywhere(case: str) -> None:
    text, reasoning, answer = CASES[case]
    draw = random.Random(case)
    assert split([text]) == (reasoning, answer)
    assert split(list(text)) == (reasoning, answer)
    for _ in range(500):
        places = sorted(draw.randrange(len(text) + 1) for _ in range(draw.randrange(6)))
        edges = [0, *places, len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
        assert split(pieces) == (reasoning, answer), pieces


def test_an_answer_that_begins_inside() -> None:
    for pieces in (["Let me</think>\nYes"], list("Let me</think>\nYes")):
        assert split(pieces, opened=True) == ("Let me", "Yes")


def test_at_most_a_partial_tag_is_held_back() -> None:
    splitter = TagSplitter()
    shown = ""
    text = "<think>" + "thought " * 50
    for letter in text:
        shown += splitter.feed(letter)[0]
    assert len("thought " * 50) - len(shown) <= len("</think>")


def test_white_space_without_end_is_an_answer() -> None:
    """What comes before a tag waits for it, but not for ever."""
    splitter = TagSplitter()
    shown = "".join(splitter.feed(" ")[1] for _ in range(1_000))
    assert 1_000 - len(shown) <= 256
    assert splitter.feed("<think>a") == ("", "<think>a")


@pytest.mark.parametrize("stream", [True, False])
async def test_only_where_the_deployment_says_so(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    base = await scripted.start()
    for way, reasoning, answer in (
        ("think-tags", "Let me see", "Forty-two"),
        ("field", "", "<think>Let me see</think>Forty-two"),
    ):
        folder = tmp_path / way
        folder.mkdir()
        settings = settings_for(folder, base, ["think-tags"], deploy={"reasoning": way})
        async with serving(settings) as running:
            result = await ask(running.port, running.key, chat("think-tags", stream=stream))
            if stream:
                assert result.done
                got = (result.text(member="reasoning_content"), result.text())
            else:
                message = result.json["choices"][0]["message"]
                got = (message.get("reasoning_content", ""), message["content"])
            assert got == (reasoning, answer)
