"""Sources of datasets and models from user input: paths become absolute, URIs and repositories stay as they are."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from polytok import errors
from polytok.catalog.v1 import datasets_pb2 as pb
from polytok.client import message_builder

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """How to read files of some formats; None if not given."""

    delimiter: str | None = None
    json_field: str | None = None
    text_rows: str | None = None
    text_separator: str | None = None


def dataset(
    files: Path | Sequence[Path] | None,
    file_format: str | None,
    hub: str | None,
    split: str | None,
    config: str | None,
    revision: str | None,
    options: FileOptions | None = None,
    columns: str | Sequence[str] | None = None,
) -> pb.DatasetSource:
    """Return the source that the arguments describe."""
    options = options or FileOptions()
    if (files is None) == (hub is None):
        raise errors.InvalidArgument("Give either files or a hub repository.")
    if hub is not None:
        if file_format is not None:
            raise errors.InvalidArgument("format applies to files, not to a hub repository.")
        if options != FileOptions():
            raise errors.InvalidArgument(
                "delimiter, json_field, text_rows and text_separator apply to files, not to a hub repository."
            )
        if not split:
            raise errors.InvalidArgument("A hub repository needs a split, such as 'train'.")
        source = message_builder.build(
            pb.HubSource, repo_id=repository(hub), config=config or "", split=split, revision=revision or ""
        )
        return message_builder.build(pb.DatasetSource, hub=source, columns=_columns(columns))
    if split or config or revision:
        raise errors.InvalidArgument("split, config and revision apply to a hub repository, not to files.")
    several: Any = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(several, Collection) or not all(isinstance(file, str | os.PathLike) for file in several):
        raise errors.InvalidArgument(f"files must be a path or a list of paths, not {several!r}.")
    uris = [absolute(os.fspath(file)) for file in several]
    return message_builder.build(pb.DatasetSource, files=_files(uris, file_format, options), columns=_columns(columns))


def _columns(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names or ()))


def absolute(path: str) -> str:
    """Return the absolute path, which a worker with any working directory finds; URIs stay as they are."""
    if "://" in path or "::" in path:
        return path
    return os.path.abspath(pathlib.Path(path).expanduser())  # noqa: PTH100  resolves `..`, also before a glob


def repository(name: str) -> str:
    """Return `owner/name` unchanged, or the absolute path of a local folder."""
    if not isinstance(name, str | os.PathLike):
        raise errors.InvalidArgument(f"Invalid repository {name!r}. Give `owner/name` on the hub, or a local folder.")
    name = os.fspath(name)
    is_path = name.startswith((".", "/", "~")) or pathlib.Path(name).is_dir()
    return absolute(name) if is_path else name


def _files(uris: Sequence[str], file_format: str | None, options: FileOptions) -> pb.FileSource:
    delimiter = options.delimiter
    if file_format is not None and file_format.lower() == "tsv":
        file_format, delimiter = "csv", delimiter or "\t"
    rows = options.text_rows or ("separated" if options.text_separator else None)
    return message_builder.build(
        pb.FileSource,
        uris=uris,
        format=_format(file_format),
        delimiter=delimiter or "",
        json_field=options.json_field or "",
        text_rows=_text_rows(rows),
        text_separator=options.text_separator or "",
    )


def _format(name: str | None) -> pb.FileSource.Format.ValueType:
    if name is None:
        return pb.FileSource.FORMAT_UNSPECIFIED
    known = {key.removeprefix("FORMAT_").lower(): value for key, value in pb.FileSource.Format.items() if value}
    if name.lower() not in known:
        raise errors.InvalidArgument(f"Unknown format {name!r}. Expected one of: {', '.join(known)}, tsv.")
    return known[name.lower()]


def _text_rows(name: str | None) -> pb.FileSource.TextRows.ValueType:
    if name is None:
        return pb.FileSource.TEXT_ROWS_UNSPECIFIED
    known = {key.removeprefix("TEXT_ROWS_").lower(): value for key, value in pb.FileSource.TextRows.items() if value}
    if name.lower() not in known:
        raise errors.InvalidArgument(f"Unknown text_rows {name!r}. Expected one of: {', '.join(known)}.")
    return known[name.lower()]
