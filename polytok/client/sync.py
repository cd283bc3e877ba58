"""Methods written once, as coroutines, for the synchronous and the asynchronous client.

A coroutine suspends only if something that it awaits does. `SyncTransport` blocks instead, so a coroutine over it
completes in one step and needs no event loop.
"""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")


class SyncMixin:
    """Makes methods return results and iterators."""


class AsyncMixin:
    """Makes methods return coroutines and asynchronous iterators."""


class _Descriptor:
    """Binds a method to an instance: unchanged for an `AsyncMixin`, run to completion for a `SyncMixin`."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def _bind(self, instance: Any, complete: Callable[[Any], Any]) -> Any:
        method = self._method
        if instance is None:
            return self
        if isinstance(instance, AsyncMixin):
            return method.__get__(instance)

        @functools.wraps(method)
        def synchronous(*args: Any, **kwargs: Any) -> Any:
            return complete(method(instance, *args, **kwargs))

        return synchronous


class method(_Descriptor, Generic[P, R]):  # noqa: N801  used as a decorator
    """A coroutine method, which a `SyncMixin` turns into a plain method."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, instance: SyncMixin, owner: Any) -> Callable[P, R]: ...
    @overload
    def __get__(self, instance: AsyncMixin, owner: Any) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> "method[P, R]": ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        """Bind the method to an instance."""
        return self._bind(instance, run)


class iterator(_Descriptor, Generic[P, R]):  # noqa: N801  used as a decorator
    """An asynchronous generator method, which a `SyncMixin` turns into a generator."""

    def __init__(self, method: Callable[Concatenate[Any, P], AsyncGenerator[R, None]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, instance: SyncMixin, owner: Any) -> Callable[P, Iterator[R]]: ...
    @overload
    def __get__(self, instance: AsyncMixin, owner: Any) -> Callable[P, AsyncIterator[R]]: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> "iterator[P, R]": ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        """Bind the method to an instance."""
        return self._bind(instance, _iterate)


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    coroutine.close()
    raise RuntimeError("A synchronous client awaited something that suspends.")


def _iterate(items: AsyncGenerator[R, None]) -> Iterator[R]:
    try:
        while True:
            try:
                item = run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())
