"""Page sizes and page tokens (AIP-158)."""

import base64
import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from polytok import errors
from services.records import queries

DEFAULT_SIZE = 100
MAX_SIZE = 1000
_NONE = "is none that a list gave; take next_page_token as it is."


class _Request(Protocol):
    @property
    def page_size(self) -> int: ...

    @property
    def page_token(self) -> str: ...


class _Listed(Protocol):
    @property
    def id(self) -> Any: ...

    @property
    def created_at(self) -> datetime: ...


Record = TypeVar("Record", bound=_Listed)


def size(request: _Request) -> int:
    """Return how many records the page has at most."""
    return min(request.page_size or DEFAULT_SIZE, MAX_SIZE)


def after(request: _Request, read_id: Callable[[str], Any]) -> queries.Cursor | None:
    """Return the place that the page begins after; None begins at the newest."""
    parts = read(request, str, str)
    if parts is None:
        return None
    created_at, identifier = parts
    try:
        return queries.Cursor(datetime.fromisoformat(created_at), read_id(identifier))
    except (ValueError, TypeError, AttributeError):
        raise _wrong(_NONE) from None


def read(request: _Request, *kinds: type) -> list[Any] | None:
    """Return what `write` put into the page token, values of these kinds; None without one."""
    if not request.page_token:
        return None
    try:
        parts: list[Any]
        digest, *parts = json.loads(base64.urlsafe_b64decode(request.page_token.encode("ascii")))
    except (ValueError, TypeError, AttributeError):
        raise _wrong(_NONE) from None
    if [type(part) for part in parts] != list(kinds):
        raise _wrong(_NONE)
    if digest != _digest(request):
        raise _wrong("belongs to a list with other filters; begin that list again without a token.")
    return parts


def write(request: _Request, *parts: Any) -> str:
    """Return a page token for where the next page begins."""
    return base64.urlsafe_b64encode(json.dumps([_digest(request), *parts]).encode()).decode()


def cut(request: _Request, found: list[Record]) -> tuple[list[Record], str]:
    """Take the page out of what was found (one more than fits, if there is one), and the next page's token."""
    limit = size(request)
    if len(found) <= limit:
        return found, ""
    last = found[limit - 1]
    return found[:limit], write(request, last.created_at.isoformat(), str(last.id))


def read_uuid(text: str) -> uuid.UUID:
    """Read an id that is a UUID in a token."""
    return uuid.UUID(text)


def _digest(request: Any) -> str:
    # A token is good for the list that it came from: everything counts but the place in it.
    assert isinstance(request, Message)
    filters = type(request)()
    filters.CopyFrom(request)
    filters.ClearField("page_token")
    filters.ClearField("page_size")
    return hashlib.sha256(filters.SerializeToString(deterministic=True)).hexdigest()[:8]


def _wrong(description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"page_token {description}", violations=[errors.FieldViolation("page_token", description)]
    )
