"""The input of a Responses request (items) as the messages of a Chat Completions request.

Items that stand apart there are joined: reasoning, text and calls of one turn are one message of
the assistant. Each call is followed by its result, as chat upstreams demand it: a result that is
missing says so, a result without its call is left out.
"""

from typing import Any, Final

import msgspec

from legato.core.errors import invalid
from legato.core.signatures import is_carried, uncarried
from legato.fronts.responses_content import TEXTS, Content, an_object, objects, parts, string
from legato.fronts.responses_tools import INPUT, ToolName, ToolNames

Fields = dict[str, Any]

#: The format of encrypted reasoning, in an entry of `reasoning_details`.
REASONING_FORMAT: Final = "openai-responses-v1"

_ROLES: Final = ("user", "assistant", "system", "developer")

#: Calls that a client carries out itself: the type of their results.
_RESULTS: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}

_NO_RESULT: Final = "The result of this call was not given."


class _Turn:
    """A turn of the assistant while its items are read."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.refusals: list[str] = []
        self.thoughts: list[str] = []
        self.details: list[Fields] = []
        self.calls: list[Fields] = []
        self.places: list[int] = []  # of the calls, among the items

    def message(self) -> Fields | None:
        """None where nothing is left to be sent."""
        message: Fields = {"role": "assistant", "content": "\n\n".join(self.texts) or None}
        if self.refusals:
            message["refusal"] = "\n\n".join(self.refusals)
        if self.calls:
            message["tool_calls"] = self.calls
        if message.keys() == {"role", "content"} and message["content"] is None:
            return None  # nothing but reasoning, or nothing at all
        if self.thoughts:
            message["reasoning_content"] = "\n\n".join(self.thoughts)
        if self.details:
            message["reasoning_details"] = self.details
        return message


class _Conversation:
    """Reads items one after the other."""

    def __init__(self, items: list[Fields], names: ToolNames, content: Content) -> None:
        self.messages: list[Fields] = []
        self._content = content
        self._names = names
        self._turn = _Turn()
        self._results = _results(items)
        for index, item in enumerate(items):
            self._read(index, item)
        self._end_turn()

    def _read(self, index: int, item: Fields) -> None:
        where = f"input[{index}]"
        match item.get("type") or ("message" if "role" in item else "item_reference"):
            case "message":
                self._message(item, where)
            case "reasoning":
                self._reasoning(item)
            case "function_call" | "custom_tool_call":
                self._call(item, index, where)
            case "function_call_output" | "custom_tool_call_output":
                self._end_turn()  # which takes the result, if one of its calls is waiting for it
            case "item_reference":
                self._content.refuse(
                    {"type": "item_reference"},
                    where,
                    f"`{where}` refers to an item by its id, but items are not stored here: send"
                    " the item itself, as clients do that are set to `store: false`.",
                )
            case _:
                return  # of a tool that OpenAI runs itself, with its result

    def _message(self, item: Fields, where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise invalid(
                f"`{where}.role` is none of {', '.join(f'`{each}`' for each in _ROLES)}.",
                param=f"{where}.role",
                code="invalid_value",
            )
        content = item.get("content")
        if role == "assistant":
            self._answer(content, f"{where}.content")
            return
        self._end_turn()
        self._turn = _Turn()  # without reasoning that led to nothing
        where = f"{where}.content"
        if role == "user":
            found = self._content.read(content, where)
            self.messages.append({"role": "user", "content": found})
        else:  # no upstream takes `developer` that does not take `system`
            found = self._content.joined(content, where, "\n\n")
            self.messages.append({"role": "system", "content": found})

    def _answer(self, content: Any, where: str) -> None:
        for part in parts(content, where):
            if part.get("type") == "refusal":
                self._turn.refusals.append(string(part, "refusal", where))
            elif part.get("type") in TEXTS:
                self._turn.texts.append(string(part, "text", where))
            else:
                self._content.refuse(part, where)

    def _reasoning(self, item: Fields) -> None:
        encrypted = item.get("encrypted_content")
        if isinstance(encrypted, str) and is_carried(encrypted):
            self._turn.details += uncarried(encrypted)  # what it says follows, for other upstreams
        elif isinstance(encrypted, str) and encrypted:
            detail = {
                "type": "reasoning.encrypted",
                "id": item.get("id"),
                "data": encrypted,
                "summary": item.get("summary") or [],
                "format": REASONING_FORMAT,
            }
            self._turn.details.append(detail)
            return
        found = objects(item.get("content")) or objects(item.get("summary"))
        texts = [each["text"] for each in found if isinstance(each.get("text"), str)]
        self._turn.thoughts += [each for each in texts if each]

    def _call(self, item: Fields, index: int, where: str) -> None:
        identity = _required(item, "call_id", where)
        name, namespace = _required(item, "name", where), item.get("namespace")
        is_custom = item["type"] == "custom_tool_call"
        kind = "custom" if is_custom else "function"
        tool = ToolName(kind, namespace if isinstance(namespace, str) else "", name)
        function = self._names.find(tool.namespace, name) or self._names.add(tool)
        arguments = item.get("input" if is_custom else "arguments")
        text = arguments if isinstance(arguments, str) else ""
        if is_custom:
            text = msgspec.json.encode({INPUT: text}).decode()
        self._turn.calls.append(
            {
                "id": identity,
                "type": "function",
                "function": {"name": function, "arguments": text or "{}"},
            }
        )
        self._turn.places.append(index)

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, _Turn()
        message = turn.message()
        if message is None:
            self._turn = turn  # its reasoning waits for what it led to
            return
        self.messages.append(message)
        said: list[Fields] = []
        for call, place in zip(turn.calls, turn.places, strict=True):
            identity = call["id"]
            result, more = _split(self._result(identity, place), identity)
            self.messages.append({"role": "tool", "tool_call_id": identity, "content": result})
            said += more
        if said:
            self.messages.append({"role": "user", "content": said})

    def _result(self, identity: str, place: int) -> str | list[Fields]:
        """The first result behind a call that no other call has taken."""
        waiting = self._results.get(identity, [])
        while waiting:
            at, item = waiting.pop(0)
            if at > place:
                return self._content.joined(item.get("output"), f"input[{at}].output", "\n")
        return _NO_RESULT


def _split(result: str | list[Fields], identity: str) -> tuple[str, list[Fields]]:
    """(the text of a result, parts of it for a message of the user): Chat Completions takes nothing
    but text in the message of a tool."""
    if isinstance(result, str):
        return result, []
    texts = [each["text"] for each in result if each["type"] == "text"]
    others = [each for each in result if each["type"] != "text"]
    name = {"type": "text", "text": f"Content of the result of the tool call {identity}:"}
    return "\n".join(texts) or "The result is in the next message.", [name, *others]


def _results(items: list[Fields]) -> dict[str, list[tuple[int, Fields]]]:
    """Results by the id of their call, each with its place."""
    found: dict[str, list[tuple[int, Fields]]] = {}
    for index, item in enumerate(items):
        if item.get("type") in _RESULTS.values():
            identity = _required(item, "call_id", f"input[{index}]")
            found.setdefault(identity, []).append((index, item))
    return found


def messages(
    value: str | list[Any], instructions: Any, names: ToolNames, content: Content
) -> list[Fields]:
    """Raises `ApiError` 400 for what no model can be shown. `content` notes what only an upstream
    that speaks Responses may know."""
    system: list[Fields] = []
    if instructions:
        found = content.joined(instructions, "instructions", "\n\n")
        system = [{"role": "system", "content": found}]
    if isinstance(value, str):
        return [*system, {"role": "user", "content": value}]
    items = [an_object(each, f"input[{index}]") for index, each in enumerate(value)]
    return _joined_system([*system, *_Conversation(items, names, content).messages])


def _joined_system(found: list[Fields]) -> list[Fields]:
    """The system messages that a conversation begins with, as one: many chat templates take no
    more."""
    count = 0
    while count < len(found) and found[count]["role"] == "system":
        count += 1
    contents = [each["content"] for each in found[:count]]
    if count < 2 or not all(isinstance(each, str) for each in contents):
        return found
    return [{"role": "system", "content": "\n\n".join(contents)}, *found[count:]]


def _required(item: Fields, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        param = f"{where}.{name}"
        raise invalid(f"`{param}` is required.", param=param, code="missing_required_parameter")
    return value
