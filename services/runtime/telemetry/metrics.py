"""Prometheus metrics of a process; every name begins with `polytok_`.

Modules define their own metrics beside their code, through `counter`, `gauge` and `histogram`.
"""

import platform
from collections.abc import Sequence

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

REGISTRY = prometheus_client.REGISTRY

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """Return a counter, which only increases."""
    return Counter(f"polytok_{name}", documentation, labels, registry=REGISTRY)


def gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
    """Return a gauge, which goes up and down."""
    return Gauge(f"polytok_{name}", documentation, labels, registry=REGISTRY)


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
) -> Histogram:
    """Return a histogram; values are in seconds unless `buckets` says otherwise."""
    return Histogram(f"polytok_{name}", documentation, labels, buckets=buckets, registry=REGISTRY)


rpc_seconds = histogram("rpc_server_seconds", "Time to answer a gRPC call", ("method", "code"))
rpc_running = gauge("rpc_server_running", "gRPC calls being answered", ("method",))
process_info = gauge("process_info", "The service that runs in this process; always 1", ("service", "python"))


def configure(service: str) -> None:
    """Set the service's name on /metrics."""
    process_info.labels(service, platform.python_version()).set(1)


def render() -> bytes:
    """Return all metrics in the text format of Prometheus."""
    return prometheus_client.generate_latest(REGISTRY)


CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
