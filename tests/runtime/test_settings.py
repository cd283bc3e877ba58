"""Settings come from the environment, and a bad one names its variable."""

import pathlib

import pytest

from services.runtime import settings
from tests.support import messages


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLYTOK_DATABASE_URL", "POLYTOK_CATALOG_ADDRESS", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTOK_DATABASE_URL", "postgresql://u:p@host:5432/db")
    monkeypatch.setenv("POLYTOK_DATABASE_POOL_SIZE", "3")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    found = settings.DatabaseSettings()
    assert (found.url, found.pool_size) == ("postgresql://u:p@host:5432/db", 3)
    assert settings.TelemetrySettings().otlp_endpoint == "http://collector:4317"


def test_by_the_constructor() -> None:
    assert settings.PeerSettings(catalog_address="host:1").catalog_address == "host:1"
    assert settings.TelemetrySettings(otlp_endpoint="http://x:1").otlp_endpoint == "http://x:1"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTOK_NATS_NAMESPACE", "")
    assert settings.MessagingSettings().namespace == "polytok"


def test_missing() -> None:
    with pytest.raises(settings.ConfigurationError, match=r"^POLYTOK_DATABASE_URL .*not set"):
        settings.DatabaseSettings()


@pytest.mark.parametrize(
    ("variable", "value", "kind"),
    [
        ("POLYTOK_DATABASE_URL", "mysql://u:hunter2@host/db", settings.DatabaseSettings),
        ("POLYTOK_DATABASE_URL", "postgresql://u:hunter2@host:port/db", settings.DatabaseSettings),
        ("POLYTOK_NATS_URL", "hunter2", settings.MessagingSettings),
        ("POLYTOK_NATS_NAMESPACE", "a.b", settings.MessagingSettings),
        ("POLYTOK_GRPC_PORT", "70000", settings.ServerSettings),
        ("POLYTOK_GRPC_DRAIN_SECONDS", "soon", settings.ServerSettings),
        ("POLYTOK_CATALOG_ADDRESS", "host", settings.PeerSettings),
        ("POLYTOK_LOG_LEVEL", "loud", settings.TelemetrySettings),
        ("POLYTOK_JOBS_MAX_ATTEMPTS", "0", settings.JobSettings),
        ("POLYTOK_WORKER_MEMORY_BYTES", "-1", settings.WorkerSettings),
    ],
)
def test_a_bad_value_names_its_variable_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, kind: type[settings.Settings]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(settings.ConfigurationError) as caught:
        kind()
    assert caught.value.message.startswith(f"{variable} ")
    assert "\n" not in caught.value.message
    assert "hunter2" not in caught.value.message


def test_half_of_tls_is_refused() -> None:
    with pytest.raises(settings.ConfigurationError, match=r"POLYTOK_GRPC.*TLS_CERTIFICATE.*TLS_KEY"):
        settings.ServerSettings(tls_certificate="/cert.pem")


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(settings.ConfigurationError):
        settings.JobSettings(lease_ttl=3)  # type: ignore[call-arg]


def test_the_password_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(settings.DatabaseSettings(url="postgresql://u:hunter2@host/db"))


def test_worker_names_differ() -> None:
    assert settings.WorkerSettings().name != settings.WorkerSettings().name


@pytest.mark.parametrize("root", ["data", "./data", "../data", "~/data"])
def test_a_relative_storage_root(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, root: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYTOK_STORAGE_ROOT", root)
    with pytest.raises(settings.ConfigurationError) as caught:
        settings.StorageSettings()
    messages.check_names(caught.value.message, "POLYTOK_STORAGE_ROOT", repr(root), tmp_path)


@pytest.mark.parametrize("root", ["/data", "s3://bucket/data", "memory://data"])
def test_an_absolute_storage_root(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv("POLYTOK_STORAGE_ROOT", root)
    assert settings.StorageSettings().root == root
