"""The requests of clients, in each client format."""

from collections.abc import Callable, Sequence
from typing import Final

from tests.support.oracle.conversation import FrontName
from tests.support.oracle.texts import Draw

_FUNCTION: Final = b'{"type":"object","properties":{}}'

_MESSAGES: Final = (
    b'[{"role":"user","content":"hi"}]',
    b'[{"role":"user","content":"hi"}]',
    b'[{"role":"user","content":"hi"}]',
    b'[{"role":"system","content":"Be brief."},{"role":"user","content":"hi \xc5\xbe"}]',
    b'[{"role":"user","content":"hi"},{"role":"assistant","content":"Once"}]',
    b'[{"role":"user","content":[{"type":"text","text":"hi"}]}]',
)

_CHAT: Final = (
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

#: Conversations of an Anthropic client, with what it sends back of an earlier answer.
_TURNS: Final = (
    *(b'[{"role":"user","content":"hi"}]',) * 4,
    b'[{"role":"user","content":[{"type":"text","text":"hi \xc5\xbe"}]}]',
    b'[{"role":"user","content":"hi"},{"role":"assistant","content":"Once"}]',
    b'[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"thinking",'
    b'"thinking":"hm","signature":"c2ln"},{"type":"text","text":"yes"}]},'
    b'{"role":"user","content":"go on"}]',
    b'[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"tool_use",'
    b'"id":"t_1","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result",'
    b'"tool_use_id":"t_1","content":"7"}]}]',
)

_OF_MESSAGES: Final = (
    b'"system":"Be brief."',
    b'"thinking":{"type":"enabled","budget_tokens":1024}',
    b'"thinking":{"type":"enabled","budget_tokens":1024}',
    b'"tools":[{"name":"f","input_schema":%b}]' % _FUNCTION,
    b'"tools":[{"name":"f","input_schema":%b},{"type":"web_search_20250305","name":"s"}]'
    % _FUNCTION,
    b'"stop_sequences":["x"]',
    b'"metadata":{"user_id":"u"}',
    b'"x_unknown":{"a":[1]}',
    b'"output_config":{"effort":"low"}',
)

#: Inputs of a Responses client.
_INPUTS: Final = (
    *(b'"hi"',) * 3,
    b'[{"role":"user","content":"hi"}]',
    b'[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi \xc5\xbe"}]}]',
    b'[{"role":"user","content":"hi"},{"role":"assistant","content":"Once"}]',
    b'[{"role":"user","content":"hi"},{"type":"reasoning","id":"rs_1","summary":[],'
    b'"encrypted_content":"c2ln"},{"type":"function_call","call_id":"c_1","name":"f",'
    b'"arguments":"{}"},{"type":"function_call_output","call_id":"c_1","output":"7"}]',
)

_OF_RESPONSES: Final = (
    b'"instructions":"Be brief."',
    b'"reasoning":{"effort":"low","summary":"auto"}',
    b'"include":["reasoning.encrypted_content"]',
    b'"include":["message.output_text.logprobs"],"top_logprobs":2',
    b'"tools":[{"type":"function","name":"f","parameters":%b}]' % _FUNCTION,
    b'"tools":[{"type":"custom","name":"f"}]',
    b'"text":{"format":{"type":"json_object"}}',
    b'"max_output_tokens":9',
    b'"max_output_tokens":100',
    b'"metadata":{"a":"b"}',
    b'"x_unknown":{"a":[1]}',
    b'"store":false',
)

_OF_COMPLETIONS: Final = (
    *(b'"max_tokens":9', b'"max_tokens":100', b'"logprobs":2', b'"echo":true', b'"suffix":"end"'),
    *(b'"stop":["x"]', b'"user":"u"', b'"x_unknown":{"a":[1]}'),
)

_OBFUSCATION: Final = (b'"include_obfuscation":true', b'"include_obfuscation":false')


def _stream_options(draw: Draw) -> list[bytes]:
    options: list[bytes] = []
    if draw.chance(0.45):
        options.append(b'"include_usage":true')
    if draw.chance(0.08):
        options.append(b'"continuous_usage_stats":true')
    if draw.chance(0.25):
        options.append(draw.pick(_OBFUSCATION))
    return [b'"stream_options":{%b}' % b",".join(options)] if options else []


def _chat(draw: Draw) -> list[bytes]:
    return [b'"messages":%b' % draw.pick(_MESSAGES)]


def _completions(draw: Draw) -> list[bytes]:
    return [b'"prompt":%b' % draw.pick((b'"hi"', b'"Once \xc5\xbe"', b'["hi"]'))]


def _messages(draw: Draw) -> list[bytes]:
    limit = draw.pick((b"9", b"100", b"4096"))
    return [b'"max_tokens":%b,"messages":%b' % (limit, draw.pick(_TURNS))]


def _responses(draw: Draw) -> list[bytes]:
    return [b'"input":%b' % draw.pick(_INPUTS)]


def _padding(draw: Draw) -> list[bytes]:
    if draw.chance(0.25):
        return [b'"stream_options":{%b}' % draw.pick(_OBFUSCATION)]
    return []


def _no_options(draw: Draw) -> list[bytes]:
    return []


_Members = Callable[[Draw], list[bytes]]

#: By format: the members that each request has, those that only one for a stream has, others.
_FORMATS: Final[dict[FrontName, tuple[_Members, _Members, Sequence[bytes]]]] = {
    "chat": (_chat, _stream_options, _CHAT),
    "completions": (_completions, _stream_options, _OF_COMPLETIONS),
    "messages": (_messages, _no_options, _OF_MESSAGES),
    "responses": (_responses, _padding, _OF_RESPONSES),
}


def request(draw: Draw, front: FrontName, choices: int) -> bytes:
    """The body of a request. `choices` is 1 where the format has no more."""
    fixed, options, others = _FORMATS[front]
    members = [b'"model":"m"', *fixed(draw)]
    if draw.chance(0.92):
        members += [b'"stream":true', *options(draw)]
    if choices > 1:
        members.append(b'"n":%d' % choices)
    if draw.chance(0.3):
        members.append(draw.pick(others))
    if draw.chance(0.3):
        members.append(b'"temperature":0' if front in _SEEDLESS else b'"seed":7,"temperature":0')
    return b"{%b}" % b",".join(members)


#: Formats without `seed`.
_SEEDLESS: Final = ("messages", "responses")
