"""Arrow schemas of raw shards: what is stored, which types fit together, and how values are converted."""

import functools
import json
from collections.abc import Callable, Collection, Iterable, Sequence

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as arrow_types

FEATURES = b"huggingface"
"""The metadata key under which `datasets` keeps a schema's features."""


JSON = pa.json_()
"""JSON texts, marked as such: Arrow's canonical extension type, for values of any kind."""


class Differs(Exception):
    """Raised when two schemas have no common type for a column."""

    def __init__(self, column: str, first: pa.DataType, second: pa.DataType) -> None:
        super().__init__(column)
        self.column = column
        self.first = first
        self.second = second


class Unfit(Exception):
    """Raised when a value of a column cannot be stored as another type without loss."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def stored(schema: pa.Schema) -> pa.Schema:
    """Return the schema in which such rows are stored: plain layouts that every Arrow reader supports."""
    features = (schema.metadata or {}).get(FEATURES)
    fields = [pa.field(field.name, _stored_type(field.type)) for field in schema]
    return pa.schema(fields, metadata={FEATURES: features} if features else None)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch without rows, which describes the columns."""
    # Arrow's own constructors do not support extension types within lists and objects. Invalid column names fail here,
    # where the error can be explained.
    named = zip(schema.names, schema.types, strict=True)
    return pa.RecordBatch.from_arrays([pa.nulls(0, kind) for _, kind in named], schema=schema)


def is_json(kind: pa.DataType) -> bool:
    """Return whether values are marked as JSON texts."""
    return isinstance(kind, pa.JsonType)


def json_array(texts: Iterable[str | None]) -> pa.Array:
    """Return the type of JSON texts."""
    return pa.ExtensionArray.from_storage(JSON, pa.array(texts, pa.string()))


def without_times(schema: pa.Schema) -> pa.Schema:
    """Return the schema with text in place of inferred times."""
    return pa.schema([pa.field(field.name, _without_times(field.type)) for field in schema])


def merged(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """Return the schema that holds the rows of both, with the features of the first. Raise Differs.

    A column that is JSON in one becomes JSON in the other, unless that has numbers whose original notation is no
    longer known.
    """
    if not first.names:
        return second
    first, second = with_json(first, json_columns(second)), with_json(second, json_columns(first))
    try:
        return pa.unify_schemas([first, second], promote_options="permissive")
    except pa.ArrowTypeError:
        for field in second:
            if field.name in first.names:
                _check_fits(field.name, first.field(field.name).type, field.type)
        raise


def json_columns(schema: pa.Schema) -> set[str]:
    """Return the columns whose values are JSON texts."""
    return {field.name for field in schema if is_json(field.type)}


def with_json(schema: pa.Schema, wanted: Collection[str]) -> pa.Schema:
    """Return the schema with JSON in place of the types of these columns, where that preserves what was read."""
    fields = [field.with_type(JSON) if field.name in wanted and _is_exact(field.type) else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def check_fits_json(known: pa.Schema, wanted: Collection[str]) -> None:
    """Raise Differs if what was read of one of these columns cannot be written as the JSON that it was read from."""
    for field in known:
        if field.name in wanted and not _is_exact(field.type):
            raise Differs(field.name, field.type, JSON)


def _is_exact(kind: pa.DataType) -> bool:
    """Return whether values of this type, written as JSON, equal the JSON that they were read from."""
    if arrow_types.is_list(kind):
        return _is_exact(kind.value_type)
    exact = (arrow_types.is_null, arrow_types.is_string, arrow_types.is_boolean, arrow_types.is_integer, is_json)
    return any(matches(kind) for matches in exact)


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the same rows under a wider schema, with nulls in missing columns. Raise Unfit."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = [_conformed(batch, field) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def difference(first: pa.Schema, second: pa.Schema) -> tuple[str, bool] | None:
    """Return a column that only one of them has, and whether that is the second."""
    for name in first.names:
        if name not in second.names:
            return name, False
    for name in second.names:
        if name not in first.names:
            return name, True
    return None


@functools.cache
def known_to_datasets(kind: pa.DataType) -> bool:
    """Return whether `datasets` can load values of this type."""
    try:
        datasets.Features.from_arrow_schema(pa.schema([("column", kind)]))
    except ValueError:
        return False
    return True


def _conformed(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    place = batch.schema.get_field_index(field.name)
    if place < 0:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(place)
    try:
        return column if column.type == field.type else _cast(column, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Unfit(field.name, str(error)) from error


def _cast(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if is_json(wanted):
        return _as_json(column)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if arrow_types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    return column if column.type == wanted else column.cast(wanted)


def _as_json(column: pa.Array) -> pa.Array:
    if is_json(column.type):
        return pa.ExtensionArray.from_storage(JSON, column.storage.cast(JSON.storage_type))
    return json_array(None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist())


def _check_fits(name: str, first: pa.DataType, second: pa.DataType) -> None:
    try:
        pa.unify_schemas([pa.schema([(name, first)]), pa.schema([(name, second)])], promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise Differs(name, first, second) from error


_PLAIN: Sequence[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], pa.DataType]]] = (
    # Record batches are small here, so 32-bit offsets always suffice.
    (arrow_types.is_large_string, lambda _: pa.string()),
    (arrow_types.is_string_view, lambda _: pa.string()),
    (arrow_types.is_large_binary, lambda _: pa.binary()),
    (arrow_types.is_binary_view, lambda _: pa.binary()),
    (arrow_types.is_dictionary, lambda kind: _stored_type(kind.value_type)),
    (arrow_types.is_run_end_encoded, lambda kind: _stored_type(kind.value_type)),
    (arrow_types.is_large_list, lambda kind: pa.list_(_stored_type(kind.value_type))),
    (arrow_types.is_list, lambda kind: pa.list_(_stored_type(kind.value_type))),
    (
        arrow_types.is_map,
        lambda kind: pa.list_(
            pa.struct([("key", _stored_type(kind.key_type)), ("value", _stored_type(kind.item_type))])
        ),
    ),
    (arrow_types.is_fixed_size_list, lambda kind: pa.list_(_stored_type(kind.value_type), kind.list_size)),
    (arrow_types.is_struct, lambda kind: pa.struct([(each.name, _stored_type(each.type)) for each in kind])),
)


def _stored_type(kind: pa.DataType) -> pa.DataType:
    if is_json(kind):
        return JSON
    if isinstance(kind, pa.BaseExtensionType):
        return _stored_type(kind.storage_type)
    return next((plain(kind) for matches, plain in _PLAIN if matches(kind)), kind)


def _without_times(kind: pa.DataType) -> pa.DataType:
    if arrow_types.is_temporal(kind):
        return pa.string()
    if arrow_types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if arrow_types.is_struct(kind):
        return pa.struct([(each.name, _without_times(each.type)) for each in kind])
    return kind
