"""Makes a conversation of a seed and a number."""

from random import Random
from typing import Any, Final

from tests.support.oracle import oddities, openai_server
from tests.support.oracle.conversation import Block, Conversation, Deployment, Exchange, Script
from tests.support.oracle.framing import broken, framed, scheduled
from tests.support.oracle.openai_server import OpenAiServer
from tests.support.oracle.other_servers import OTHERS
from tests.support.oracle.texts import Draw, odd_string, thoughts_between_tags, word

#: Servers by their shares.
_SERVERS: Final = (
    *("openai", "openai", "openai", "openai", "azure", "openrouter", "openrouter", "plain"),
    *("vllm", "vllm", "vllm", "vllm", "llama.cpp", "llama.cpp", "llama.cpp", "mistral", "mistral"),
    *("groq", "deepseek", "deepseek", "anthropic", "anthropic", "gemini", "gemini"),
)

_REFUSALS: Final = (
    (400, b'{"error":{"message":"bad","code":"bad_param","param":"x"}}'),
    (401, b'{"error":{"message":"no"}}'),
    (429, b'{"error":{"message":"slow down"}}'),
    (500, b"<html>"),
    (503, b'{"error":"busy"}'),
    (200, b'{"error":{"message":"it broke"}}'),
    (200, b'{"choices":[{"index":0,"message":{"content":"whole"},"finish_reason":"stop"}]}'),
    (200, b"<html>"),
    (200, b""),
)

_MESSAGES: Final = (
    b'[{"role":"user","content":"hi"}]',
    b'[{"role":"user","content":"hi"}]',
    b'[{"role":"user","content":"hi"}]',
    b'[{"role":"system","content":"Be brief."},{"role":"user","content":"hi \xc5\xbe"}]',
    b'[{"role":"user","content":"hi"},{"role":"assistant","content":"Once"}]',
    b'[{"role":"user","content":[{"type":"text","text":"hi"}]}]',
)


def conversation(seed: int, number: int) -> Conversation:
    """Always the same one of the same seed and number."""
    return drawn(Random(f"{seed}:{number}"))


def drawn(source: Random) -> Conversation:
    return _Generator(Draw(source)).conversation()


class _Generator:
    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._kinds: list[str] = []  # the server of each deployment
        self._deployments: list[Deployment] = []
        self._servers: dict[tuple[int, bool], Any] = {}  # by deployment, and whether steady
        self._texts: list[tuple[bytes, bool]] = []  # of the call's first answer

    def conversation(self) -> Conversation:
        draw = self._draw
        for _ in range(draw.pick((1, 1, 2, 2, 2, 3))):
            self._add_deployment()
        calls = draw.pick((1, 1, 1, 2, 2, 2, 3, 4))
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
        same = self._kinds and draw.chance(0.6)
        kind = self._kinds[0] if same else draw.pick(_SERVERS)
        if draw.chance(0.02):
            kind = "ollama"
        tags = draw.number()
        self._kinds.append(kind)
        self._deployments.append(
            Deployment(
                kind if kind in OTHERS else draw.pick(openai_server.PROVIDERS[kind]),
                kind if kind in OTHERS else "openai",
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
        choices = draw.pick((2, 3)) if draw.chance(0.08) else 1
        self._texts = []
        answers = [self._answers(number, choices) for number in range(len(self._kinds))]
        return Exchange(
            self._request(choices),
            answers,
            is_secure=draw.chance(0.2),
            user_agent=b"OpenAI/Go 3.42.0" if draw.chance(0.05) else None,
            idle_seconds=draw.pick((2.0, 2.0, 0.0, 70.0)),
        )

    def _request(self, choices: int) -> bytes:
        draw = self._draw
        members = [b'"model":"m"', b'"messages":%b' % draw.pick(_MESSAGES)]
        if draw.chance(0.92):
            members.append(b'"stream":true')
            options: list[bytes] = []
            if draw.chance(0.45):
                options.append(b'"include_usage":true')
            if draw.chance(0.08):
                options.append(b'"continuous_usage_stats":true')
            if draw.chance(0.25):
                options.append(
                    draw.pick((b'"include_obfuscation":true', b'"include_obfuscation":false'))
                )
            if options:
                members.append(b'"stream_options":{%b}' % b",".join(options))
        if choices > 1:
            members.append(b'"n":%d' % choices)
        if draw.chance(0.3):
            members.append(
                draw.pick(
                    (
                        b'"max_tokens":9',
                        b'"max_tokens":100',
                        b'"logprobs":true',
                        b'"logprobs":true,"top_logprobs":2',
                        b'"tools":[{"type":"function","function":{"name":"f"}}]',
                        b'"response_format":{"type":"json_object"}',
                        b'"x_unknown":{"a":[1]}',
                        b'"stop":["x"]',
                        b'"user":"u"',
                    )
                )
            )
        if draw.chance(0.3):
            members.append(b'"seed":7,"temperature":0')
        return b"{%b}" % b",".join(members)

    # Answers

    def _answers(self, number: int, choices: int) -> list[Script]:
        """Scripts for the requests to one deployment: as many as one call may send there."""
        draw = self._draw
        scripts = 1 if number == 0 or draw.chance(0.7) else 2
        fans_out = choices > 1 and self._kinds[number] in ("groq", "llama.cpp", *OTHERS)
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
            return self._refusal()
        kind = self._kinds[number]
        is_steady = draw.chance(0.65)
        server = self._servers.get((number, is_steady))
        if server is None or draw.chance(0.2):
            server = (
                OTHERS[kind](draw)
                if kind in OTHERS
                else OpenAiServer(draw, kind, is_steady=is_steady)
            )
            self._servers[number, is_steady] = server
        events = self._events(number, server.next_answer(choices), is_steady)
        script = framed(draw, events, server.content_type, is_steady=is_steady)
        if breaks:
            broken(draw, script)
        if draw.chance(0.25):
            scheduled(draw, script)
        return script

    def _refusal(self) -> Script:
        draw = self._draw
        status, body = draw.pick(_REFUSALS)
        headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
        if status == 429:
            headers += (("retry-after", "7"),)
        return Script([Block(body)] if body else [], status, headers, "length")

    def _events(self, number: int, server: Any, is_steady: bool) -> list[bytes]:
        draw, kind = self._draw, self._kinds[number]
        if kind not in OTHERS and draw.chance(0.02):
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
        if self._kinds[number] in OTHERS:
            return server.odd()
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
        size = draw.pick((6, 8, 10, 14, 20)) if is_steady else draw.pick((2, 3, 5, 8))
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
