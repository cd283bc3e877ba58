"""Configuration from the environment: one typed class per concern, every variable with the prefix POLYTOK_.

Every field can also be passed to the constructor. A missing or invalid value raises ConfigurationError, whose message
names the variable, so that `process.run` can stop the service with one line.
"""

import os
import pathlib
import secrets
import socket
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from polytok import errors


class ConfigurationError(errors.InvalidArgument):
    """Raised when the environment, or a constructor's argument, does not configure the service."""


class Settings(BaseSettings):
    """Base of all settings: frozen, rejects unknown arguments, and treats an empty variable as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="forbid", frozen=True, populate_by_name=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(type(self), error)) from None


def _explain(settings: type[Settings], error: ValidationError) -> str:
    sentences = []
    for detail in error.errors(include_url=False, include_context=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        what = "is not set" if detail["type"] == "missing" else f"is invalid: {_reason(detail['msg'])}"
        sentences.append(f"{_variable(settings, field)} {what}.")
    return " ".join(sentences)


def _variable(settings: type[Settings], field: str) -> str:
    info = settings.model_fields.get(field)
    if info is not None and isinstance(info.validation_alias, str):
        return info.validation_alias
    if info is None and field.isupper():
        return field
    return f"{settings.model_config.get('env_prefix', '')}{field}".upper().removesuffix("_")


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")


def _checked_url(value: str, schemes: tuple[str, ...]) -> str:
    # The value itself stays out of the message: it may contain a password.
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"must look like {schemes[0]}://host:port")
    return value


class DatabaseSettings(Settings):
    """The database."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_DATABASE_")

    url: str = Field(default=..., repr=False)
    """postgresql://user:password@host:port/name."""
    pool_size: int = Field(default=10, ge=1, le=1000)
    """Maximum number of connections per process."""

    @field_validator("url")
    @classmethod
    def _url_is_postgres(cls, value: str) -> str:
        return _checked_url(value, ("postgresql", "postgres"))


class MessagingSettings(Settings):
    """The NATS server."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_NATS_")

    url: str = Field(default="nats://127.0.0.1:4222", repr=False)
    """nats://host:port, with user and password or a token in it."""
    namespace: str = Field(default="polytok", pattern="^[a-z][a-z0-9_-]{0,62}$")
    """First part of every subject, so that several installations can share one NATS server."""

    @field_validator("url")
    @classmethod
    def _url_is_nats(cls, value: str) -> str:
        return _checked_url(value, ("nats", "tls", "ws", "wss"))


class ServerSettings(Settings):
    """The address and TLS of a gRPC server."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_GRPC_")

    host: str = "127.0.0.1"
    """Address to bind."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to bind; 0 takes a free one."""
    tls_certificate: str = ""
    """PEM file with the certificate chain; empty serves plaintext."""
    tls_key: str = ""
    """PEM file with the key of the certificate."""
    tls_client_ca: str = ""
    """PEM file with the authorities for client certificates, which are then required; empty requires none."""
    drain_seconds: float = Field(default=10, ge=0, le=3600)
    """How long running calls may take to finish during shutdown."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "ServerSettings":
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY must be set together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("TLS_CLIENT_CA needs TLS_CERTIFICATE and TLS_KEY")
        return self


class TransportSettings(Settings):
    """TLS of clients of other services. Settings that name peers extend this."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_")

    tls_ca: str = ""
    """PEM file with the authority that signed the servers' certificates; empty connects in plaintext."""
    tls_certificate: str = ""
    """PEM file with this client's certificate, for servers that require one."""
    tls_key: str = ""
    """PEM file with the key of the certificate."""


ADDRESS = r"^.+:\d{1,5}$"
"""Format of an address."""


class PeerSettings(TransportSettings):
    """Address of the catalog."""

    catalog_address: str = Field(default=..., pattern=ADDRESS)
    """host:port of the catalog."""


class StorageSettings(Settings):
    """Storage of files."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_STORAGE_")

    root: str = Field(default=..., min_length=1)
    """A folder, or any URI that fsspec opens."""
    cache: str = ""
    """Folder for a worker's copies of remote files; empty means the user's cache folder."""
    cache_bytes: int = Field(default=20 * 1024**3, ge=0)
    """Approximate size limit of the cache; 0 keeps no copies."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if "://" not in value and not pathlib.PurePath(value).is_absolute():
            raise ValueError(
                f"{value!r} is a relative path, which means another folder in every process; use an absolute path such "
                f"as {str(pathlib.Path(value).absolute())!r}, or a URI"
            )
        return value


class TelemetrySettings(Settings):
    """Logs, traces and metrics of a service."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""
    log_format: Literal["json", "console"] = "json"
    """One JSON document per line, or coloured text for terminals."""
    metrics_host: str = "127.0.0.1"
    """Address of /metrics, /livez and /readyz."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of /metrics, /livez and /readyz; 0 takes a free one."""
    otlp_endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """Endpoint for traces, OTLP over gRPC; empty records none."""


class JobSettings(Settings):
    """Leases and dispatching of jobs."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_JOBS_")

    lease_ttl_seconds: float = Field(default=30, gt=0, le=3600)
    """How long a lease lasts without an extension."""
    dispatch_ack_seconds: float = Field(default=10, ge=0.5, le=3600)
    """How long the queue waits for a worker's heartbeat before it redelivers a message."""
    reconcile_seconds: float = Field(default=5, gt=0, le=3600)
    """How often the reconciler looks for lost tasks."""
    redispatch_seconds: float = Field(default=30, gt=0, le=3600)
    """How long a task may wait before workers get it from its owner instead of NATS."""
    backoff_seconds: float = Field(default=1, ge=0, le=3600)
    """Delay before the second attempt; doubles with every further one, up to a minute."""
    max_attempts: int = Field(default=4, ge=1, le=100)
    """Attempts without progress before a task, and so its job, fails."""


def _worker_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class WorkerSettings(Settings):
    """Configuration of a worker."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_WORKER_")

    name: str = Field(default_factory=_worker_name, min_length=1, max_length=200)
    """Name of the worker, unique among live workers."""
    memory_bytes: int = Field(default=0, ge=0)
    """Memory limit of the task process (RLIMIT_DATA); 0 means none."""
    idle_seconds: float = Field(default=600, gt=0)
    """How long an idle task process with a loaded model is kept before its memory is freed."""
    pause_seconds: float = Field(default=20, ge=0, le=3600)
    """How long a pausable task may take to stop by itself when the worker shuts down."""
