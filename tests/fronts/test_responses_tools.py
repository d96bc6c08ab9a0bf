"""Tools of a Responses request as functions, and calls on their way back."""

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.errors import ApiError
from legato.fronts.responses import RESPONSES
from legato.fronts.responses_custom import InputDecoder
from legato.fronts.responses_tools import ToolName, ToolNames

Json = dict[str, Any]

QUICK = settings(deadline=None, database=None, max_examples=200)

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
SUM: Json = {"type": "function", "name": "sum", "description": "Adds.", "parameters": PARAMETERS}
NOW: Json = {"type": "function", "name": "now"}
PATCH: Json = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
MAIL: Json = {
    "type": "namespace",
    "name": "mail",
    "description": "Mail.",
    "tools": [{"type": "function", "name": "send"}, {"type": "function", "name": "sum"}],
}
SEARCH: Json = {"type": "web_search"}


def translated(tools: list[Any], choice: Any = None) -> Json:
    body = {"model": "m", "input": "Hello", "tools": tools, "tool_choice": choice}
    return json.loads(RESPONSES.parse(json.dumps(body).encode()).body)


def functions(*tools: Any) -> list[Json]:
    found = translated(list(tools)).get("tools", [])
    assert all(each["type"] == "function" for each in found)
    return [each["function"] for each in found]


def test_a_function_is_a_function() -> None:
    strict = SUM | {"strict": True, "defer_loading": False}
    assert functions(SUM, strict | {"name": "sum2"}, NOW) == [
        {"name": "sum", "description": "Adds.", "parameters": PARAMETERS},
        {"name": "sum2", "description": "Adds.", "parameters": PARAMETERS, "strict": True},
        {"name": "now"},
    ]


def test_a_custom_tool_is_a_function_with_one_string() -> None:
    (function,) = functions(PATCH)
    assert function["name"] == "apply_patch"
    assert function["description"].startswith("Edits files.\n\n")
    assert "(lark)" in function["description"]
    assert "start: /.+/" in function["description"], "the model is told of the grammar"
    assert function["parameters"]["required"] == ["input"]
    assert function["parameters"]["properties"]["input"]["type"] == "string"


def test_tools_of_a_namespace_have_its_name_in_front() -> None:
    names = [each["name"] for each in functions(SUM, MAIL)]
    assert names == ["sum", "mail__send", "mail__sum"]


def test_hosted_tools_are_left_out() -> None:
    types = ("web_search", "file_search", "code_interpreter", "image_generation", "mcp")
    more = ("local_shell", "computer_use_preview", "tool_search", "nobody_knows")
    assert functions(*({"type": each} for each in types + more), NOW) == [{"name": "now"}]
    assert "tools" not in translated([SEARCH])
    assert "tool_choice" not in translated([SEARCH], "auto")


CHOICES: dict[str, tuple[Any, list[str], Any]] = {
    "nothing": (None, ["sum", "apply_patch", "mail__send", "mail__sum"], None),
    "auto": ("auto", ["sum", "apply_patch", "mail__send", "mail__sum"], "auto"),
    "none": ("none", ["sum", "apply_patch", "mail__send", "mail__sum"], "none"),
    "required": ("required", ["sum", "apply_patch", "mail__send", "mail__sum"], "required"),
    "a function": ({"type": "function", "name": "sum"}, [], "sum"),
    "a custom tool": ({"type": "custom", "name": "apply_patch"}, [], "apply_patch"),
    "one of a namespace": (
        {"type": "function", "name": "sum", "namespace": "mail"},
        *([], "mail__sum"),
    ),
    "one of a namespace, without it": ({"type": "function", "name": "send"}, [], "mail__send"),
    "some of them": (
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}],
        },
        *(["apply_patch"], "required"),
    ),
    "those of a namespace": (
        {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "namespace", "name": "mail"}],
        },
        *(["mail__send", "mail__sum"], "auto"),
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_a_choice(case: str) -> None:
    choice, names, wanted = CHOICES[case]
    request = translated([SUM, PATCH, MAIL, SEARCH], choice)
    if not names:
        assert request["tool_choice"] == {"type": "function", "function": {"name": wanted}}
        return
    assert [each["function"]["name"] for each in request["tools"]] == names
    assert request.get("tool_choice") == wanted


REFUSED: dict[str, tuple[list[Any], Any, str, str, str]] = {
    "a tool that is none": (["sum"], None, "missing_required_parameter", "tools[0].type", "type"),
    "no name": (
        [NOW, {"type": "function"}],
        *(None, "missing_required_parameter", "tools[1].name", "name"),
    ),
    "no name in a namespace": (
        [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}],
        *(None, "missing_required_parameter", "tools[0].tools[0].name", "name"),
    ),
    "a namespace of nothing": (
        [{"type": "namespace", "name": "n"}],
        *(None, "missing_required_parameter", "tools[0].tools", "tools"),
    ),
    "parameters of a wrong type": (
        [NOW | {"parameters": "none"}],
        *(None, "invalid_value", "tools[0].parameters", "object"),
    ),
    "two of one name": ([NOW, PATCH, NOW], None, "invalid_value", "tools[2].name", "`now`"),
    "an unknown mode": ([NOW], "always", "invalid_value", "tool_choice", "`always`"),
    "an unknown function": (
        [NOW],
        {"type": "function", "name": "sum"},
        *("invalid_value", "tool_choice", "`sum`"),
    ),
    "any, where there is none": ([], "required", "invalid_value", "tool_choice", "`tools`"),
    "some, and not which": (
        [NOW],
        {"type": "allowed_tools", "mode": "auto"},
        *("missing_required_parameter", "tool_choice.tools", "tools"),
    ),
    "some, in an unknown mode": (
        [NOW],
        {"type": "allowed_tools", "mode": "never", "tools": []},
        *("invalid_value", "tool_choice.mode", "`never`"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    tools, choice, code, param, word = REFUSED[case]
    with pytest.raises(ApiError) as caught:
        translated(tools, choice)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert word in caught.value.message


HOSTED: dict[str, tuple[list[Any], Any, str]] = {
    "one": ([NOW, SEARCH], {"type": "web_search"}, "`web_search`"),
    "any, where there are no others": ([SEARCH], "required", "`web_search`"),
    "any of some": (
        [NOW, SEARCH],
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]},
        "`mcp`",
    ),
}


@pytest.mark.parametrize("case", HOSTED)
def test_a_hosted_tool_that_is_demanded(case: str) -> None:
    """It is refused where the request does not go out as it came."""
    tools, choice, word = HOSTED[case]
    body = {"model": "m", "input": "Hello", "tools": tools, "tool_choice": choice}
    refused = RESPONSES.parse(json.dumps(body).encode()).beyond
    assert refused is not None
    assert (refused.code, refused.param) == ("unsupported_parameter", "tool_choice")
    assert word in refused.message


# Names


@QUICK
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "a b", "ž" * 70]),
            st.sampled_from(["x", "x y", "x.y", "x_y", "a__x", "x" * 64, "x" * 65, "ž"])
            | st.text(min_size=1, max_size=80),
        ),
        unique=True,
        max_size=12,
    )
)
def test_names_are_legal_and_lead_back(pairs: list[tuple[str, str]]) -> None:
    names = ToolNames()
    tools = [ToolName("function", *pair) for pair in pairs]
    given_names = [names.add(tool) for tool in tools]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in given_names)
    assert len(set(given_names)) == len(tools)
    assert [names.tool(each) for each in given_names] == tools
    assert [names.find(tool.namespace, tool.name) for tool in tools] == given_names
    again = ToolNames()
    assert [again.add(tool) for tool in tools] == given_names, "the same ones in the next request"


def test_a_function_that_nobody_gave_is_called_by_its_name() -> None:
    assert ToolNames().tool("guess") == ToolName("function", "", "guess")


# The input of custom tools

INPUTS: dict[str, tuple[str, str]] = {
    "as it should be": ('{"input": "*** Begin\\n\\"x\\" \\\\ é"}', '*** Begin\n"x" \\ é'),
    "a pair of escapes": ('{"input":"a\\ud83d\\udc0eb"}', "a🐎b"),
    "half a pair": ('{"input":"a\\ud83db"}', "a\ufffdb"),
    "half a pair at the end": ('{"input":"a\\ud83d"}', "a\ufffd"),
    "half a pair, then nothing": ('{"input":"a\\ud83d', "a\ufffd"),
    "empty": ('{"input":""}', ""),
    "more members": ('{"input":"a", "why": "b"}', "a"),
    "behind another member": ('{"why":"b","input":"a"}', "a"),
    "under another name": ('{"patch":"a"}', "a"),
    "no object": ('"a"', "a"),
    "no JSON": ("*** Begin Patch", "*** Begin Patch"),
    "no string": ('{"input":{"a":1}}', '{"input":{"a":1}}'),
    "cut in the text": ('{"input":"abc', "abc"),
    "cut in an escape": ('{"input":"abc\\u00', "abc"),
    "line ends as they are": ('{"input":"a\nb\tc"}', "a\nb\tc"),
    "escapes that are none": ('{"input":"C:\\dir\\user\\x \\u12"}', "C:\\dir\\user\\x \\u12"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("case", INPUTS)
def test_an_input_is_decoded_in_any_pieces(case: str, size: int) -> None:
    arguments, wanted = INPUTS[case]
    decoder = InputDecoder()
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    told = [decoder.add(each) for each in pieces]
    assert "".join(told) + decoder.close() == wanted


@QUICK
@given(st.text(), st.booleans(), st.lists(st.integers(0, 60), max_size=6))
def test_any_input_comes_back(text: str, ascii_only: bool, places: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    edges = [0, *sorted(min(each, len(arguments)) for each in places), len(arguments)]
    decoder = InputDecoder()
    told = [decoder.add(arguments[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(told) + decoder.close() == text


def test_an_input_does_not_wait_for_its_end() -> None:
    decoder = InputDecoder()
    assert [decoder.add(each) for each in ('{"inp', 'ut": "ab', "cd", '\\"', 'e"', "}")] == [
        *("", "ab", "cd", '"', "e", ""),
    ]
