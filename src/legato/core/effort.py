"""How much reasoning a client wants: two parameters, read as one."""

from typing import Final

from msgspec import Struct

from legato.core.request import ChatRequest, Effort

#: Tokens of thinking that go with an effort where an upstream wants a number.
BUDGETS: Final[dict[str, int]] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24576}

#: More than `high`, for upstreams that have such an effort; the budget stays that of `high`.
_MORE: Final = ("xhigh", "max")


class ReasoningRequest(Struct, frozen=True):
    """`thinks` None: the client sets nothing. `budget`: in tokens, None where it sets none."""

    thinks: bool | None = None
    effort: Effort | None = None
    budget: int | None = None

    def tokens(self, budgets: dict[str, int]) -> int | None:
        """The budget in tokens; an effort's is in `budgets`. None where there is neither."""
        effort = "high" if self.effort in _MORE else self.effort
        return self.budget if self.budget is not None else budgets.get(effort or "")

    def word(self, *, most: Effort = "max") -> Effort | None:
        """The effort; for a budget, the least effort that allows as much. None where the client
        sets nothing. `most`: the strongest effort that the upstream has."""
        if self.effort is not None or self.thinks is None:
            return "high" if self.effort in _MORE and most == "high" else self.effort
        if not self.thinks:
            return "none"
        if self.budget is None:
            return "medium"
        for name, tokens in BUDGETS.items():
            if self.budget <= tokens:
                return name  # type: ignore[return-value]
        return "high"


def reasoning_request(request: ChatRequest) -> ReasoningRequest:
    """`thinking` is the more precise of the two: it wins where they differ."""
    effort, thinking = request.reasoning_effort, request.thinking
    if thinking is not None:
        if thinking.type == "disabled":
            return ReasoningRequest(False, "none")
        return ReasoningRequest(True, None if effort == "none" else effort, thinking.budget_tokens)
    if effort is None:
        return ReasoningRequest()
    return ReasoningRequest(effort != "none", effort)
