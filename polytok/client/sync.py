"""Methods written once, as coroutines, and offered by a synchronous and an asynchronous client.

A coroutine suspends only where something that it awaits does. The synchronous exchange (`exchange.Blocking`) blocks
instead, so that a coroutine over it runs to its end at the first step and needs no event loop.
"""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")


class SyncMixin:
    """Base of classes whose methods return results."""


class AsyncMixin:
    """Base of classes whose methods return awaitables and asynchronous iterators."""


class method(Generic[P, R]):  # noqa: N801  used as a decorator
    """A coroutine method that a `Blocking` class offers as a plain method."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    @overload
    def __get__(self, instance: SyncMixin, owner: Any) -> Callable[P, R]: ...
    @overload
    def __get__(self, instance: AsyncMixin, owner: Any) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> "method[P, R]": ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        """Bind the method to an instance, in the instance's way."""
        if instance is None:
            return self
        method = self._method
        if isinstance(instance, AsyncMixin):
            return method.__get__(instance)

        @functools.wraps(method)
        def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            return run(method(instance, *args, **kwargs))

        return blocking


class iterator(Generic[P, R]):  # noqa: N801  used as a decorator
    """An asynchronous generator method that a `Blocking` class offers as a generator."""

    def __init__(self, method: Callable[Concatenate[Any, P], AsyncGenerator[R, None]]) -> None:
        self._method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    @overload
    def __get__(self, instance: SyncMixin, owner: Any) -> Callable[P, Iterator[R]]: ...
    @overload
    def __get__(self, instance: AsyncMixin, owner: Any) -> Callable[P, AsyncIterator[R]]: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> "iterator[P, R]": ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        """Bind the method to an instance, in the instance's way."""
        if instance is None:
            return self
        method = self._method
        if isinstance(instance, AsyncMixin):
            return method.__get__(instance)

        @functools.wraps(method)
        def blocking(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
            return _iterate(method(instance, *args, **kwargs))

        return blocking


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    coroutine.close()
    raise RuntimeError("A blocking client awaited something that suspends.")


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
