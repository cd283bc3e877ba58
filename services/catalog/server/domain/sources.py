"""Sources of datasets and models: what may be asked for, and how two of them differ."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from polytok import errors
from polytok.catalog.v1 import datasets_pb2

# As polytok/catalog/v1/*.proto has them; an update, which may lack all else, is checked here alone.
_Files = datasets_pb2.FileSource
_Format: TypeAlias = datasets_pb2.FileSource.Format.ValueType
_DELIMITERS = {"\t", *map(chr, range(ord(" "), ord("~") + 1))} - {'"'}
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 64, 63, 1024


def check_dataset(source: datasets_pb2.DatasetSource) -> None:
    """Refuse a source that no worker could open, whatever lies there."""
    if source.WhichOneof("source") == "upload":
        raise _invalid("dataset.source.upload", "is filled in by UploadDataset; send the rows with that.")
    check_texts({f"dataset.source.columns[{place}]": column for place, column in enumerate(source.columns)})
    if source.WhichOneof("source") == "files":
        for place, uri in enumerate(source.files.uris):
            _check_absolute(f"dataset.source.files.uris[{place}]", uri)
        _check_files(source.files)
        return
    hub = source.hub
    check_repository("dataset.source.hub.repo_id", hub.repo_id)
    check_texts({f"dataset.source.hub.{field}": getattr(hub, field) for field in ("config", "split", "revision")})


def paths_of_dataset(source: datasets_pb2.DatasetSource) -> list[tuple[str, str]]:
    """Return the fields of a source that may be paths, and their values."""
    if source.HasField("hub"):
        return [("dataset.source.hub.repo_id", source.hub.repo_id)]
    return [(f"dataset.source.files.uris[{place}]", uri) for place, uri in enumerate(source.files.uris)]


def check_format_options(field: str, files: datasets_pb2.FileSource, file_format: _Format) -> None:
    """Refuse options that say how another format than this is read."""
    for option, (value, belongs, word) in _options(files).items():
        if value and file_format != belongs:
            raise _invalid(
                f"{field}.{option}", f"belongs to {word} files, and these are of another format. Leave it out."
            )


def _options(files: datasets_pb2.FileSource) -> dict[str, tuple[object, _Format, str]]:
    return {
        "delimiter": (files.delimiter, _Files.FORMAT_CSV, "CSV"),
        "json_field": (files.json_field, _Files.FORMAT_JSON, "JSON"),
        "text_rows": (files.text_rows, _Files.FORMAT_TEXT, "text"),
        "text_separator": (files.text_separator, _Files.FORMAT_TEXT, "text"),
    }


def _check_files(files: datasets_pb2.FileSource) -> None:
    if files.delimiter and files.delimiter not in _DELIMITERS:
        raise _invalid(
            "dataset.source.files.delimiter",
            f"{files.delimiter!r} cannot separate cells; give a tab or a printable character of ASCII other than the"
            " double quote.",
        )
    if files.text_separator and files.text_rows != _Files.TEXT_ROWS_SEPARATED:
        raise _invalid(
            "dataset.source.files.text_separator", "belongs to rows that are separated; ask for these as text_rows."
        )
    check_texts({f"dataset.source.files.{field}": getattr(files, field) for field in ("json_field", "text_separator")})
    if files.format:
        check_format_options("dataset.source.files", files, files.format)


def check_repository(field: str, repo_id: str) -> None:
    """Refuse a path that means something else on every machine; `owner/name` is a repository of the hub."""
    check_texts({field: repo_id})
    if repo_id.startswith((".", "~")) or repo_id.endswith("/..") or "/../" in repo_id:
        raise _invalid(field, f"{repo_id!r} is a relative path; give an absolute one, or owner/name on the hub.")


def check_metadata(field: str, metadata: Mapping[str, str]) -> None:
    """Refuse metadata beyond the limits that the contracts set, and text that cannot be stored."""
    if len(metadata) > _MAX_PAIRS:
        raise _invalid(field, f"has {len(metadata)} pairs; at most {_MAX_PAIRS} are kept.")
    for key, value in metadata.items():
        if not 1 <= len(key) <= _MAX_KEY:
            raise _invalid(field, f"{key[:80]!r} is no key; keys have 1 to {_MAX_KEY} characters.")
        if len(value) > _MAX_VALUE:
            raise _invalid(f"{field}[{key!r}]", f"has {len(value)} characters; at most {_MAX_VALUE} are kept.")
    check_texts({f"{field}[{key!r}]": key + value for key, value in metadata.items()})


def check_texts(texts: Mapping[str, str]) -> None:
    """Refuse NUL, which no database and no file system takes."""
    for field, text in texts.items():
        if "\0" in text:
            raise _invalid(field, "holds a NUL character; take it out.")


def _check_absolute(field: str, uri: str) -> None:
    check_texts({field: uri})
    if not uri.startswith("/") and "://" not in uri and "::" not in uri:
        raise _invalid(
            field,
            f"{uri!r} is a relative path, and the workers run elsewhere; give an absolute path or a URI.",
        )


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"{field}: {description}", violations=[errors.FieldViolation(field, description)])


def as_fields(source: Mapping[str, Any]) -> dict[str, object]:
    """Return a dataset's source as a flat dict, for comparison."""
    ((kind, fields),) = ((kind, fields) for kind, fields in source.items() if kind != "columns")
    if kind == "upload":
        # The same rows may have come in other files.
        fields = {field: fields.get(field) for field in ("sha256", "num_rows")}
    return {"source": kind, **fields, **({"columns": source["columns"]} if "columns" in source else {})}


def differences(existing: Mapping[str, object], asked: Mapping[str, object]) -> list[str]:
    """Return what differs, a phrase a field: `split 'test', not 'train'`."""
    return [
        f"{field} {_shown(existing.get(field))}, not {_shown(asked.get(field))}"
        for field in (*existing, *(key for key in asked if key not in existing))
        if existing.get(field) != asked.get(field)
    ]


def _shown(value: object) -> str:
    if value is None or value == "":
        return "unset"
    if isinstance(value, list | tuple):
        return _listed(value)
    return repr(value) if isinstance(value, str) else str(value)


def _listed(values: Iterable[object]) -> str:
    shown = [repr(value) for value in values]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def exists(resource: str, differing: list[str]) -> errors.AlreadyExists:
    """Tell that a resource exists and is not the one asked for."""
    what = "; ".join(differing)
    return errors.AlreadyExists(
        f"{resource} exists with {what}. Choose another name, or delete it first.",
        metadata={"resource": resource, "differs": what[:1000]},
    )
