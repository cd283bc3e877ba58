"""`ingest.publish`: check that the parts fit together, and write the manifest with which `datasets` opens them."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import datasets
import pyarrow as pa

from polytok import manifests
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import schemas, shards, source_errors
from services.catalog.ingest.read_task import INFERRED, ORIGIN, Report
from services.runtime.storage import Storage, verification

_SMALL = 16
"""Shards that are smaller than this fraction of a shard's size are merged."""


def publish(
    storage: Storage, task: tasks_pb2.PublishDatasetTask, tag: str, report: Report
) -> tasks_pb2.PublishDatasetResult:
    """Check the shards and stage the manifest.

    Shards with a narrower type than the others, and small ones, are rewritten. Their first files stay, because another
    attempt may still be reading them; the catalog's garbage collection deletes files that no manifest names.
    """
    parts = [part for part in task.parts if part.columns]
    if not any(part.shards for part in parts):
        raise source_errors.empty(_no_rows(list(task.parts)))
    try:
        schema = _schema(parts)
    except _ReadUntyped as needed:
        return tasks_pb2.PublishDatasetResult(untyped_columns=sorted(needed.columns))
    written: list[str] = []
    try:
        raw_shards = _shards(storage, task, parts, schema, tag, lambda done, total: report(done, 2 * total), written)
        verification.verify(storage, raw_shards, shards.ADVICE, lambda done, total: report(total + done, 2 * total))
        return _result(storage, task.raw_key, raw_shards, _columns(parts, schema), schema, tag, written)
    except BaseException:
        for key in written:
            storage.delete(key)
        raise


def _no_rows(parts: list[tasks_pb2.ReadPartResult]) -> str:
    if len(parts) == 1:
        return f"{_origin(parts[0])} has no rows. Use a source with at least one row."
    return f"None of the {len(parts)} parts of the source has rows. Use a source with at least one row."


class _ReadUntyped(Exception):
    """Raised when the types inferred for columns in different parts do not fit together."""

    def __init__(self, columns: Collection[str]) -> None:
        super().__init__(*columns)
        self.columns = columns


def _arrow_schema(part: tasks_pb2.ReadPartResult) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(part.arrow_schema))


def _origin(part: tasks_pb2.ReadPartResult) -> str:
    return bytes(_arrow_schema(part).metadata[ORIGIN]).decode()


def _schema(parts: list[tasks_pb2.ReadPartResult]) -> pa.Schema:
    """Return the schema that fits all rows. Every part must have the same columns; types may widen without loss.

    Raise _ReadUntyped if types do not fit and all of them were inferred from values.
    """
    first = parts[0]
    kept = {name for part in parts for name in schemas.json_columns(_arrow_schema(part))}
    schema = schemas.with_json(schemas.stored(_arrow_schema(first)), kept)
    inferred = all(INFERRED in _arrow_schema(part).metadata for part in parts)
    untyped: set[str] = set()
    for part in parts[1:]:
        other = schemas.with_json(schemas.stored(_arrow_schema(part)), kept)
        if difference := schemas.difference(schema, other):
            column, in_second = difference
            having, lacking = (part, first) if in_second else (first, part)
            raise source_errors.invalid(
                f"{_origin(lacking)} has no column {column!r}, which {_origin(having)} has."
                " Give all files the same columns, set columns to those that all have, or register the files as"
                " separate datasets."
            )
        while True:
            try:
                schema = schemas.merged(schema, other)
                break
            except schemas.Differs as differs:
                if not inferred:
                    raise source_errors.invalid(
                        f"Column {differs.column!r} holds {differs.second} in {_origin(part)}, and {differs.first} in"
                        f" {_origin(_first_with(parts, differs))}. Give it the same type in all files, or set columns"
                        " to the others."
                    ) from differs
                untyped.add(differs.column)
                other = other.set(
                    other.get_field_index(differs.column), schema.field(schema.get_field_index(differs.column))
                )
    if untyped:
        raise _ReadUntyped(untyped)
    return schema


def _first_with(parts: list[tasks_pb2.ReadPartResult], differs: schemas.Differs) -> tasks_pb2.ReadPartResult:
    return next((part for part in parts if _arrow_schema(part).field(differs.column).type == differs.first), parts[0])


class _Piece(NamedTuple):
    """A shard as a part has it."""

    shard: tasks_pb2.RawShard
    fits: bool
    """Whether it has the schema of all shards."""
    origin: shards.RowOrigin
    source: str
    """The part's name in messages."""


def _pieces(parts: list[tasks_pb2.ReadPartResult], schema: pa.Schema) -> Iterator[_Piece]:
    for part in parts:
        fits = schemas.stored(_arrow_schema(part)).equals(schema, check_metadata=False)
        ((_, name, first_row),) = json.loads(_arrow_schema(part).metadata[shards.SOURCES])
        for shard in part.shards:
            yield _Piece(shard, fits, shards.RowOrigin(name, first_row), _origin(part))
            first_row += shard.num_rows


def _groups(pieces: Iterable[_Piece], shard_bytes: int) -> Iterator[list[_Piece]]:
    """Group small shards into ones of `shard_bytes`, without reading much more than the others are read anyway."""
    group: list[_Piece] = []
    for piece in pieces:
        sizes = [each.shard.size_bytes for each in (*group, piece)]
        if group and (max(sizes) > shard_bytes // _SMALL or sum(sizes) > shard_bytes):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _shards(
    storage: Storage,
    task: tasks_pb2.PublishDatasetTask,
    parts: list[tasks_pb2.ReadPartResult],
    schema: pa.Schema,
    tag: str,
    report: Report,
    written: list[str],
) -> list[tasks_pb2.RawShard]:
    """Return all shards in the order of their rows, under the one schema."""
    result: list[tasks_pb2.RawShard] = []
    total = sum(len(part.shards) for part in parts)
    done = 0
    for group in _groups(_pieces(parts, schema), task.shard_bytes):
        if len(group) == 1 and group[0].fits:
            result.append(group[0].shard)
        else:
            result.append(
                _rewritten(storage, group, schema, (f"{task.raw_key}/part-{len(result):05d}-{len(group):05d}", tag))
            )
            written.append(result[-1].key)
        done += len(group)
        report(done, total)
    return result


def _rewritten(storage: Storage, group: list[_Piece], schema: pa.Schema, name: tuple[str, str]) -> tasks_pb2.RawShard:
    """Write shards as one, under the schema of all."""
    origins = shards.RowOrigins()
    for piece in group:
        origins.add(piece.origin, piece.shard.num_rows)
    size = sum(piece.shard.size_bytes for piece in group)
    with shards.ShardWriter(storage, *name, shard_bytes=size * 8 + 1, origins=origins) as writer:
        for piece in group:
            try:
                with shards.opened(storage, piece.shard) as batches:
                    for batch in batches:
                        writer.write(schemas.conformed(batch, schema))
            except schemas.Unfit as unfit:
                raise source_errors.invalid(
                    f"{piece.source}: column {unfit.column!r} cannot be converted to its type in the other files"
                    f" without loss ({unfit}). Give it the same type in all files."
                ) from unfit
    (only,) = writer.shards
    return only


def _columns(parts: list[tasks_pb2.ReadPartResult], schema: pa.Schema) -> list[datasets_pb2.Column]:
    """Return the columns of all parts, with what any part says about their content."""
    contents = {column.name: column.content for part in parts for column in part.columns if column.content}
    return [
        datasets_pb2.Column(
            name=field.name,
            type=str(field.type),
            content=contents.get(field.name, datasets_pb2.Column.CONTENT_UNSPECIFIED),
        )
        for field in schema
    ]


def _result(
    storage: Storage,
    raw_key: str,
    raw_shards: list[tasks_pb2.RawShard],
    columns: list[datasets_pb2.Column],
    schema: pa.Schema,
    tag: str,
    written: list[str],
) -> tasks_pb2.PublishDatasetResult:
    features = datasets.Features.from_arrow_schema(schema)
    fingerprint = hashlib.sha256("".join(shard.sha256 for shard in raw_shards).encode()).hexdigest()
    names = (shard.key.removeprefix(f"{raw_key}/") for shard in raw_shards)
    contents = {
        manifests.INFO: manifests.info(features.to_dict()),
        manifests.STATE: manifests.state(names, fingerprint),
    }
    staged = []
    for name, content in contents.items():
        key = f"{raw_key}/{name}.{tag}"
        written.append(key)
        digest = storage.write_bytes(key, _json(content).encode())
        staged.append(tasks_pb2.StagedFile(staged_key=key, final_key=f"{raw_key}/{name}", sha256=digest))
    return tasks_pb2.PublishDatasetResult(
        shards=raw_shards,
        columns=columns,
        num_rows=sum(shard.num_rows for shard in raw_shards),
        size_bytes=sum(shard.size_bytes for shard in raw_shards),
        fingerprint=fingerprint,
        features_json=_json(features.to_dict()),
        staged_files=staged,
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)
