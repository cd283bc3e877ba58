"""OpenTelemetry traces through gRPC metadata and NATS headers (W3C Trace Context).

Without an OTLP endpoint nothing is recorded, but every span still has ids, so that the logs of one call, its job and
its workers share a trace id.
"""

import contextlib
import random
from collections.abc import Generator, Mapping
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import propagation
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.runtime.settings import TelemetrySettings

Context = contexts.Context

_propagator = TraceContextTextMapPropagator()
# Ids must be distinct, not unguessable; the operating system provides only the seed.
_ids = random.Random()  # noqa: S311


class _Recording:
    tracer: trace.Tracer | None = None


def configure(settings: TelemetrySettings, service: str) -> None:
    """Send this process's spans to the OTLP endpoint, if one is set."""
    if not settings.otlp_endpoint:
        return
    # Importing the SDK and its gRPC exporter takes a quarter of a second; most processes do without.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": f"polytok-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
    record(provider)


def record(provider: trace.TracerProvider) -> None:
    """Create spans with this provider from now on."""
    _Recording.tracer = provider.get_tracer("polytok")


def inject() -> dict[str, str]:
    """Return headers that carry the current trace to another process."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


def extract(headers: Mapping[str, str] | None) -> Context:
    """Return the trace in the headers, or a new one."""
    if not headers or "traceparent" not in headers:
        return Context()
    return _propagator.extract(headers, context=Context())


@contextlib.contextmanager
def span(
    name: str,
    context: Context | None = None,
    *,
    kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    **attributes: str | bool | int | float,
) -> Generator[trace.Span]:
    """Run the block in a span, a child of the given context or of the current span."""
    tracer = _Recording.tracer
    if tracer is None:
        current = _unrecorded(context)
        token = contexts.attach(trace.set_span_in_context(current, context))
        try:
            yield current
        finally:
            contexts.detach(token)
        return
    with tracer.start_as_current_span(name, context=context, kind=kind, attributes=attributes) as current:
        yield current


def _unrecorded(context: Context | None) -> trace.Span:
    parent = propagation.get_current_span(context)
    if parent.get_span_context().is_valid:
        return parent
    return trace.NonRecordingSpan(
        trace.SpanContext(_ids.getrandbits(128) or 1, _ids.getrandbits(64) or 1, is_remote=False)
    )


def fail(current: trace.Span, code: str, **attributes: Any) -> None:
    """Mark a span as failed."""
    if current.is_recording():
        current.set_status(trace.StatusCode.ERROR, code)
        for key, value in attributes.items():
            current.set_attribute(key, value)
