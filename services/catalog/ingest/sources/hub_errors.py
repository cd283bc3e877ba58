"""Errors of the hub, worded for the owner of a dataset."""

import contextlib
import re
from collections.abc import Generator, Iterator

import pyarrow as pa
from huggingface_hub import errors as hub_errors

from polytok import errors
from polytok.catalog.v1 import datasets_pb2
from services.catalog.ingest import source_errors

_LOCAL = "Or download the files yourself, and use their folder as the source."


@contextlib.contextmanager
def explained(source: datasets_pb2.HubSource) -> Generator[None]:
    """Convert errors of the hub's libraries to ours."""
    try:
        yield
    except (errors.PolytokError, MemoryError, GeneratorExit):
        raise
    except Exception as error:
        raise _translated(source, error) from error


def no_folder(source: datasets_pb2.HubSource) -> errors.PolytokError:
    """Return the error for a local repository that does not exist."""
    return source_errors.not_found(source.repo_id)


def _translated(source: datasets_pb2.HubSource, error: Exception) -> errors.PolytokError:
    name = source.repo_id
    for cause in _chain(error):
        if isinstance(cause, errors.PolytokError):
            return cause
        if isinstance(cause, hub_errors.OfflineModeIsEnabled) or "OfflineModeIsEnabled" in str(cause):
            return _unavailable(
                f"Access to the hub for {name!r} is disabled: HF_HUB_OFFLINE is set for the worker. Unset it. {_LOCAL}",
                retryable=False,
            )
        if isinstance(cause, hub_errors.HfHubHTTPError):
            return _answered(source, cause)
    if any(_is_network(cause) for cause in _chain(error)):
        return _unavailable(
            f"The hub does not answer ({_said(error)}); {name!r} could not be read. Check the worker's network and"
            f" HF_ENDPOINT. {_LOCAL}",
            retryable=True,
        )
    return _refused(source, error)


def _answered(source: datasets_pb2.HubSource, error: hub_errors.HfHubHTTPError) -> errors.PolytokError:
    name = source.repo_id
    status = error.response.status_code
    revision = f" at revision {source.revision!r}" if source.revision else ""
    if isinstance(error, hub_errors.GatedRepoError) or status == 403:
        return errors.PermissionDenied(
            f"The hub refused {name!r}: {status}. Request access on its page, and set HF_TOKEN of the worker to a token"
            " that may read it.",
            reason="HUB_UNAVAILABLE",
        )
    if status == 401:
        return errors.PermissionDenied(
            f"The hub refused {name!r}: 401. It does not exist or is private. Check the name, or set HF_TOKEN of the"
            " worker to a token that may read it.",
            reason="HUB_UNAVAILABLE",
        )
    if status == 404:
        return errors.NotFound(
            f"The hub has no dataset {name!r}{revision}. Check the name. A private one needs HF_TOKEN of the worker to"
            " be set.",
            reason="SOURCE_NOT_FOUND",
        )
    return _unavailable(
        f"The hub answered {status} for {name!r}. Try again later.", retryable=status == 429 or status >= 500
    )


def _refused(source: datasets_pb2.HubSource, error: Exception) -> errors.PolytokError:
    """Return the error that `datasets` reports about a repository's content, or about the request."""
    said = _said(error)
    name = source.repo_id
    if available := re.search(r"Bad split: .*Available splits: (.*)", said):
        return source_errors.invalid(f"{name} has no split {source.split!r}. Choose one of {_plain(available[1])}.")
    if available := re.search(r"BuilderConfig .* not found\. Available: (.*)", said):
        return source_errors.invalid(
            f"{name} has no configuration {source.config!r}. Choose one of {_plain(available[1])}."
        )
    if "Config name is missing" in said:
        return source_errors.invalid(f"{name} has several configurations. Choose one. ({said})")
    if isinstance(error, OSError) and error.errno is not None:
        return source_errors.from_io_error(name, error)
    if isinstance(error, pa.ArrowException | ValueError | OSError | TypeError):
        return source_errors.invalid(f"`datasets` cannot read {name} ({said}). Fix the repository, or name its files.")
    return errors.Internal(f"{name} could not be read ({type(error).__name__}: {said}).")


def _unavailable(message: str, *, retryable: bool) -> errors.PolytokError:
    return errors.Unavailable(message, reason="HUB_UNAVAILABLE", retryable=retryable)


def _is_network(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    # The hub's client is httpx under changing names, whose errors share no base class with Python's own.
    return isinstance(error, ConnectionError | TimeoutError) or "TransportError" in names


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _plain(listed: str) -> str:
    return listed.strip("[]").replace("'", "")
