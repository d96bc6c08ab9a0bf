"""Makes a conversation of a seed and a number."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from legato.policy.providers import quirks_of
from tests.support.oracle import oddities, openai_server
from tests.support.oracle.anthropic_server import AnthropicServer
from tests.support.oracle.conversation import (
    Block,
    Conversation,
    Deployment,
    Exchange,
    FrontName,
    Script,
)
from tests.support.oracle.framing import broken, framed, scheduled
from tests.support.oracle.openai_server import OpenAiServer
from tests.support.oracle.other_servers import GeminiServer, OllamaServer, Server
from tests.support.oracle.requests import request
from tests.support.oracle.responses_server import ResponsesServer
from tests.support.oracle.texts import Draw, odd_string, thoughts_between_tags, word

#: Servers by their shares.
_SERVERS: Final = (
    *("openai", "openai", "openai", "openai", "azure", "openrouter", "openrouter", "plain"),
    *("vllm", "vllm", "vllm", "vllm", "llama.cpp", "llama.cpp", "llama.cpp", "mistral", "mistral"),
    *("groq", "deepseek", "deepseek", "anthropic", "anthropic", "gemini", "gemini"),
    *("openai-responses", "openai-responses"),
)

_REFUSALS: Final = (
    (400, b'{"error":{"message":"bad","code":"bad_param","param":"x"}}'),
    (401, b'{"error":{"message":"no"}}'),
    (429, b'{"error":{"message":"slow down"}}'),
    (500, b"<html>"),
    (503, b'{"error":"busy"}'),
    (200, b'{"error":{"message":"it broke"}}'),
    (200, b'{"choices":[{"index":0,"message":{"content":"whole"},"finish_reason":"stop"}]}'),
    (
        200,
        b'{"type":"message","id":"msg_1","role":"assistant","model":"claude","content":['
        b'{"type":"text","text":"whole"}],"stop_reason":"end_turn","usage":{"output_tokens":1}}',
    ),
    (
        200,
        b'{"object":"response","id":"resp_9","status":"completed","output":[{"type":"message",'
        b'"id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"whole"}]}]}',
    ),
    (200, b"<html>"),
    (200, b""),
)

#: Other servers by their dialect.
_OTHERS: Final[dict[str, Callable[..., Server]]] = {
    "anthropic": AnthropicServer,
    "gemini": GeminiServer,
    "ollama": OllamaServer,
    "openai-responses": ResponsesServer,
}

_PROVIDERS: Final[dict[str, tuple[str | None, ...]]] = openai_server.PROVIDERS | {
    "openai-responses": (None, "openai", "xai")
}

#: Client formats of whole conversations, by their shares.
_SHARES: Final[dict[FrontName, int]] = {
    "chat": 12,
    "messages": 6,
    "responses": 6,
    "completions": 1,
}
_FRONTS: Final[list[FrontName]] = [front for front, share in _SHARES.items() for _ in range(share)]

#: The dialect whose events a client's format is, so that they are relayed.
_RELAYED: Final[dict[FrontName, str]] = {"messages": "anthropic", "responses": "openai-responses"}


def conversation(seed: int, number: int) -> Conversation:
    """Always the same one of the same seed and number."""
    return drawn(Random(f"{seed}:{number}"))


def drawn(source: Random) -> Conversation:
    return _Generator(Draw(source)).conversation()


class _Generator:
    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._main: FrontName = draw.pick(_FRONTS)  # of most calls
        self._front = self._main  # of the call in hand
        self._kinds: list[str] = []  # the server of each deployment
        self._deployments: list[Deployment] = []
        self._servers: dict[tuple[int, bool, bool], Any] = {}
        self._texts: list[tuple[bytes, bool]] = []  # of the call's first answer
        self._is_calm = True  # nothing has been drawn for the call that may end an answer early

    def conversation(self) -> Conversation:
        draw = self._draw
        for _ in range(draw.pick((1, 1, 2, 2, 2, 3))):
            self._add_deployment()
        calls = draw.pick((1, 1, 1, 1, 2, 2, 2, 3, 4))
        return Conversation(
            [self._exchange() for _ in range(calls)],
            self._deployments,
            max_continuations=draw.pick((0, 1, 1, 1, 2)),
            counts_both_prompts=draw.chance(0.1),
            padding=draw.pick(("auto", "auto", "auto", "on", "off")),
            heartbeat="chunk" if draw.chance(0.1) else None,
            heartbeat_seconds=draw.pick((10.0, 10.0, 10.0, 3.0)),
            gate_seconds=draw.pick((5.0, 5.0, 5.0, 0.0, 0.05)),
            backlog_bytes=draw.pick((4 << 20, 4 << 20, 1000, 200, 1)),
        )

    def _add_deployment(self) -> None:
        draw = self._draw
        # Most have others of their kind beside them; one that cannot go on has those that can.
        share = 0.25 if self._kinds[:1] == ["openai-responses"] else 0.6
        same = self._kinds and draw.chance(share)
        kind = self._kinds[0] if same else draw.pick(_SERVERS)
        if not self._kinds and self._main in _RELAYED and draw.chance(0.45):
            kind = _RELAYED[self._main]
        if draw.chance(0.02):
            kind = "ollama"
        tags = draw.number()
        self._kinds.append(kind)
        self._deployments.append(
            Deployment(
                draw.pick(_PROVIDERS.get(kind, (kind,))),
                kind if kind in _OTHERS else "openai",
                reasoning="field"
                if tags > 0.1
                else ("think-tags-open" if tags < 0.03 else "think-tags"),
                drops_closing_tags=draw.chance(0.05),
                drains=draw.chance(0.3),
                streams=not draw.chance(0.02),
                replays=draw.chance(0.3),
                has_price=draw.chance(0.2),
                counts_tokens=draw.chance(0.2),
            )
        )

    # Requests

    def _exchange(self) -> Exchange:
        draw = self._draw
        front = self._front = self._main if draw.chance(0.85) else draw.pick(_FRONTS)
        choices = 1
        if front in ("chat", "completions") and draw.chance(0.08):
            choices = draw.pick((2, 3))
        self._texts, self._is_calm = [], True
        answers = [self._answers(number, choices) for number in range(len(self._kinds))]
        return Exchange(
            front,
            request(draw, front, choices),
            answers,
            is_secure=draw.chance(0.2),
            user_agent=b"OpenAI/Go 3.42.0" if draw.chance(0.05) else None,
            idle_seconds=draw.pick((2.0, 2.0, 0.0, 70.0)),
        )

    # Answers

    def _answers(self, number: int, choices: int) -> list[Script]:
        """Scripts for the requests to one deployment: as many as one call may send there."""
        draw = self._draw
        if number and self._is_calm and draw.chance(0.8):
            return []  # it will hardly be asked
        scripts = 1 if number == 0 or draw.chance(0.7) else 2
        fans_out = choices > 1 and self._kinds[number] in ("groq", "llama.cpp", *_OTHERS)
        if fans_out:
            scripts = choices
        breaks = draw.chance(0.35 if number == 0 else 0.15) and len(self._kinds) > 1
        return [
            self._script(number, 1 if fans_out else choices, breaks or draw.chance(0.05))
            for _ in range(scripts)
        ]

    def _script(self, number: int, choices: int, breaks: bool) -> Script:
        draw = self._draw
        if draw.chance(0.03 if self._deployments[number].streams else 0.5):
            self._is_calm = False
            return self._refusal()
        is_steady = draw.chance(0.65)
        server = self._server(number, is_steady)
        events = self._events(number, server.next_answer(choices), is_steady)
        script = framed(draw, events, server.content_type, is_steady=is_steady)
        if breaks:
            self._is_calm = False
            broken(draw, script)
        if draw.chance(0.25):
            self._is_calm = False
            scheduled(draw, script)
        return script

    def _server(self, number: int, is_steady: bool) -> Any:
        """The one that has answered before, in most cases: it answers alike."""
        draw, kind, deployment = self._draw, self._kinds[number], self._deployments[number]
        completes = self._front == "completions" and kind not in _OTHERS
        if completes:
            completes = quirks_of(deployment.provider, deployment.dialect).completes != "no"
        server = self._servers.get((number, is_steady, completes))
        if server is not None and not draw.chance(0.2):
            return server
        if kind in _OTHERS:
            server = _OTHERS[kind](draw, is_steady=is_steady)
        else:
            server = OpenAiServer(draw, kind, is_steady=is_steady, completes=completes)
        self._servers[number, is_steady, completes] = server
        return server

    def _refusal(self) -> Script:
        draw = self._draw
        status, body = draw.pick(_REFUSALS)
        headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
        if status == 429:
            headers += (("retry-after", "7"),)
        return Script([Block(body)] if body else [], status, headers, "length")

    def _events(self, number: int, server: Any, is_steady: bool) -> list[bytes]:
        draw, kind = self._draw, self._kinds[number]
        if kind not in _OTHERS and draw.chance(0.02):
            oddities.change_time(server)
        texts = self._texts
        if not texts or draw.chance(0.5):
            texts = self._strings(server, self._deployments[number], is_steady)
        self._texts = self._texts or texts  # another deployment may say the same
        place = draw.number()
        share = 0.0 if place < 0.6 else (0.06 if place < 0.85 else 0.3)
        only = draw.between(0, len(texts)) if 0.25 < place < 0.6 else -1
        wild = draw.chance(0.5)
        events: list[bytes] = list(server.opening())
        for at, (string, reasons) in enumerate(texts):
            if at == only or (share and draw.chance(share)):
                events += self._odd(number, server, wild=wild)
            events.append(server.text(string, reasons=reasons))
        events += self._end(server)
        if only == len(texts) or (share and draw.chance(share)):
            events += self._odd(number, server, wild=True)
        if draw.chance(0.01):
            events[0] = b"\xef\xbb\xbf" + events[0]
        return events

    def _odd(self, number: int, server: Any, *, wild: bool) -> list[bytes]:
        self._is_calm = False
        if self._kinds[number] in _OTHERS:
            return server.odd(wild=wild)
        return oddities.odd(self._draw, server, wild=wild)

    def _end(self, server: Any) -> list[bytes]:
        draw = self._draw
        events: list[bytes] = []
        reason = draw.pick(("stop", "stop", "stop", "length", "content_filter"))
        if draw.chance(0.1):
            for call in range(draw.between(1, 2)):
                events += server.tool_calls(call)
            reason = "tool_calls"
        return events + server.closing(reason)

    def _strings(
        self, server: Any, deployment: Deployment, is_steady: bool
    ) -> list[tuple[bytes, bool]]:
        """The texts of an answer as JSON strings, and whether each is reasoning."""
        draw, encode = self._draw, server.encode
        size = draw.pick((5, 6, 7, 8, 10, 16)) if is_steady else draw.pick((2, 3, 5, 8))
        if draw.chance(0.003):
            size = draw.between(60, 300)
        strings: list[tuple[bytes, bool]] = []
        oddness = draw.pick((0.0, 0.0, 0.03, 0.2))
        thinks = draw.chance(0.25)
        thoughts = draw.between(1, 8) if thinks else 0
        if deployment.reasoning != "field" and draw.chance(0.8):
            opened = deployment.reasoning == "think-tags-open"
            pieces = [word(draw) for _ in range(thoughts)]
            pieces = thoughts_between_tags(draw, pieces, opened)
            strings += [(encode(piece), False) for piece in pieces]
            thoughts = 0
        for each in range(thoughts + size):
            odd_text = oddness and draw.chance(oddness)
            string = odd_string(draw, encode) if odd_text else encode(word(draw))
            strings.append((string, each < thoughts))
        if draw.chance(0.05):
            strings.append((encode("</think>"), False))
        return strings
