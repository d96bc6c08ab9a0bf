"""Events of a generated answer in OpenAI's format, as the servers that speak it write them."""

from collections.abc import Callable
from copy import copy
from typing import Any, Final

from tests.support.oracle.texts import Draw, encoder

Events = list[bytes]

#: The members of an event by server, in order: name and JSON. `%d` is a number of the answer.
_TOPS: Final[dict[str, tuple[tuple[bytes, bytes], ...]]] = {
    "openai": (
        (b"id", b'"chatcmpl-%d"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"created", b"1750000000"),
        (b"model", b'"gpt-4o-2024-08-06"'),
        (b"service_tier", b'"default"'),
        (b"system_fingerprint", b'"fp_%d"'),
        (b"choices", b""),
    ),
    "azure": (
        (b"choices", b""),
        (b"created", b"1750000000"),
        (b"id", b'"chatcmpl-%d"'),
        (b"model", b'"gpt-4o"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"system_fingerprint", b"null"),
    ),
    "openrouter": (
        (b"id", b'"gen-175-%d"'),
        (b"provider", b'"Azure"'),
        (b"model", b'"openai/gpt-4o"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"created", b"1750000000"),
        (b"choices", b""),
    ),
    "vllm": (
        (b"id", b'"chatcmpl-%d"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"created", b"1750000000"),
        (b"model", b'"m"'),
        (b"choices", b""),
    ),
    "llama.cpp": (
        (b"choices", b""),
        (b"created", b"1750000000"),
        (b"id", b'"chatcmpl-%d"'),
        (b"model", b'"theirs"'),
        (b"system_fingerprint", b'"b5000-%d"'),
        (b"object", b'"chat.completion.chunk"'),
    ),
    "mistral": (
        (b"id", b'"%d"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"created", b"1750000000"),
        (b"model", b'"mistral-small"'),
        (b"choices", b""),
    ),
    "groq": (
        (b"id", b'"chatcmpl-%d"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"created", b"1750000000"),
        (b"model", b'"llama-3.1-8b"'),
        (b"system_fingerprint", b'"fp_%d"'),
        (b"choices", b""),
    ),
    "deepseek": (
        (b"id", b'"%d"'),
        (b"object", b'"chat.completion.chunk"'),
        (b"created", b"1750000000"),
        (b"model", b'"deepseek-reasoner"'),
        (b"system_fingerprint", b'"fp_%d_prod"'),
        (b"choices", b""),
    ),
    "plain": ((b"choices", b""),),
}

#: The providers that write so (`policy.providers`).
PROVIDERS: Final[dict[str, tuple[str | None, ...]]] = {
    "openai": ("openai", None),
    "azure": (None,),
    "openrouter": ("openrouter",),
    "vllm": ("vllm", "sglang"),
    "llama.cpp": ("llama.cpp",),
    "mistral": ("mistral", None),
    "groq": ("groq", None),
    "deepseek": ("deepseek", None),
    "plain": (None, "together"),
}

#: The members of a choice by server, in order; those without a value are made for each event.
_CHOICES: Final[dict[str, tuple[tuple[bytes, bytes], ...]]] = {
    "azure": (
        (b"content_filter_results", b"{}"),
        (b"delta", b""),
        (b"finish_reason", b""),
        (b"index", b""),
        (b"logprobs", b"null"),
    ),
    "openrouter": (
        (b"index", b""),
        (b"delta", b""),
        (b"finish_reason", b""),
        (b"native_finish_reason", b"null"),
        (b"logprobs", b"null"),
    ),
    "vllm": (
        (b"index", b""),
        (b"delta", b""),
        (b"logprobs", b"null"),
        (b"finish_reason", b""),
        (b"token_ids", b"null"),
    ),
    "llama.cpp": ((b"finish_reason", b""), (b"index", b""), (b"delta", b"")),
    "mistral": ((b"index", b""), (b"delta", b""), (b"finish_reason", b"")),
}
_USUAL_CHOICE: Final = (
    (b"index", b""),
    (b"delta", b""),
    (b"logprobs", b"null"),
    (b"finish_reason", b""),
)

#: Members of the deltas by server: behind text, behind reasoning. In front: the text.
_CONTENT: Final[dict[str, tuple[bytes, ...]]] = {
    "openrouter": (b'{"role":"assistant","content":%b}', b'{"content":%b,"reasoning":null}'),
    "deepseek": (b'{"content":%b,"reasoning_content":null}', b'{"content":%b}'),
    "vllm": (b'{"content":%b}', b'{"content":%b,"reasoning_content":null}'),
}
_REASONING: Final[dict[str, tuple[bytes, ...]]] = {
    "openrouter": (
        b'{"role":"assistant","content":"","reasoning":%b,"reasoning_details":[]}',
        b'{"reasoning":%b}',
    ),
    "deepseek": (b'{"content":null,"reasoning_content":%b}',),
    "vllm": (b'{"reasoning_content":%b}', b'{"reasoning":%b}'),
    "groq": (b'{"reasoning":%b}', b'{"reasoning":%b,"channel":"analysis"}'),
    "mistral": (b'{"content":[{"type":"thinking","thinking":[{"type":"text","text":%b}]}]}',),
}

#: Usage objects: %d are prompt, completion and total.
_USAGES: Final = (
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}',
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":'
    b'{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}',
    b'{"completion_tokens_details":null,"prompt_tokens":%d,"completion_tokens":%d,'
    b'"total_tokens":%d,"prompt_time":0.01}',
)

_LOGPROBS: Final = (
    b'{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}],"refusal":null}',
    b'{"content":[]}',
)

#: How usage comes: never, in one last chunk, null in each chunk before that, in each chunk, in the
#: chunk with the finish, in the last chunk with choices.
_USAGE_WAYS: Final = ("never", "last", "last", "last", "null", "null", "each", "finish", "merged")

_TOP_STEPS: Final[dict[str, Callable[[Draw], bytes]]] = {
    "created": lambda draw: b"%d" % draw.between(1750000000, 1750000099),
    "id": lambda draw: b'"chatcmpl-%d"' % draw.between(1, 99),
    "system_fingerprint": lambda draw: b'"fp_%d"' % draw.between(1, 3),
    "provider": lambda draw: draw.pick((b'"Azure"', b'"OpenAI"')),
    "obfuscation": lambda draw: b'"%b"' % (b"x" * draw.between(0, 16)),
    "service_tier": lambda draw: draw.pick((b'"default"', b'"flex"', b"null")),
}


class OpenAiServer:
    """Writes the events of one answer. `encode` makes a JSON string of a text.

    `is_steady`: its events differ in their texts alone, as most servers' do. `completes`: it
    answers a request for a text completion, with texts in place of deltas.
    """

    dialect = "openai"
    content_type = "text/event-stream"

    def __init__(
        self, draw: Draw, kind: str, *, is_steady: bool = False, completes: bool = False
    ) -> None:
        self.draw = draw
        self.is_steady = is_steady
        self.kind = kind
        self.choices = 1
        self.encode: Any = encoder(draw)
        self.top = dict(_TOPS[kind])
        self.choice = dict(_CHOICES.get(kind, _USUAL_CHOICE))
        content = draw.pick(_CONTENT.get(kind, (b'{"content":%b}',)))
        reasoning = draw.pick(_REASONING.get(kind, (b'{"reasoning_content":%b}',)))
        if is_steady and draw.chance(0.7):
            content, reasoning = b'{"content":%b}', b'{"reasoning_content":%b}'
        self.usage_way = draw.pick(_USAGE_WAYS)
        self._usage = draw.pick(_USAGES)
        if self.usage_way in ("null", "each"):
            self.top[b"usage"] = b"null"
        if kind == "openai" and draw.chance(0.2):
            self.top[b"obfuscation"] = b'"xyz"'
        if draw.chance(0.04):
            self.choice[b"logprobs"] = draw.pick(_LOGPROBS)
        spaced = draw.chance(0.2)
        self.comma, self.colon = (b", ", b": ") if spaced else (b",", b":")
        if spaced:
            content, reasoning = (
                each.replace(b'":', b'": ').replace(b',"', b', "') for each in (content, reasoning)
            )
        if draw.chance(0.1):
            names = list(self.top)
            draw.source.shuffle(names)
            self.top = {name: self.top[name] for name in names}
        self.nothing = b"{}"
        if completes:
            content, reasoning, self.nothing = b"%b", b"%b", b'""'
            self.choice = {b"text" if n == b"delta" else n: v for n, v in self.choice.items()}
        self.completes = completes
        self.content, self.reasoning = content, reasoning
        self.line_end, self.field, self.changes = b"\n", b"data: ", list[str]()
        if not is_steady:
            self.line_end = draw.pick((b"\n", b"\n", b"\n", b"\r\n", b"\r"))
            self.field = draw.pick((b"data: ", b"data: ", b"data:"))
            self.changes = self._changes()
        self.written = 0
        self.thoughts: list[bytes] = []  # that nothing has been said behind yet
        self.index = b"0"

    def next_answer(self, choices: int) -> "OpenAiServer":
        """The same server for another answer, which has its own id and time."""
        draw = self.draw
        server = copy(self)
        server.choices = choices
        number = b"%d" % draw.between(1, 9)
        server.top = {name: value.replace(b"%d", number) for name, value in self.top.items()}
        if b"created" in server.top and draw.chance(0.7):
            server.top[b"created"] = b"17500000%02d" % draw.between(0, 99)
        server.choice = dict(self.choice)
        server.thoughts = []
        return server

    def _changes(self) -> list[str]:
        """Names of the members that differ from event to event."""
        if self.draw.chance(0.3):
            return ["obfuscation"] if b"obfuscation" in self.top else []
        return [each for each in _TOP_STEPS if each.encode() in self.top and self.draw.chance(0.4)]

    # Events

    def line(self, data: bytes) -> bytes:
        return b"%b%b%b%b" % (self.field, data, self.line_end, self.line_end)

    def data(self, choices: bytes, /, **members: bytes) -> bytes:
        """The JSON of an event. `members` replace those at the top level, or come behind them."""
        draw = self.draw
        top = self.top
        for name in self.changes:
            if draw.chance(0.3):
                top[name.encode()] = _TOP_STEPS[name](draw)
        if self.usage_way == "each":
            top[b"usage"] = self.usage()
        if members:
            top = top | {name.encode(): value for name, value in members.items()}
        colon = self.colon
        parts = [
            b'"%b"%b%b' % (name, colon, choices if name == b"choices" and not value else value)
            for name, value in top.items()
        ]
        return b"{%b}" % self.comma.join(parts)

    def choice_json(self, delta: bytes, finish: bytes = b"null", /, **members: bytes) -> bytes:
        values = {b"delta": delta, b"text": delta, b"finish_reason": finish, b"index": self.index}
        fields = self.choice
        if members:
            fields = fields | {name.encode(): value for name, value in members.items()}
        colon = self.colon
        parts = [
            b'"%b"%b%b' % (name, colon, value or values.get(name, b""))
            for name, value in fields.items()
        ]
        return b"{%b}" % self.comma.join(parts)

    def event(self, delta: bytes, finish: bytes = b"null", /, **members: bytes) -> bytes:
        """An event with one choice. `members` are of the top level."""
        return self.line(self.data(b"[%b]" % self.choice_json(delta, finish), **members))

    def usage(self) -> bytes:
        return self._usage % (7, self.written, 7 + self.written)

    def opening(self) -> Events:
        draw = self.draw
        events: Events = []
        if self.kind == "openrouter" and draw.chance(0.5):
            events += [b": OPENROUTER PROCESSING" + 2 * self.line_end] * draw.between(1, 3)
        if self.kind == "azure" and draw.chance(0.7):
            filtered = b'[{"prompt_index":0,"content_filter_results":{}}]'
            events.append(self.line(b'{"choices":[],"prompt_filter_results":%b}' % filtered))
        if self.kind == "llama.cpp" and draw.chance(0.3):
            progress = b'{"total":40,"cache":0,"processed":%d,"time_ms":9}'
            for done in (16, 40):
                events.append(self.event(b'{"content":null}', prompt_progress=progress % done))
        if draw.chance(0.75) and not self.completes:
            roles = (b'{"role":"assistant","content":""}', b'{"role":"assistant","content":null}')
            for number in range(self.choices):
                self.index = b"%d" % number
                events.append(self.event(draw.pick((*roles, b'{"role":"assistant"}'))))
            self.index = b"0"
        return events

    def text(self, string: bytes, *, reasons: bool = False) -> bytes:
        """An event with one text, given as a JSON string."""
        self.written += 1
        if self.choices > 1 and self.draw.chance(0.3):
            self.index = b"%d" % self.draw.between(0, self.choices - 1)
        if reasons:
            self.thoughts.append(string)
            return self.event(self.reasoning % string)
        return self._signed() + self.event(self.content % string)

    def _signed(self) -> bytes:
        """The signature of thoughts that are over, in some answers, as Anthropic's models have it
        behind a gateway."""
        thoughts, self.thoughts = self.thoughts, []
        if not thoughts or not self.draw.chance(0.3):
            return b""
        text = b'"%b"' % b"".join([each[1:-1] for each in thoughts])
        detail = b'{"type":"thinking","thinking":%b,"signature":"c2ln"}' % text
        return self.event(b'{"reasoning_details":[%b]}' % detail)

    def tool_calls(self, number: int) -> Events:
        draw = self.draw
        if self.completes:
            return []
        head = (
            b'{"index":%d,"id":"call_%d","type":"function","function":{"name":"f","arguments":""}}'
        )
        events = [self.event(b'{"tool_calls":[%b]}' % (head % (number, number)))]
        for piece in (b'"{\\"a\\":"', b'"1"', b'"}"')[: draw.between(0, 3)]:
            delta = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (number, piece)
            events.append(self.event(delta))
        return events

    def closing(self, reason: str) -> Events:
        draw = self.draw
        finish = b'"%b"' % reason.encode()
        events: Events = []
        way = self.usage_way
        extra = {"usage": self.usage()} if way == "finish" else {}
        if self.kind == "groq" and draw.chance(0.5):
            extra["x_groq"] = b'{"id":"req_1","usage":%b}' % self.usage()
        if self.kind == "llama.cpp" and draw.chance(0.6):
            extra["timings"] = b'{"prompt_n":40,"predicted_per_second":61.5}'
        for number in range(self.choices):
            self.index = b"%d" % number
            delta = self.nothing
            if draw.chance(0.25):
                delta = self.content % draw.pick((b'""', b'" end"', b'" end"'))
            events.append(self.event(delta, finish, **extra))
        self.index = b"0"
        if way in ("last", "null"):
            events.append(self.line(self.data(b"[]", usage=self.usage())))
        elif way == "merged":
            events.append(self.event(self.nothing, usage=self.usage()))
        if draw.chance(0.92):
            end = draw.pick((2, 2, 2, 2, 2, 1, 0)) * self.line_end
            events.append(self.field + b"[DONE]" + end)
        return events
