"""Which column of a dataset is tokenized: the one that was named, or the one that its columns leave no doubt about."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from polytok import errors
from services.catalog.server.domain import not_found, records

USUAL = ("content", "document", "body")
"""Beside `text`, names that a column of documents commonly has."""

_TEXT_TYPES = frozenset({"string", "large_string", "string_view"})
JSON = "extension<arrow.json>"
_TOOLS = "tools"
"""The column whose values chat templates are given as tools, where none is named: what TRL and ms-swift call it."""
_LIST = re.compile(r"(?:large_)?list<[^<>]*?: (.*)>")
_LIST_OF_STRUCTS = re.compile(r"(?:large_)?list<[^<>]*?: struct<(.*)>(?: not null)?>")


class Choice(NamedTuple):
    """The column that is tokenized."""

    column: str
    is_chat: bool
    """Whether it holds conversations."""
    why: str
    """One of REASONS."""


ASKED = "it was asked for"
CALLED_TEXT = "its name is `text`"
ONLY_CHATS = "it is the only column of conversations"
ONLY_USUAL = "it is the only column of text with a usual name"
ONLY_TEXT = "it is the only column of text"
REASONS = frozenset({ASKED, CALLED_TEXT, ONLY_CHATS, ONLY_USUAL, ONLY_TEXT})


def choose(asked: str, dataset: records.Dataset, *, only_chats: bool, known_why: str = "") -> Choice:
    """Choose the column; refuse to guess where several could be meant.

    With `only_chats`, the caller has asked for conversations. `known_why` came with what was asked for: parameters that
    are a record's own stay what they are.
    """
    types = {column["name"]: column["type"] for column in dataset.columns}
    texts = [] if only_chats else [name for name, kind in types.items() if kind in _TEXT_TYPES]
    chats = [
        column["name"]
        for column in dataset.columns
        if column.get("content") == "CONVERSATIONS" or is_chat(column["type"])
    ]
    if asked:
        return _named(asked, types, texts, chats, dataset, known_why if known_why in REASONS else ASKED)
    if "text" in types and not only_chats:
        return _named("text", types, texts, chats, dataset, CALLED_TEXT)
    usual = [name for name in USUAL if name in texts]
    for candidates, why in (
        (chats, ONLY_CHATS),
        (usual, ONLY_USUAL),
        (texts, ONLY_TEXT),
    ):
        if len(candidates) == 1:
            return Choice(candidates[0], candidates is chats, why)
        if candidates:
            raise _ambiguous(dataset, candidates, "conversations" if candidates is chats else "text")
    what = "conversations" if only_chats else "text"
    raise _refused(
        "COLUMN_NOT_FOUND",
        f"{dataset.resource} has no column of {what}; it has: {', '.join(types)}.",
        {"columns": ", ".join(types)[:500]},
    )


def is_chat(kind: str) -> bool:
    """Whether an Arrow type, as pyarrow prints it, is that of conversations: of OpenAI's form or of ShareGPT's."""
    found = _LIST_OF_STRUCTS.fullmatch(kind)
    if found is None:
        return False
    fields = _fields(found[1])
    openai = fields.get("role") in _TEXT_TYPES and not fields.keys().isdisjoint({"content", "tool_calls"})
    return openai or (fields.get("from") in _TEXT_TYPES and fields.get("value") in _TEXT_TYPES)


def tools(asked: str | None, dataset: records.Dataset) -> str:
    """Return the column whose values a chat template is given as tools; empty for none.

    Without one that is asked for, that is `tools`, if it is there and can be such a column.
    """
    types = {column["name"]: column["type"] for column in dataset.columns}
    if asked is None:
        return _TOOLS if _may_be_tools(types.get(_TOOLS, "")) else ""
    if asked and asked not in types:
        raise not_found.column(dataset.resource, asked, list(types), field="chat.tools_column")
    if asked and not _may_be_tools(types[asked]):
        raise _refused(
            "COLUMN_INVALID",
            f"Column {asked!r} of {dataset.resource} holds {_said(types[asked])}, not tools: lists of JSON schemas, or "
            "their text. Name another as chat.tools_column, or none.",
            {"column": asked, "type": types[asked][:200]},
            field="chat.tools_column",
        )
    return asked


def _may_be_tools(kind: str) -> bool:
    """Return whether values of an Arrow type may be lists of objects, or JSON."""
    listed = _LIST.fullmatch(kind)
    return (listed[1] if listed else kind) in {*_TEXT_TYPES, JSON} or _LIST_OF_STRUCTS.fullmatch(kind) is not None


def _said(kind: str) -> str:
    """Return an Arrow type, for messages."""
    return {"null": "nothing but nulls", JSON: "objects or other JSON"}.get(kind, kind)


def _fields(body: str) -> dict[str, str]:
    """Return the fields of a struct's type and their own types."""
    parts, depth, begin = [], 0, 0
    for place, character in enumerate(body):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if not depth and body.startswith(", ", place):
            parts.append(body[begin:place])
            begin = place + 2
    pairs = (part.partition(": ") for part in (*parts, body[begin:]))
    return {name: kind.removesuffix(" not null") for name, _, kind in pairs}


def _named(
    name: str,
    types: Mapping[str, str],
    texts: Sequence[str],
    chats: Sequence[str],
    dataset: records.Dataset,
    why: str,
) -> Choice:
    if name not in types:
        raise not_found.column(dataset.resource, name, list(types))
    if name in texts or name in chats:
        return Choice(name, name in chats, why)
    what = "text" if texts or not chats else "conversations"
    others = [f"Columns of {kind}: {', '.join(of)}." for kind, of in (("text", texts), ("conversations", chats)) if of]
    raise _refused(
        "COLUMN_INVALID",
        f"Column {name!r} of {dataset.resource} holds {_said(types[name])}, not {what}. "
        + (" ".join(others) or f"No column of it holds {what}."),
        {"column": name, "type": types[name][:200]},
    )


def _ambiguous(dataset: records.Dataset, candidates: Sequence[str], what: str) -> errors.InvalidArgument:
    listed = ", ".join(candidates)
    return _refused(
        "COLUMN_NOT_FOUND",
        f"{dataset.resource} has several columns of {what}: {listed}. Name the one to tokenize: `--column NAME` on the "
        "command line, `text_column` in a request.",
        {"columns": listed[:500]},
    )


def _refused(
    reason: str, message: str, metadata: Mapping[str, str], *, field: str = "text_column"
) -> errors.InvalidArgument:
    violations = [errors.FieldViolation(f"parameters.{field}", message)]
    return errors.InvalidArgument(message, reason=reason, metadata=dict(metadata), violations=violations)
