"""Turns of a conversation as they lie in a dataset, in the form that chat templates take.

OpenAI's form has `role` and `content` in each turn, and whatever else a template knows; ShareGPT's has `from` and
`value`. Arrow stores a field that a turn lacks as null, so a null counts as lacking here.
"""

from collections.abc import Mapping
from typing import Any

ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""What a speaker of ShareGPT is in a chat template."""


class Malformed(Exception):
    """A conversation that cannot be rendered; the message says which turn and why."""

    def __init__(self, message: str, mend: str = "Mend or remove the conversation") -> None:
        super().__init__(message)
        self.mend = mend


def read(turns: list[Any] | None) -> list[dict[str, Any]]:
    """Returns the turns, each with `role`, and with `content` unless something else stands in its place."""
    if not turns:
        raise Malformed("the conversation has no turns")
    return [_turn(turn, f"turn {place} of {len(turns)}") for place, turn in enumerate(turns, start=1)]


def _turn(turn: dict[str, Any] | None, where: str) -> dict[str, Any]:
    told = _without_nulls(turn) if turn is not None else {}
    if not told:
        raise Malformed(f"{where} is empty")
    # A schema may have the fields of both forms; then each turn is what it says.
    return _shared(told, where) if "from" in told and "role" not in told else _plain(told, where)


def _plain(turn: dict[str, Any], where: str) -> dict[str, Any]:
    if not turn.get("role"):
        raise Malformed(f"{where} has no role")
    if turn.keys() == {"role"}:
        raise Malformed(f"{where}, of the role {turn['role']!r}, has no content")
    return turn


def _shared(turn: dict[str, Any], where: str) -> dict[str, Any]:
    speaker = turn["from"]
    if speaker not in ROLES:
        raise Malformed(f"{where} is from {speaker[:80]!r}, which is none of {', '.join(ROLES)}")
    if "value" not in turn:
        raise Malformed(f"{where}, from {speaker!r}, has no value")
    return {"role": ROLES[speaker], "content": turn["value"]}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
