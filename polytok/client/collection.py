"""What the three kinds of resources share."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from polytok import errors
from polytok.client import calls

Item = TypeVar("Item")

PAGE_SIZE = 1000


class Resource:
    """Calls about one kind of record, over an exchange."""

    def __init__(self, via: calls.Exchange) -> None:
        self._via = via


async def pages(fetch: Callable[[str], Awaitable[tuple[Any, str]]]) -> AsyncGenerator[Any, None]:
    """Yield the items of all pages (AIP-158); `fetch` takes a page token and gives the items and the next token."""
    token = ""
    while True:
        items, token = await fetch(token)
        for item in items:
            yield item
        if not token:
            return


def states(enum: Any, names: Sequence[str]) -> list[Any]:
    """Return the values of states that are given as words: READY, ERROR and so on."""
    known = {name.removeprefix("STATE_"): value for name, value in enum.items() if value}
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    for name in names:
        if name.upper() not in known:
            raise errors.InvalidArgument(f"{name!r} is no state; one of: {', '.join(known)}.")
    return [known[name.upper()] for name in names]
