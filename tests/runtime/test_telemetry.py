"""Logs hold no secrets, traces cross processes, and the endpoint answers machines."""

import asyncio
import contextlib
import http.client
import json
import logging as standard
from collections.abc import AsyncIterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from polytok import errors
from services.runtime.settings import TelemetrySettings
from services.runtime.telemetry import endpoint, logging, metrics, tracing


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(TelemetrySettings(), "catalog")
    with tracing.span("test") as span:
        logging.get("x").info("made\nit", dataset="docs", size=3)
    logging.get("x").debug("too quiet")
    [line] = lines(capsys)
    assert line.pop("timestamp")
    assert line.pop("trace_id") == f"{span.get_span_context().trace_id:032x}"
    assert line == {"event": "made\nit", "level": "info", "service": "catalog", "dataset": "docs", "size": 3}


def test_secrets_are_blanked(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(TelemetrySettings(), "catalog")
    logging.get("x").warning(
        "connecting to nats://user:hunter2@host:4222",
        url="postgresql://polytok:hunter2@host/db",
        HF_TOKEN="hunter2",
        headers={"Authorization": "Bearer hunter2", "accept": "*/*"},
        password="hunter2",
        servers=["nats://hunter2@host"],
        num_tokens=5,
    )
    standard.getLogger("library").error("cannot reach postgresql://polytok:%s@host/db", "hunter2")
    text = capsys.readouterr().err
    assert "hunter2" not in text
    first, second = map(json.loads, text.splitlines())
    assert first["url"] == "postgresql://[redacted]@host/db"
    assert first["headers"]["accept"] == "*/*"
    assert first["num_tokens"] == 5
    assert second["event"] == "cannot reach postgresql://[redacted]@host/db"


def test_secrets_in_a_traceback_are_blanked(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(TelemetrySettings(), "catalog")
    try:
        raise ValueError("postgresql://polytok:hunter2@host/db")
    except ValueError:
        logging.get("x").exception("failed")
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert "hunter2" not in text


def test_unconfigured_logging_writes_warnings_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.get("x").info("detail")
    logging.get("x").warning("trouble")
    out, err = capsys.readouterr()
    assert out == ""
    assert "trouble" in err
    assert "detail" not in err


def test_libraries_speak_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(TelemetrySettings(log_level="debug"), "catalog")
    standard.getLogger("library").info("chatter")
    standard.getLogger("library").warning("trouble")
    logging.get("x").debug("detail")
    assert [line["event"] for line in lines(capsys)] == ["trouble", "detail"]


def test_the_console_format_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(TelemetrySettings(log_format="console"), "catalog")
    logging.get("x").info("made it", dataset="docs")
    text = capsys.readouterr().err
    assert "made it" in text
    assert "dataset=docs" in text


def test_the_trace_crosses_processes_without_a_collector() -> None:
    with tracing.span("parent") as parent:
        headers = tracing.inject()
    assert headers["traceparent"].split("-")[1] == f"{parent.get_span_context().trace_id:032x}"
    with tracing.span("child", tracing.extract(headers)) as child:
        assert child.get_span_context().trace_id == parent.get_span_context().trace_id
        assert tracing.inject()["traceparent"].split("-")[1] == headers["traceparent"].split("-")[1]


def test_span_without_parent_starts_trace() -> None:
    assert tracing.inject() == {}
    with tracing.span("a") as first:
        pass
    # What was extracted from nothing hides whatever span is current.
    with tracing.span("outer"), tracing.span("b", tracing.extract({})) as second:
        assert second.get_span_context().trace_id != first.get_span_context().trace_id
    assert tracing.inject() == {}


@pytest.mark.parametrize("header", ["", "00-zz-zz-01", "x" * 5000])
def test_a_broken_header_begins_a_new_trace(header: str) -> None:
    with tracing.span("a", tracing.extract({"traceparent": header})) as span:
        assert span.get_span_context().is_valid


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing._Recording, "tracer", None)
    tracing.record(provider)
    return exporter


def test_spans_are_recorded_with_their_parents(recorded: InMemorySpanExporter) -> None:
    with tracing.span("parent", task="t"):
        headers = tracing.inject()
    with tracing.span("child", tracing.extract(headers)) as child:
        tracing.fail(child, "INTERNAL", attempt=1)
    first, second = recorded.get_finished_spans()
    assert first.attributes == {"task": "t"}
    assert second.parent is not None
    assert second.parent.span_id == first.context.span_id
    assert not second.status.is_ok
    assert second.attributes == {"attempt": 1}


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    def ask() -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.headers["Content-Type"], text

    return await asyncio.to_thread(ask)


class Readiness:
    """What /readyz says."""

    missing = ""
    trouble = ""

    async def __call__(self) -> str:
        return self.missing


@pytest.fixture
async def machines() -> AsyncIterator[tuple[endpoint.Endpoint, Readiness]]:
    readiness = Readiness()
    served = endpoint.Endpoint(TelemetrySettings(), readiness, lambda: readiness.trouble)
    await served.start()
    yield served, readiness
    await served.close()


async def test_the_endpoint(machines: tuple[endpoint.Endpoint, Readiness]) -> None:
    served, readiness = machines
    metrics.configure("test")
    status, content_type, text = await get(served.port, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert 'polytok_process_info{python="3.' in text
    assert (await get(served.port, "/livez"))[0] == 200
    assert (await get(served.port, "/readyz?verbose"))[::2] == (200, "ready\n")
    readiness.missing = "database: It is away."
    assert (await get(served.port, "/readyz"))[::2] == (503, "not ready: database: It is away.\n")
    assert (await get(served.port, "/readyz?exclude=queue"))[0] == 503
    readiness.missing, readiness.trouble = "", "It is full."
    assert (await get(served.port, "/readyz"))[::2] == (503, "not ready: queue: It is full.\n")
    assert (await get(served.port, "/readyz?exclude=queue"))[::2] == (200, "ready\n")
    assert (await get(served.port, "/livez"))[0] == 200
    assert (await get(served.port, "/"))[0] == 404
    assert (await get(served.port, "/metrics", "POST"))[0] == 405
    assert (await get(served.port, "/livez", "HEAD"))[::2] == (200, "")


async def test_garbage_requests_are_ignored(machines: tuple[endpoint.Endpoint, Readiness]) -> None:
    served, _ = machines
    for garbage in (b"\0\xff\r\n\r\n", b"x" * 100_000, b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(garbage)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
    assert (await get(served.port, "/livez"))[0] == 200


async def test_a_port_in_use_names_its_variable(machines: tuple[endpoint.Endpoint, Readiness]) -> None:
    served, readiness = machines
    with pytest.raises(errors.InvalidArgument, match="POLYTOK_METRICS_PORT"):
        await endpoint.Endpoint(TelemetrySettings(metrics_port=served.port), readiness).start()
