"""Convert the turns of a conversation in a dataset to the form that chat templates take.

OpenAI's form has `role` and `content` in each turn, and any other fields that a template knows; ShareGPT's has `from`
and `value`. A null field of a turn counts as missing, as in `apply_chat_template`; nulls further within stay.
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
"""The chat template role of each ShareGPT speaker."""


class Malformed(Exception):
    """Raised for a conversation that cannot be rendered; the message says which turn and why."""

    def __init__(self, message: str, fix: str = "Fix or remove the conversation") -> None:
        super().__init__(message)
        self.fix = fix


def read(turns: Any) -> list[dict[str, Any]]:
    """Return the turns, each with `role`, and with `content` unless another field takes its place."""
    if not turns:
        raise Malformed("the conversation has no turns")
    if not isinstance(turns, list):
        raise Malformed("the conversation is not a list of turns")
    return [_turn(turn, f"turn {place} of {len(turns)}") for place, turn in enumerate(turns, start=1)]


def _turn(turn: Any, where: str) -> dict[str, Any]:
    if turn is not None and not isinstance(turn, dict):
        raise Malformed(f"{where} is not an object with a role")
    given = {key: value for key, value in (turn or {}).items() if value is not None}
    if not given:
        raise Malformed(f"{where} is empty")
    # A schema may have the fields of both forms; then each turn is in the form of its fields.
    return _shared(given, where) if "from" in given and "role" not in given else _plain(given, where)


def _plain(turn: dict[str, Any], where: str) -> dict[str, Any]:
    if not turn.get("role"):
        raise Malformed(f"{where} has no role")
    if not isinstance(turn["role"], str):
        raise Malformed(f"{where} has a role that is not text")
    if turn.keys() == {"role"}:
        raise Malformed(f"{where}, with the role {turn['role']!r}, has no content")
    return turn


def _shared(turn: dict[str, Any], where: str) -> dict[str, Any]:
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise Malformed(f"{where} is from {str(speaker)[:80]!r}; expected one of {', '.join(ROLES)}")
    if "value" not in turn:
        raise Malformed(f"{where}, from {speaker!r}, has no value")
    return {"role": ROLES[speaker], "content": turn["value"]}
