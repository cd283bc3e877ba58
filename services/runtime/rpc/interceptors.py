"""The one interceptor of every server: trace, deadline, validation, errors, metrics and log of each call.

It is one layer and not six because each layer of grpc.aio slows down every call. What a method needs is prepared at its
first call. Calls are logged at debug, and above that only if they were slow or failed.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, NoReturn

import grpc
import grpc.aio
from opentelemetry import trace

from polytok import channels, errors
from polytok.errors import codec
from services.runtime.rpc import status as statuses
from services.runtime.rpc import validation
from services.runtime.telemetry import logging, metrics, tracing

_log = logging.get(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
# Its stubs only know the handlers of the synchronous server.
Handler = Any
Writer = Callable[[Any, Context], Awaitable[None]]

_SLOW_SECONDS = 1.0
_NEVER_SECONDS = 365 * 86400.0

# Our failures; all others are the caller's.
_FAULTS = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# A caller that disconnects, as watchers do, is not worth logging.
_QUIET = frozenset({grpc.StatusCode.OK, grpc.StatusCode.CANCELLED})
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_TRACE_HEADERS = frozenset({"traceparent", "tracestate"})


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of unary methods and of methods that stream in one direction."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the wrapped handler of the method."""
        method = str(handler_call_details.method)
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            # Unknown methods have no handler; only reflection streams in both directions.
            if handler is None or (handler.request_streaming and handler.response_streaming):
                return handler
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def end_streams(self) -> None:
        """End every streaming call with UNAVAILABLE, so that clients move to another replica immediately."""
        self._stopping = True
        for task in self._streams:
            self._ended.add(task)
            task.cancel()

    def _wrap(self, name: str, handler: Handler) -> Handler:
        method = _Method(name)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                _receiving(method, handler.stream_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, _as_writer(handler.unary_stream)),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _streaming(self, method: "_Method", behavior: Writer) -> Writer:
        async def answer(request: Any, context: Context) -> None:
            with _Call(method, context) as call:
                try:
                    validation.check(request)
                    await self._until_stopped(behavior(request, context))
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    await call.fail(error)

        return answer

    async def _until_stopped(self, stream: Awaitable[None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if self._stopping:
                self._ended.add(task)
                task.cancel()
            await stream
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise errors.Unavailable("The service is shutting down. Call again to reach another replica.") from None
        finally:
            self._streams.discard(task)
            self._ended.discard(task)


def _as_writer(behavior: Callable[..., Any]) -> Writer:
    """Convert both forms of a streaming handler (asynchronous generator, coroutine that writes) to one."""
    if not inspect.isasyncgenfunction(behavior):
        return behavior
    generator: Callable[..., AsyncGenerator[Any]] = behavior

    async def write(request: Any, context: Context) -> None:
        async with contextlib.aclosing(generator(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write


def _unary(method: "_Method", behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def answer(request: Any, context: Context) -> Any:
        with _Call(method, context) as call:
            try:
                validation.check(request)
                remaining = context.time_remaining()
                if remaining is not None and remaining < _NEVER_SECONDS:
                    # gRPC itself cancels this call once its deadline has passed.
                    return await behavior(request, context)
                return await _within(method.deadline_seconds, behavior(request, context))
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await call.fail(error)

    return answer


def _receiving(method: "_Method", behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a client-streaming method: it takes as long as the caller sends, or until its deadline."""

    async def answer(requests: AsyncIterator[Any], context: Context) -> Any:
        with _Call(method, context) as call:
            try:
                return await behavior(_checked(requests), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await call.fail(error)

    return answer


async def _checked(requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    async for request in requests:
        validation.check(request)
        yield request


async def _within(seconds: float, answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await answer
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise errors.DeadlineExceeded(f"The call took longer than the limit of {seconds:g} s.") from error


class _Method:
    """What is prepared once for all calls of a method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.deadline_seconds = channels.deadline_seconds(name)
        self.running = metrics.rpc_running.labels(name)
        self._seconds: dict[grpc.StatusCode, Callable[[float], None]] = {}

    def took(self, seconds: float, code: grpc.StatusCode) -> None:
        """Count a call."""
        observe = self._seconds.get(code)
        if observe is None:
            observe = self._seconds[code] = metrics.rpc_seconds.labels(self.name, code.name).observe
        observe(seconds)


class _Call:
    """One call, from its trace at entry to its metrics and log line at exit."""

    __slots__ = ("_code", "_context", "_message", "_method", "_span", "_started", "_trace")

    def __init__(self, method: _Method, context: Context) -> None:
        self._method = method
        self._context = context
        self._code: grpc.StatusCode | None = None
        self._message = ""

    def __enter__(self) -> "_Call":
        self._started = time.perf_counter()
        self._method.running.inc()
        metadata = self._context.invocation_metadata() or ()
        headers = {key: str(value) for key, value in metadata if key in _TRACE_HEADERS}
        self._trace = tracing.span(self._method.name, tracing.extract(headers), kind=trace.SpanKind.SERVER)
        self._span = self._trace.__enter__()
        return self

    async def fail(self, error: Exception) -> NoReturn:
        """End the call with the status of the error."""
        status = statuses.to_status(error)
        self._code = _CODES[status.code]
        self._message = status.message
        details = ((channels.STATUS_DETAILS, status.SerializeToString()),)
        text = codec.short(status.message, codec.MAX_DETAILS_BYTES)
        await self._context.abort(self._code, text, trailing_metadata=details)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        code = self._code or self._final_code(error)
        self._method.running.dec()
        self._method.took(seconds, code)
        self._log(code, seconds)
        if code in _FAULTS:
            tracing.fail(self._span, code.name)
        self._trace.__exit__(None, None, None)

    def _final_code(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None:
            return grpc.StatusCode.OK
        if isinstance(error, grpc.aio.AbortError):
            # A handler called context.abort itself. The stubs say StatusCode; grpc.aio also returns the number.
            code: Any = self._context.code()
            return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)
        # The caller disconnected, or its deadline passed.
        return grpc.StatusCode.CANCELLED

    def _log(self, code: grpc.StatusCode, seconds: float) -> None:
        if code in _FAULTS:
            write = _log.warning
        elif seconds > _SLOW_SECONDS or code not in _QUIET:
            write = _log.info
        else:
            write = _log.debug
        write("call", method=self._method.name, code=code.name, seconds=round(seconds, 4), message=self._message)
