"""Frame sizes tell nothing of what is in them."""

import random
from collections import Counter

import pytest

from legato.core.chunk import Chunk
from legato.core.front import AnswerHead, WriterOptions
from legato.core.padding import BUCKET
from legato.fronts.chat_writer import ChatWriter
from tests.conftest import Running
from tests.support.wire import ask, chat


class Sink:
    def __init__(self, sent: list[bytes]) -> None:
        self.write = self.finish = sent.append

    def on_full(self) -> None:
        """Its client is not slow."""


def sizes(words: list[str], *, pads: bool) -> list[int]:
    sent: list[bytes] = []
    head = AnswerHead("chatcmpl-1", 1, "m")
    writer = ChatWriter(head, WriterOptions(pads=pads), Sink(sent))
    for word in words:
        raw = b'[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]' % word.encode()
        writer.push(Chunk([], raw))
        writer.flush()
    return [len(frame) for frame in sent]


def test_a_classifier_does_no_better_than_its_prior() -> None:
    draw = random.Random(1)
    words = ["x" * draw.choice([1, 2, 3, 4, 5, 6, 8, 12]) for _ in range(4_000)]
    train, test = words[:2_000], words[2_000:]
    prior = Counter(map(len, train)).most_common(1)[0][0]

    def accuracy(pads: bool) -> float:
        by_size: dict[int, Counter[int]] = {}
        for word, size in zip(train, sizes(train, pads=pads), strict=True):
            by_size.setdefault(size, Counter())[len(word)] += 1
        guesses = [
            by_size[size].most_common(1)[0][0] if size in by_size else prior
            for size in sizes(test, pads=pads)
        ]
        return sum(guess == len(word) for guess, word in zip(guesses, test, strict=True)) / 2_000

    by_prior = sum(len(word) == prior for word in test) / 2_000
    assert accuracy(pads=False) == 1.0
    assert accuracy(pads=True) == pytest.approx(by_prior, abs=0.01)
    assert all(size % BUCKET == 0 for size in sizes(words, pads=True))


@pytest.mark.parametrize(("wish", "padded"), [(True, True), (False, False), (None, False)])
async def test_as_the_client_says_else_as_the_line_is(
    legato: Running, wish: bool | None, padded: bool
) -> None:
    options = {} if wish is None else {"stream_options": {"include_obfuscation": wish}}
    answer = await ask(legato.port, legato.key, chat("happy", stream=True, **options))
    assert answer.done
    assert all(("obfuscation" in chunk) == padded for chunk in answer.chunks)
