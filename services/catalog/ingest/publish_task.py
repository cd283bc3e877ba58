"""`ingest.publish`: check that the parts fit together, and write the manifest with which `datasets` opens them."""

import hashlib
import json
from typing import Any

import datasets
import pyarrow as pa

from polytok import manifests
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import read_task, schemas, shards, source_errors
from services.catalog.ingest.read_task import ORIGIN, Report
from services.runtime.storage import Storage, verification


def publish(
    storage: Storage, task: tasks_pb2.PublishDatasetTask, tag: str, report: Report
) -> tasks_pb2.PublishDatasetResult:
    """Check the shards and stage the manifest.

    Shards with a narrower type than the others are rewritten. Their first files stay, because another attempt may
    still be reading them; the catalog's garbage collection deletes files that no manifest names.
    """
    parts = [part for part in task.parts if part.columns]
    if not any(part.shards for part in parts):
        raise source_errors.empty(_no_rows(list(task.parts)))
    schema = _schema(parts)
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


def _arrow_schema(part: tasks_pb2.ReadPartResult) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(part.arrow_schema))


def _origin(part: tasks_pb2.ReadPartResult) -> str:
    return bytes(_arrow_schema(part).metadata[ORIGIN]).decode()


def _schema(parts: list[tasks_pb2.ReadPartResult]) -> pa.Schema:
    """Return the schema that fits all rows. Every part must have the same columns; types may widen without loss."""
    first = parts[0]
    kept = {name for part in parts for name in schemas.json_columns(_arrow_schema(part))}
    schema = schemas.with_json(schemas.stored(_arrow_schema(first)), kept)
    for part in parts[1:]:
        other = schemas.with_json(schemas.stored(_arrow_schema(part)), kept)
        if difference := schemas.difference(schema, other):
            column, in_second = difference
            having, lacking = (part, first) if in_second else (first, part)
            raise source_errors.invalid(
                f"{_origin(lacking)} has no column {column!r}, which {_origin(having)} has."
                " Give all files the same columns, or register them as separate datasets."
            )
        try:
            schema = schemas.merged(schema, other)
        except schemas.Differs as differs:
            raise source_errors.invalid(
                f"Column {differs.column!r} holds {differs.second} in {_origin(part)}, and {differs.first} in"
                f" {_origin(_first_with(parts, differs))}. Give it the same type in all files."
            ) from differs
    return schema


def _first_with(parts: list[tasks_pb2.ReadPartResult], differs: schemas.Differs) -> tasks_pb2.ReadPartResult:
    return next((part for part in parts if _arrow_schema(part).field(differs.column).type == differs.first), parts[0])


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
    for number, part in enumerate(parts):
        fits = schemas.stored(_arrow_schema(part)).equals(schema, check_metadata=False)
        first_row = 0
        for shard in part.shards:
            kept = shard
            if not fits:
                name = (f"{task.raw_key}/part-{number:05d}-{len(result):05d}", tag)
                kept = _widened(storage, shard, schema, shards.RowOrigin(_origin(part), first_row), name)
                written.append(kept.key)
            result.append(kept)
            first_row += shard.num_rows
        report(number + 1, len(parts))
    return result


def _widened(
    storage: Storage, shard: tasks_pb2.RawShard, schema: pa.Schema, origin: shards.RowOrigin, name: tuple[str, str]
) -> tasks_pb2.RawShard:
    try:
        kept = origin._replace(name=read_task.origin(origin.name).name)
        with (
            shards.ShardWriter(storage, *name, shard_bytes=shard.size_bytes * 8 + 1, origin=kept) as writer,
            shards.opened(storage, shard) as batches,
        ):
            for batch in batches:
                writer.write(schemas.conformed(batch, schema))
    except schemas.Unfit as unfit:
        raise source_errors.invalid(
            f"{origin.name}: column {unfit.column!r} cannot be converted to its type in the other files without loss"
            f" ({unfit}). Give it the same type in all files."
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
