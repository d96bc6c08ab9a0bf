"""Where one upstream's answer ends and another's begins: what the second is asked, what makes a
seam that would show, and what both of them have used and cost."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.gateway.test_fallback import REST, TEXT, played, result, routed
from tests.support.wire import Answer, ask, chat

HELLO = {"role": "user", "content": "Hello"}
HALF = [*SCRIPTS["happy"].steps[:4], Step(cut=True)]
HALF_TEXT = "Once upon a time"


def says(*pieces: str, finish: str = "stop") -> Script:
    return Script(steps=[*(Step(say=piece) for piece in pieces), Step(finish=finish)])


def honest(answer: Answer, text: str, code: str = "upstream_cut") -> None:
    """It broke off and says so; what came before the break stays as it was."""
    assert answer.text() == text
    assert answer.error is not None
    assert answer.error["code"] == code
    assert answer.finishes() == []
    assert b"[DONE]" not in answer.body


# What the second one is asked

BODIES: dict[str, dict[str, Any]] = {
    "prefill": {"messages": [HELLO, {"role": "assistant", "content": TEXT}]},
    "final-message": {
        "messages": [HELLO, {"role": "assistant", "content": TEXT}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "prefix": {"messages": [HELLO, {"role": "assistant", "content": TEXT, "prefix": True}]},
}
EXTRA = ("continue_final_message", "add_generation_prompt")


@pytest.mark.parametrize("how", BODIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_second_one_is_asked(
    tmp_path: Path, scripted: MockServer, how: str, stream: bool
) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": how}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        body = chat("public", stream=stream, max_tokens=50, temperature=0.5, x_unknown=[1])
        answer = await ask(legato.port, legato.key, body)
        if stream:
            assert answer.done
            text = answer.text()
        else:
            text = answer.json["choices"][0]["message"]["content"]
        assert text == TEXT + " And on."
        asked = scripted.requests[-1].request
        there = {name: asked[name] for name in ("messages", *EXTRA) if name in asked}
        assert there == BODIES[how]
        assert (asked["max_tokens"], asked["temperature"], asked["x_unknown"]) == (40, 0.5, [1])


@pytest.mark.parametrize("provider", ["vllm", "sglang", "llama.cpp"])
async def test_providers_are_asked_in_their_own_words(
    tmp_path: Path, scripted: MockServer, provider: str
) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"provider": provider}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        assert (await result(legato)).text() == TEXT + " And on."
        asked = scripted.requests[-1].request
        flags = {name: asked[name] for name in EXTRA if name in asked}
        body = BODIES["prefill" if provider == "llama.cpp" else "final-message"]
        assert {"messages": asked["messages"], **flags} == body


async def test_deepseek_is_asked_at_another_path(tmp_path: Path, scripted: MockServer) -> None:
    """It takes a prefix there alone, and says only what comes behind it."""
    scripted.scripts["rest"] = REST
    deploy = {each: {"provider": "deepseek"} for each in ("cut", "rest")}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        assert (await result(legato)).text() == TEXT + " And on."
        assert [each.path for each in scripted.requests] == [
            "/v1/chat/completions",
            "/beta/chat/completions",
        ]
        assert scripted.requests[-1].request["messages"] == BODIES["prefix"]["messages"]


# An upstream that says the prefix again

ECHOES: dict[str, list[str]] = {
    "in one piece": [HALF_TEXT, ", there"],
    "in pieces": ["Once", " upon a", " time", ", there"],
    "in pieces of its own": ["O", "nce upo", "n a time", ", there"],
    "with what follows": [HALF_TEXT + ", there"],
    "in pieces, the last with what follows": ["Once upon", " a time, the", "re"],
}


@pytest.mark.parametrize("case", ECHOES)
async def test_a_prefix_that_is_said_again_is_taken_away(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    scripted.scripts |= {"half": Script(steps=HALF), "echoes": says(*ECHOES[case], " was.")}
    mistral = {"provider": "mistral"}
    deploy = {"half": mistral, "echoes": mistral}
    async with routed(tmp_path, scripted, ["half", "echoes"], deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.done
        assert answer.text() == HALF_TEXT + ", there was."
        assert answer.finishes() == ["stop"]
        assert scripted.requests[-1].request["messages"][-1] == {
            "role": "assistant",
            "content": HALF_TEXT,
            "prefix": True,
        }
        (row,) = await legato.rows()
        assert (row["outcome"], row["continuations"]) == ("complete", 1)


NO_ECHOES: dict[str, Script] = {
    "none at all": says(", there was."),
    "another": says("Once upon the time, there was."),
    "trimmed": says("Once upon a", "time", ", there was."),
    "too little of it": says("Once upon"),
    "thoughts": Script(steps=[Step(think="Once"), Step(say=" upon"), Step(finish="stop")]),
}


@pytest.mark.parametrize("case", NO_ECHOES)
async def test_a_prefix_that_is_not_said_again_cannot_be_joined(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    scripted.scripts |= {"half": Script(steps=HALF), "silent": NO_ECHOES[case]}
    deploy = {"silent": {"provider": "mistral"}}
    async with routed(tmp_path, scripted, ["half", "silent"], deploy=deploy) as legato:
        answer = await result(legato)
        honest(answer, HALF_TEXT)
        assert answer.text(member="reasoning_content") == ""
        (row,) = await legato.rows()
        assert row["errors"] == "upstream_cut,upstream_diverged"
        assert row["outcome"] == "failed"


async def test_another_goes_on_where_the_prefix_was_not_said_again(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts |= {"silent": says(" And"), "rest": REST}
    deploy = {"silent": {"provider": "mistral"}, "rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["cut", "silent", "rest"], deploy=deploy) as legato:
        answer = await result(legato, max_tokens=50)
        assert answer.done
        assert answer.text() == TEXT + " And on."
        assert scripted.requests[-1].request["max_tokens"] == 40


# A replay that fails

USED: dict[str, Any] = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
REPLAYS: dict[str, Script] = {
    "refused": SCRIPTS["500"],
    "cut at once": SCRIPTS["cut-early"],
    "cut in what is known": Script(steps=[Step(say="Once"), Step(usage=USED), Step(cut=True)]),
    "another answer": Script(steps=[Step(say="Twice"), Step(usage=USED), Step(finish="stop")]),
    "silent in what is known": Script(steps=[Step(say="Once"), Step(stall=True)]),
}


@pytest.mark.parametrize("case", REPLAYS)
async def test_a_replay_that_fails_forgets_nothing(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    """The one after it is asked for what is missing, of the limit too; usage is that of both who
    answered."""
    scripted.scripts |= {"half": Script(steps=HALF, then=REPLAYS[case]), "rest": REST}
    deploy = {
        "half": {"model": "half"},
        "again": {"model": "half", "continue": "replay"},
        "rest": {"continue": "prefill"},
    }
    async with routed(tmp_path, scripted, ["half", "again", "rest"], deploy=deploy) as legato:
        answer = await result(legato, seed=1, temperature=0, max_tokens=20)
        assert answer.done
        assert answer.text() == HALF_TEXT + " And on."
        asked = scripted.requests[-1].request
        assert asked["max_tokens"] == 16
        assert asked["messages"][-1] == {"role": "assistant", "content": HALF_TEXT}
        usage = answer.chunks[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (17, 6)
        (row,) = await legato.rows()
        assert row["deployments"] == "half,again,rest"
        assert (row["prompt_tokens"], row["completion_tokens"]) == (17, 6)


# Logprobs


def likely(text: str, **more: Any) -> Step:
    token = {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [token]}}
    return Step(chunk={"id": "x", "choices": [choice | {"finish_reason": None} | more]})


LIKELY = Script(steps=[likely("Once"), likely(" upon"), Step(cut=True)])


@pytest.mark.parametrize("how", ["prefill", "replay"])
@pytest.mark.parametrize("wanted", [True, False])
async def test_logprobs_that_have_gone_out_cannot_be_joined(
    tmp_path: Path, scripted: MockServer, how: str, wanted: bool
) -> None:
    """Whether they were asked for or came all the same."""
    whole = Script(steps=[likely("Once"), likely(" upon"), likely(" a"), Step(finish="stop")])
    scripted.scripts["likely"] = msgspec.structs.replace(LIKELY, then=whole)
    deploy = {"likely": {"model": "likely"}, "second": {"model": "likely", "continue": how}}
    async with routed(tmp_path, scripted, ["likely", "second"], deploy=deploy) as legato:
        more = {"logprobs": True} if wanted else {}
        answer = await result(legato, seed=1, temperature=0, **more)
        honest(answer, "Once upon")
        told = [
            token["token"]
            for chunk in answer.chunks
            for choice in chunk["choices"]
            for token in (choice.get("logprobs") or {"content": []})["content"]
        ]
        assert told == ["Once", " upon"]
        assert len(scripted.requests) == 1


async def test_logprobs_that_are_null_are_none(tmp_path: Path, scripted: MockServer) -> None:
    first = [likely(text, logprobs=None) for text in ("Once", " upon")]
    scripted.scripts |= {"first": Script(steps=[*first, Step(cut=True)]), "rest": REST}
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        assert (await result(legato)).text() == "Once upon And on."


# A last message of the assistant's own

OWN = {"role": "assistant", "content": "Well: "}


@pytest.mark.parametrize("how", ["prefill", "final-message"])
async def test_an_answer_that_the_client_began_is_one_message(
    tmp_path: Path, scripted: MockServer, how: str
) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": how}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        answer = await result(legato, messages=[HELLO, OWN])
        assert answer.done
        assert answer.text() == TEXT + " And on."
        joined = OWN | {"content": "Well: " + TEXT}
        assert scripted.requests[-1].request["messages"] == [HELLO, joined]


TWO_OF_A_KIND: dict[str, dict[str, Any]] = {
    "parts": {"role": "assistant", "content": [{"type": "text", "text": "Well: "}]},
    "nothing but thoughts": {"role": "assistant", "content": None, "reasoning_content": "Hm"},
    "thoughts": OWN | {"reasoning_content": "Hm"},
    "tool calls": OWN
    | {
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ]
    },
}


@pytest.mark.parametrize("case", TWO_OF_A_KIND)
async def test_an_answer_that_nothing_can_be_added_to(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    """Two messages of the assistant in a row are another prompt: nobody goes on with them."""
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        answer = await result(legato, messages=[HELLO, TWO_OF_A_KIND[case]])
        honest(answer, TEXT)
        assert played(scripted) == ["cut"]


# Thoughts

THINKING = Script(steps=[Step(think="Let"), Step(think=" me"), Step(cut=True)])
THOUGHT = Script(steps=[Step(think="Let me see."), Step(say="Forty"), Step(cut=True)])
LLAMA: dict[str, Any] = {"provider": "llama.cpp"}


async def test_thoughts_go_on(tmp_path: Path, scripted: MockServer) -> None:
    """llama.cpp takes thoughts that have not ended, and goes on with them."""
    rest = [Step(think=" see."), Step(say="Forty"), Step(say="-two."), Step(finish="stop")]
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 2}}
    scripted.scripts |= {"first": THINKING, "rest": Script(steps=[*rest, Step(usage=usage)])}
    deploy = {"first": LLAMA, "rest": LLAMA}
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        answer = await result(legato, max_tokens=20)
        assert answer.done
        assert answer.text(member="reasoning_content") == "Let me see."
        assert answer.text() == "Forty-two."
        assert answer.finishes() == ["stop"]
        asked = scripted.requests[-1].request
        begun = {"role": "assistant", "content": "", "reasoning_content": "Let me"}
        assert asked["messages"] == [HELLO, begun]
        assert asked["max_tokens"] == 18
        usage = answer.chunks[-1]["usage"]
        assert usage["completion_tokens"] == 6
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 4
        (row,) = await legato.rows()
        assert (row["outcome"], row["reasoning_tokens"]) == ("complete", 4)


async def test_an_answer_behind_its_thoughts_goes_on(tmp_path: Path, scripted: MockServer) -> None:
    scripted.scripts |= {"first": THOUGHT, "rest": says("-two", ".")}
    deploy = {"first": LLAMA, "rest": LLAMA}
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.done
        assert answer.text(member="reasoning_content") == "Let me see."
        assert answer.text() == "Forty-two."
        begun = {"role": "assistant", "content": "Forty", "reasoning_content": "Let me see."}
        assert scripted.requests[-1].request["messages"] == [HELLO, begun]


async def test_an_answer_that_has_begun_goes_on_without_what_led_to_it(
    tmp_path: Path, scripted: MockServer
) -> None:
    """The second one takes no reasoning: it is given the answer so far alone."""
    scripted.scripts |= {"first": THOUGHT, "rest": says("-two", ".")}
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.done
        assert answer.text(member="reasoning_content") == "Let me see."
        assert answer.text() == "Forty-two."
        begun = {"role": "assistant", "content": "Forty"}
        assert scripted.requests[-1].request["messages"] == [HELLO, begun]


async def test_thoughts_that_have_not_ended_are_not_left_out(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts |= {"first": THINKING, "rest": says("Forty-two.")}
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        answer = await result(legato)
        honest(answer, "")
        assert played(scripted) == ["first"]


@pytest.mark.parametrize("reasoning", ["think-tags", "think-tags-open"])
@pytest.mark.parametrize("both", [True, False])
async def test_nobody_goes_on_with_thoughts_between_tags(
    tmp_path: Path, scripted: MockServer, reasoning: str, both: bool
) -> None:
    """Where they end could not be told: the second one's text does not begin with a tag."""
    opening = "<think>" if reasoning == "think-tags" else ""
    tags = Script(steps=[Step(say=f"{opening}Let"), Step(say=" me"), Step(cut=True)])
    scripted.scripts |= {
        "first": tags if both else THINKING,
        "rest": says(" see.</think>", "Forty-two."),
    }
    deploy = {
        "first": LLAMA | ({"reasoning": reasoning} if both else {}),
        "rest": LLAMA | {"reasoning": reasoning},
    }
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        answer = await result(legato)
        honest(answer, "")
        assert answer.text(member="reasoning_content") == "Let me"
        assert played(scripted) == ["first"]


async def test_who_thinks_anew_about_an_answer_that_has_begun_does_not_go_on_with_it(
    tmp_path: Path, scripted: MockServer
) -> None:
    anew = [Step(think="Hm."), Step(say=" And"), Step(finish="stop")]
    scripted.scripts["anew"] = Script(steps=anew)
    deploy = {"anew": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["cut", "anew"], deploy=deploy) as legato:
        answer = await result(legato)
        honest(answer, TEXT)
        assert answer.text(member="reasoning_content") == ""
        (row,) = await legato.rows()
        assert row["errors"] == "upstream_cut,upstream_diverged"


async def test_the_next_one_goes_on_where_one_thinks_anew(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts |= {"anew": Script(steps=[Step(think="Hm."), Step(stall=True)]), "rest": REST}
    deploy = {name: {"continue": "prefill"} for name in ("anew", "rest")}
    async with routed(tmp_path, scripted, ["cut", "anew", "rest"], deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.done
        assert answer.text() == TEXT + " And on."
        assert answer.text(member="reasoning_content") == ""


# White space at the seam

SPACES = [" ", "\n", " \n\n", "\t", "\u00a0", "\u3000"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("how", ["final-message", "prefix"])
async def test_white_space_at_the_end_is_not_sure_to_stay(
    tmp_path: Path, scripted: MockServer, how: str, space: str
) -> None:
    """Templates trim it there, and nobody could tell what the second one saw."""
    scripted.scripts |= {
        "first": Script(steps=[Step(say="Once"), Step(say=f" upon{space}"), Step(cut=True)]),
        "rest": REST,
    }
    async with routed(
        tmp_path, scripted, ["first", "rest"], deploy={"rest": {"continue": how}}
    ) as legato:
        honest(await result(legato), f"Once upon{space}")
        assert played(scripted) == ["first"]


@pytest.mark.parametrize("space", SPACES)
async def test_white_space_stays_where_a_last_message_is_enough(
    tmp_path: Path, scripted: MockServer, space: str
) -> None:
    steps = [Step(say="Once"), Step(say=f" upon{space}"), Step(cut=True)]
    scripted.scripts |= {"first": Script(steps=steps), "rest": says("a time.")}
    deploy = {"rest": LLAMA}
    async with routed(tmp_path, scripted, ["first", "rest"], deploy=deploy) as legato:
        assert (await result(legato)).text() == f"Once upon{space}a time."
        assert scripted.requests[-1].request["messages"][-1]["content"] == f"Once upon{space}"


# What it costs and what it has used

EARLY = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
EARLY |= {"prompt_tokens_details": {"cached_tokens": 4}}
BEGUN = Script(steps=[Step(say="Once"), Step(usage=EARLY), Step(say=" upon"), Step(cut=True)])
WRITTEN = {
    "prompt_tokens": 9,
    "completion_tokens": 1,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 3},
}
WRITES = Script(steps=[Step(say="Once"), Step(usage=WRITTEN), Step(say=" upon"), Step(cut=True)])
CALLS = Script(
    steps=[
        Step(say="Once"),
        Step(tool={"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}),
        Step(cut=True),
    ]
)
FREE: dict[str, Any] = {}


def dollars(prompt: float, completion: float, **more: float) -> dict[str, Any]:
    """The price of one token."""
    price = {"prompt": prompt, "completion": completion, **more}
    return {"price": {name: each * 1e6 for name, each in price.items()}}


# the scripts, what their deployments say, what is asked for, and the dollars
COSTS: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any], float | None]] = {
    "each by its own price": (
        {"cut": dollars(0, 1), "rest": dollars(0, 2) | {"continue": "prefill"}},
        {},
        10 * 1 + 2 * 2,
    ),
    "each with its own prompt": (
        {"begun": dollars(1, 0, cached=1), "rest": dollars(10, 0) | {"continue": "prefill"}},
        {},
        9 * 1 + 21 * 10,
    ),
    "the first one's cache": (
        {"begun": dollars(1, 0, cached=0.5), "rest": {"continue": "prefill"}},
        {},
        5 * 1 + 4 * 0.5,
    ),
    "what the first one wrote to its cache": (
        {
            "writes": dollars(1, 0, cached=0.5, cache_write=2),
            "rest": {"continue": "prefill"},
        },
        {},
        2 * 1 + 4 * 0.5 + 3 * 2,
    ),
    "a cache write without a price of its own": (
        {"writes": dollars(1, 0, cached=0.5), "rest": {"continue": "prefill"}},
        {},
        5 * 1 + 4 * 0.5,
    ),
    "one of them is free": (
        {"cut": FREE, "rest": dollars(0, 2) | {"continue": "prefill"}},
        {},
        2 * 2,
    ),
    "both are": ({"cut": FREE, "rest": {"continue": "prefill"}}, {}, None),
    "nobody went on": (
        {"cut": dollars(0, 1), "500": dollars(0, 2) | {"continue": "prefill"}},
        {},
        10 * 1,
    ),
    "nobody was asked to go on": (
        {"calls": dollars(0, 1), "rest": dollars(0, 2) | {"continue": "prefill"}},
        {},
        2 * 1,
    ),
    "one that refuses costs nothing": (
        {"500": dollars(3, 3), "happy": dollars(1, 2)},
        {},
        7 * 1 + 10 * 2,
    ),
    "as many requests, as many prompts": (
        {"happy": dollars(1, 0) | {"n": "fan-out"}},
        {"n": 3},
        3 * 7 * 1,
    ),
    "and as many answers": (
        {"happy": dollars(1, 2) | {"n": "fan-out"}},
        {"n": 3},
        3 * 7 * 1 + 3 * 10 * 2,
    ),
    "one request, one prompt": ({"choices": dollars(1, 0)}, {"n": 3}, 7 * 1),
}


@pytest.mark.parametrize("case", COSTS)
async def test_every_part_has_its_price(tmp_path: Path, scripted: MockServer, case: str) -> None:
    deploy, more, expected = COSTS[case]
    scripted.scripts |= {"rest": REST, "begun": BEGUN, "writes": WRITES, "calls": CALLS}
    route = {"attempts": len(deploy)}
    async with routed(tmp_path, scripted, deploy, deploy=deploy, route=route) as legato:
        await result(legato, **more)
        (row,) = await legato.rows()
        assert row["cost"] == (None if expected is None else pytest.approx(expected))


async def test_what_started_over_is_paid_for_as_well(tmp_path: Path, scripted: MockServer) -> None:
    names = {"cut": dollars(0, 1), "happy": dollars(0, 2)}
    async with routed(tmp_path, scripted, names, deploy=names) as legato:
        more = {"response_format": {"type": "json_object"}}
        assert (await ask(legato.port, legato.key, chat("public", **more))).status == 200
        (row,) = await legato.rows()
        assert row["cost"] == pytest.approx(10 * 1 + 10 * 2)
        assert row["completion_tokens"] == 10


async def test_a_replay_is_paid_for_in_full(tmp_path: Path, scripted: MockServer) -> None:
    scripted.scripts["half"] = Script(steps=HALF, then=SCRIPTS["happy"])
    deploy = {
        "half": dollars(0, 1) | {"model": "half"},
        "again": dollars(1, 2, cached=1) | {"model": "half", "continue": "replay"},
    }
    async with routed(tmp_path, scripted, deploy, deploy=deploy) as legato:
        assert (await result(legato, seed=1, temperature=0)).text() == TEXT
        (row,) = await legato.rows()
        assert row["cost"] == pytest.approx(4 * 1 + 7 * 1 + 10 * 2)


@pytest.mark.parametrize("both", [False, True])
async def test_tokens_of_a_cache_are_not_forgotten(
    tmp_path: Path, scripted: MockServer, both: bool
) -> None:
    scripted.scripts |= {"writes": WRITES, "rest": REST}
    deploy = {"rest": {"continue": "prefill"}}
    route = {"count_both_prompts": both}
    names = ["writes", "rest"]
    async with routed(tmp_path, scripted, names, deploy=deploy, route=route) as legato:
        answer = await result(legato)
        assert answer.text() == "Once upon And on."
        usage = answer.chunks[-1]["usage"]
        assert usage["prompt_tokens"] == (30 if both else 9)
        assert usage["completion_tokens"] == 4
        details = {"cached_tokens": 4, "cache_creation_tokens": 3}
        assert usage["prompt_tokens_details"] == details
        (row,) = await legato.rows()
        assert (row["cached_tokens"], row["cache_write_tokens"]) == (4, 3)
