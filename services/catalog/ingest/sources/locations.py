"""Resolve paths, URIs, folders and glob patterns to files."""

import pathlib
from typing import Any, NamedTuple

import fsspec

from polytok import errors
from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources import formats, saved_datasets
from services.runtime.source_allowlist import SourceAllowlist

_SCHEMES = frozenset({"file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https"})
_MAGIC = frozenset("*?[")


class Found(NamedTuple):
    """A file."""

    uri: str
    size_bytes: int


def find(uri: str, wanted: formats.Format, most: int = limits.PARTS) -> list[Found]:
    """Return the files that a path or URI names, ordered by name.

    A folder means all files below it with an extension of the requested format, or of any format. Files and folders
    whose names begin with `.` or `_` are skipped.
    """
    _check(uri)
    roots = SourceAllowlist()
    roots.check(uri)
    try:
        # Others add and replace files during the life of this process.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        files = _listed(filesystem, path, uri, wanted)
    except Exception as error:
        raise source_errors.from_io_error(uri, error) from error
    if len(files) > most:
        raise source_errors.invalid(
            f"{source_errors.redact_uri(uri)} matches {len(files):,} files; the limit is {most:,}. "
            "Merge them into larger files."
        )
    found = [Found(_uri(filesystem, name), size) for name, size in sorted(files.items())]
    for file in found:  # a link may lead elsewhere
        roots.check(file.uri)
    return found


def _check(uri: str) -> None:
    scheme = uri.split("://", 1)[0] if "://" in uri else ""
    if "\0" in uri:
        problem = "contains a NUL character. Remove it."
    elif "::" in uri:
        problem = "chains file systems with '::', which is not supported. Extract the archive and name its files."
    elif scheme == "hf":
        problem = "is on the hub. Use a hub source for the repository instead."
    elif scheme and scheme not in _SCHEMES:
        problem = f"has the scheme {scheme!r}, which is not supported. Use a path, or s3, gs, az, abfs, http or https."
    elif not scheme and not pathlib.PurePath(uri).is_absolute():
        problem = "is a relative path, but the workers run elsewhere. Use an absolute path or a URI."
    else:
        return
    shown = source_errors.redact_uri(uri).replace("\0", "\\0")
    violation = errors.FieldViolation("source.files.uris", problem)
    raise errors.InvalidArgument(f"{shown} {problem}", violations=[violation])


def _listed(filesystem: Any, path: str, uri: str, wanted: formats.Format) -> dict[str, int]:
    try:
        info = filesystem.info(path)
    except FileNotFoundError:
        if _MAGIC.isdisjoint(path):
            raise
        return _matching(filesystem, path, uri)
    if info["type"] == "directory":
        return _below(filesystem, path, uri, wanted)
    if info["type"] != "file":
        raise source_errors.invalid(
            f"{source_errors.redact_uri(uri)} is neither a file nor a folder. Name a regular file."
        )
    return {path: _size(info)}


def _matching(filesystem: Any, pattern: str, uri: str) -> dict[str, int]:
    files = _regular(filesystem, filesystem.glob(pattern, detail=True))
    if not files:
        raise errors.NotFound(
            f"{source_errors.redact_uri(uri)} matches no file on the worker's machine. Check the pattern.",
            reason="SOURCE_NOT_FOUND",
        )
    return files


def _below(filesystem: Any, folder: str, uri: str, wanted: formats.Format) -> dict[str, int]:
    found = _regular(filesystem, filesystem.find(folder, detail=True))
    if saved := saved_datasets.find(filesystem, folder, found, source_errors.redact_uri(uri)):
        return saved
    files = {name: size for name, size in found.items() if _is_data(name[len(folder) :], wanted)}
    if not files:
        endings = (
            f"the extension of {formats.display_name(wanted)}" if wanted else f"one of the extensions {formats.known()}"
        )
        raise errors.NotFound(
            f"The folder {source_errors.redact_uri(uri)} contains no file with {endings}."
            f" Name the files, for example as {source_errors.redact_uri(uri).rstrip('/')}/*.",
            reason="SOURCE_NOT_FOUND",
        )
    return files


def _regular(filesystem: Any, found: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return the files among the entries, following links: the hub's cache consists of links."""
    files = {}
    for name, listed in found.items():
        info = filesystem.info(name) if listed.get("islink") else listed
        if info["type"] == "file":
            files[name] = _size(info)
    return files


def _size(info: dict[str, Any]) -> int:
    return int(info.get("size") or 0)


def _is_data(relative: str, wanted: formats.Format) -> bool:
    if any(part.startswith((".", "_")) for part in relative.strip("/").split("/")):
        return False
    by_name = formats.of_name(relative).format
    return formats.kind(by_name) == formats.kind(wanted) if wanted else bool(by_name)


def _uri(filesystem: Any, path: str) -> str:
    return path if "file" in _protocols(filesystem) else str(filesystem.unstrip_protocol(path))


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
