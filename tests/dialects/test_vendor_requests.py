"""What single vendors are asked, where their API takes other words than OpenAI's, or fewer."""

import json
from pathlib import Path
from typing import Any

import pytest

from legato import dialects
from legato.configuration import load
from legato.core.dialect import Delivered, OutgoingRequest
from legato.core.errors import ApiError
from legato.core.front import AnswerHead
from legato.core.request import ChatRequest, parse
from legato.core.stream import Stream
from legato.dialects import gemini
from legato.fronts.chat_aggregator import ChatAggregator
from legato.policy.providers import PROVIDERS
from legato.server import assembly
from legato.settings import SettingsError
from legato.upstreams.upstream import Upstream
from tests.cli.test_models_check import checked
from tests.support.wire import chat


def sent(
    provider: str, members: dict[str, Any] | None = None, model: str = "theirs", **more: Any
) -> dict[str, Any]:
    """What goes out to a provider's model."""
    row = PROVIDERS[provider]
    body = json.dumps(chat("public", **(members or {}))).encode()
    asked = OutgoingRequest(body, parse(body), model, row.quirks, **more)
    return json.loads(dialects.named(row.dialect).encode(asked))


# Mistral

MISTRAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing more": ({}, {}),
    "usage, which comes in any case": (
        {"stream": True, "stream_options": {"include_usage": True}},
        {},
    ),
    "the newer limit": ({"max_completion_tokens": 5}, {"max_tokens": 5}),
    "the older limit": ({"max_tokens": 5}, {"max_tokens": 5}),
    "both": ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
    "a seed": ({"seed": 1}, {"random_seed": 1}),
    "what it does not take": (
        {
            "user": "u",
            "logprobs": True,
            "top_logprobs": 2,
            "logit_bias": {"1": 2},
            "store": False,
            "service_tier": "auto",
        },
        {},
    ),
    "what it takes": (
        {"temperature": 0.5, "top_p": 0.9, "stop": ["x"], "n": 2, "safe_prompt": True},
        {"temperature": 0.5, "top_p": 0.9, "stop": ["x"], "n": 2, "safe_prompt": True},
    ),
}


@pytest.mark.parametrize("case", MISTRAL)
def test_mistral_is_asked_with_what_it_knows(case: str) -> None:
    """Anything else is a 422 there."""
    members, expected = MISTRAL[case]
    there = sent("mistral", members)
    messages = [{"role": "user", "content": "Hello"}]
    assert there == {"model": "theirs", "messages": messages, "stream": True, **expected}


@pytest.mark.parametrize("name", ["user", "logprobs", "logit_bias"])
def test_mistral_refuses_where_nothing_is_to_be_dropped(name: str) -> None:
    values: dict[str, Any] = {"user": "u", "logprobs": True, "logit_bias": {"1": 2}}
    with pytest.raises(ApiError) as caught:
        sent("mistral", {name: values[name]}, unsupported="error")
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert caught.value.param == name
    assert sent("mistral", {"seed": 1}, unsupported="error")["random_seed"] == 1


def test_mistral_is_given_a_prefix() -> None:
    there = sent("mistral", {"max_completion_tokens": 5}, delivered=Delivered("Once upon"))
    prefix = {"role": "assistant", "content": "Once upon", "prefix": True}
    assert there["messages"] == [{"role": "user", "content": "Hello"}, prefix]
    assert there["max_tokens"] == 5
    assert "continue_final_message" not in there


# Null


@pytest.mark.parametrize("provider", [*PROVIDERS])
def test_null_counts_as_absent(provider: str) -> None:
    """Of every parameter that has another name or shape there, or that is not taken."""
    row = PROVIDERS[provider]
    typed = set(ChatRequest.__struct_fields__) - {"model", "messages"}
    names = typed | row.quirks.rejected_parameters | row.quirks.names.keys()
    nulls = dict.fromkeys(names | {"reasoning", "chat_template_kwargs"})
    for unsupported in ("drop", "error"):
        there = sent(provider, nulls, unsupported=unsupported)
        unknown = {name: there.pop(name) for name in nulls if name in there and there[name] is None}
        assert there == sent(provider)
        assert not unknown.keys() & (typed | row.quirks.rejected_parameters)


@pytest.mark.parametrize("provider", ["openai", "mistral", "moonshot", "deepseek"])
@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
def test_a_limit_beside_null_for_the_other_is_the_limit(provider: str, given: str) -> None:
    limits: dict[str, Any] = dict.fromkeys(("max_tokens", "max_completion_tokens"))
    there = sent(provider, limits | {given: 5})
    name = PROVIDERS[provider].quirks.max_tokens
    assert {each: there.get(each) for each in limits} == limits | {name: 5}


def test_a_client_chooses_no_models_beside_the_route_s() -> None:
    assert "models" not in sent("openrouter", {"models": ["expensive"]})


def test_null_for_reasoning_leaves_room_for_the_effort() -> None:
    there = sent("openrouter", {"reasoning": None, "reasoning_effort": "low"})
    assert there["reasoning"] == {"effort": "low"}
    there = sent("vllm", {"chat_template_kwargs": None, "reasoning_effort": "low"})
    assert there["chat_template_kwargs"] == {"enable_thinking": True}


# Logprobs without alternatives


@pytest.mark.parametrize(
    ("members", "asked", "hidden"),
    [
        ({"logprobs": True, "top_logprobs": 0}, 1, True),
        ({"logprobs": True}, 1, True),
        ({"logprobs": True, "top_logprobs": None}, 1, True),
        ({"logprobs": True, "top_logprobs": 3}, 3, False),
        ({"logprobs": False, "top_logprobs": 0}, 0, False),
        ({}, None, False),
    ],
)
def test_llama_cpp_gives_logprobs_with_an_alternative(
    members: dict[str, Any], asked: int | None, hidden: bool
) -> None:
    assert sent("llama.cpp", members).get("top_logprobs") == asked
    body = json.dumps(chat("public", **members)).encode()
    quirks = PROVIDERS["llama.cpp"].quirks
    outgoing = OutgoingRequest(body, parse(body), "theirs", quirks)
    assert outgoing.hides_alternatives is hidden
    assert sent("vllm", members).get("top_logprobs") == members.get("top_logprobs")


# Answers in one piece


@pytest.mark.parametrize("provider", [*PROVIDERS])
def test_an_upstream_that_may_not_stream_is_not_asked_to(provider: str) -> None:
    asks = {"stream": True, "stream_options": {"include_usage": True}}
    there = sent(provider, asks, streams=False)
    streamed = {"stream", "stream_options", "return_progress"}
    assert {name: there[name] for name in streamed & there.keys()} in ({"stream": False}, {})
    usual = sent(provider, asks)
    assert {k: v for k, v in usual.items() if k not in streamed} == {
        k: v for k, v in there.items() if k not in streamed
    }


# `legato models check`


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini", "ollama"])
async def test_tools_are_found_in_every_dialect(tmp_path: Path, dialect: str) -> None:
    """A call is demanded; where none can be, it may come of itself."""
    tools, happy = ({"model": model, "dialect": dialect} for model in ("tools", "happy"))
    if dialect == "openai":
        del tools["dialect"], happy["dialect"]
    async with checked(tmp_path, tools, happy) as (server, found):
        pass
    assert [each.tools for each in found] == [True, False]
    assert [each.ok for each in found] == [True, True]
    last = [each.request for each in server.requests if each.model == "tools"][-1]
    assert last["tools"]
    assert ("tool_choice" in last or "toolConfig" in last) == (dialect != "ollama")


# Anthropic's thoughts

OLD, NEW = "claude-haiku-4-5", "claude-opus-4-8"
THOUGHT = {"type": "thinking", "thinking": "Let me", "signature": "AAAA"}
HIDDEN = {"type": "redacted_thinking", "data": "AAAA"}
USER = {"role": "user", "content": "What?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "3"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

# the history, and whether the model may think about what comes next
HISTORIES: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "a question": ([USER], True),
    "calls without thoughts": ([USER, CALLS, RESULT], False),
    "words and calls without thoughts": ([USER, CALLS | {"content": "Hm"}, RESULT], False),
    "thoughts without a signature": (
        [USER, CALLS | {"reasoning_content": "Let me"}, RESULT],
        False,
    ),
    "another vendor's thoughts": (
        [USER, CALLS | {"reasoning_details": [{"type": "reasoning.text", "text": "x"}]}, RESULT],
        False,
    ),
    "calls with thoughts": ([USER, CALLS | {"reasoning_details": [THOUGHT]}, RESULT], True),
    "calls with hidden thoughts": ([USER, CALLS | {"reasoning_details": [HIDDEN]}, RESULT], True),
    "calls that have been answered": (
        [USER, CALLS, RESULT, {"role": "assistant", "content": "3"}, USER],
        True,
    ),
    "an answer without thoughts": ([USER, {"role": "assistant", "content": "3"}, USER], True),
    "the last of two": (
        [USER, CALLS | {"reasoning_details": [THOUGHT]}, RESULT, USER, CALLS, RESULT],
        False,
    ),
}


@pytest.mark.parametrize("case", HISTORIES)
@pytest.mark.parametrize("asks", [{"reasoning_effort": "low"}, {"thinking": {"type": "enabled"}}])
def test_with_a_budget_it_thinks_only_where_that_is_taken(case: str, asks: dict[str, Any]) -> None:
    """A turn that called tools has to begin with the thoughts that led to them: else it is a 400,
    and most clients do not send them back."""
    messages, may = HISTORIES[case]
    there = sent("anthropic", {"messages": messages, "tools": [TOOL], **asks}, OLD)
    assert ("thinking" in there) is may
    if may:
        assert there["thinking"]["type"] == "enabled"
        assert there["max_tokens"] > there["thinking"]["budget_tokens"]


NAMED = {"type": "function", "function": {"name": "f"}}
CHOICES: list[tuple[Any, bool]] = [
    ("required", False),
    (NAMED, False),
    ("auto", True),
    ("none", True),
    (None, True),
]


@pytest.mark.parametrize(("choice", "may"), CHOICES)
def test_with_a_budget_no_call_can_be_demanded_of_one_that_thinks(choice: Any, may: bool) -> None:
    asks = {"tools": [TOOL], "tool_choice": choice, "reasoning_effort": "low", "temperature": 0.5}
    there = sent("anthropic", asks, OLD)
    assert ("thinking" in there) is may
    assert (there.get("temperature") == 0.5) is not may, "it is sampled where it does not think"
    demanded = there.get("tool_choice", {}).get("type") in ("any", "tool")
    assert demanded is not may


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_one_that_decides_itself_how_much_to_think_can_be_made_to_call(choice: Any) -> None:
    asks = {"tools": [TOOL], "tool_choice": choice, "reasoning_effort": "low"}
    there = sent("anthropic", asks | {"messages": [USER, CALLS, RESULT]}, NEW)
    assert there["thinking"]["type"] == "adaptive"
    assert there["tool_choice"]["type"] in ("any", "tool")


# Efforts beyond `high`

BY_EFFORT = ("xai", "groq", "cerebras", "together", "fireworks", "nvidia")


@pytest.mark.parametrize("effort", ["xhigh", "max"])
def test_more_than_high_may_be_asked_for(effort: str) -> None:
    request = parse(json.dumps(chat("m", reasoning_effort=effort)).encode())
    assert request.reasoning_effort == effort


def test_what_is_no_effort_is_refused() -> None:
    with pytest.raises(ApiError) as caught:
        parse(json.dumps(chat("m", reasoning_effort="ultra")).encode())
    assert (caught.value.status, caught.value.param) == (400, "reasoning_effort")


@pytest.mark.parametrize("effort", ["xhigh", "max"])
def test_those_who_know_the_word_are_told_it(effort: str) -> None:
    asks = {"reasoning_effort": effort}
    assert sent("openai", asks)["reasoning_effort"] == effort
    assert sent("anthropic", asks, NEW)["output_config"]["effort"] == effort


@pytest.mark.parametrize("effort", ["xhigh", "max"])
@pytest.mark.parametrize("provider", BY_EFFORT)
def test_those_who_do_not_are_told_high(provider: str, effort: str) -> None:
    assert sent(provider, {"reasoning_effort": effort})["reasoning_effort"] == "high"


def test_claude_knew_max_before_xhigh() -> None:
    """4.6 takes `max` and not yet `xhigh`."""
    words = {
        effort: sent("anthropic", {"reasoning_effort": effort}, "claude-opus-4-6")["output_config"]
        for effort in ("xhigh", "max")
    }
    assert words == {"xhigh": {"effort": "high"}, "max": {"effort": "max"}}


@pytest.mark.parametrize("effort", ["xhigh", "max"])
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", OLD),
        ("gemini", "gemini-2.5-flash"),
        ("gemini", "gemini-3.5-flash"),
        ("ollama", "gpt-oss"),
        ("llama.cpp", "m"),
        ("vllm", "m"),
        ("deepseek", "m"),
        ("openrouter", "m"),
    ],
)
def test_for_all_others_it_is_as_high(provider: str, model: str, effort: str) -> None:
    more, high = (sent(provider, {"reasoning_effort": each}, model) for each in (effort, "high"))
    assert more == high
    assert more != sent(provider, {}, model), "it is sent at all"


# How a deployment goes on


def upstream(tmp_path: Path, **deployment: Any) -> Upstream:
    file = tmp_path / "empty.toml"
    file.write_text("")
    here = {"name": "a", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    chosen = load(file, {"deployments": [here | deployment]}, {})
    return assembly.upstream(chosen.deployments[0], lambda: 0.0)


# what is set, of which provider, and how it goes on
WAYS: list[tuple[str | None, str | None, str]] = [
    (None, None, "no"),
    ("prefill", None, "prefill"),
    ("final-message", None, "final-message"),
    ("prefix", None, "prefix"),
    ("no", "vllm", "no"),
    (None, "vllm", "final-message"),
    ("prefill", "vllm", "final-message"),  # its own way of taking one
    (None, "deepseek", "prefix"),
    ("final-message", "llama.cpp", "final-message"),
    ("prefix", "vllm", "prefix"),
    ("replay", "mistral", "no"),
]


@pytest.mark.parametrize(("setting", "provider", "way"), WAYS)
def test_the_operator_says_how_it_goes_on(
    tmp_path: Path, setting: str | None, provider: str | None, way: str
) -> None:
    more = {"continue": setting} if setting else {}
    if provider:
        more["provider"] = provider
    found = upstream(tmp_path, **more)
    assert found.quirks.continues == way
    assert found.options.replays is (setting == "replay")


BASES: dict[str, str] = {
    "https://api.deepseek.com": "/beta/chat/completions",
    "https://api.deepseek.com/v1": "/beta/chat/completions",
    "https://api.deepseek.com/beta": "/beta/chat/completions",
    "http://gateway.internal/deepseek": "/deepseek/beta/chat/completions",
}


@pytest.mark.parametrize("base_url", BASES)
def test_where_deepseek_goes_on(tmp_path: Path, base_url: str) -> None:
    target = upstream(tmp_path, provider="deepseek", base_url=base_url).target
    assert target is not None
    (head,) = target.continuing
    assert head.startswith(f"POST {BASES[base_url]} HTTP/1.1\r\n".encode())
    usual = base_url.partition("/")[2].removeprefix("/").partition("/")[2]
    path = f"/{usual}".rstrip("/") + "/chat/completions"
    assert target.heads[0].startswith(f"POST {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("provider", ["mistral", "deepseek"])
def test_another_way_is_not_the_providers(tmp_path: Path, provider: str) -> None:
    own = upstream(tmp_path, provider=provider, **{"continue": "prefix"}).quirks
    assert own == PROVIDERS[provider].quirks
    other = upstream(tmp_path, provider=provider, **{"continue": "final-message"}).quirks
    assert (other.continues_under, other.echoes_prefix) == (None, False)


def test_a_way_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        upstream(tmp_path, **{"continue": "suffix"})
    assert "suffix" in str(caught.value)


# Gemini's signatures


def part(text: str, signature: str | None = None, finish: str | None = None) -> bytes:
    fields = {"text": text} | ({"thoughtSignature": signature} if signature else {})
    candidate: dict[str, Any] = {"content": {"parts": [fields]}}
    if finish:
        candidate["finishReason"] = finish
    return json.dumps({"candidates": [candidate]}).encode()


def folded(*events: bytes) -> dict[str, Any]:
    """The message of an answer that is not streamed."""
    collector, stream = ChatAggregator(), Stream(lambda: 0.0, 0.0)
    stream.subscribe(collector)
    reader = gemini.reader()
    for event in events:
        chunk = reader.read(b"", event)
        assert chunk is not None
        stream.push(chunk)
    stream.end()
    answer = json.loads(collector.answer(AnswerHead("x", 0, "m")))
    return answer["choices"][0]["message"]


def signature_of(owner: dict[str, Any]) -> str:
    return owner["extra_content"]["google"]["thought_signature"]


def test_a_later_signature_takes_the_place_of_an_earlier_one() -> None:
    """Two of them in a row are none: nobody signed that."""
    message = folded(part("a", "AAAA"), part("b", "BBBB"), part("c", None, "STOP"))
    assert message["content"] == "abc"
    assert signature_of(message) == "BBBB"


def test_each_call_keeps_its_own_signature() -> None:
    calls = [
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "AAAA"},
        {"functionCall": {"name": "g", "args": {}}, "thoughtSignature": "BBBB"},
    ]
    events = [{"candidates": [{"content": {"parts": [each]}}]} for each in calls]
    events.append({"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]})
    message = folded(*(json.dumps(each).encode() for each in events))
    assert [signature_of(call) for call in message["tool_calls"]] == ["AAAA", "BBBB"]
