"""How filters, normalisation, the limit of documents and their order are checked."""

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server.domain import sources

_Parameters = tokenizations_pb2.TokenizationParameters


def apply_defaults(parameters: tokenizations_pb2.TokenizationParameters) -> None:
    """Take filters that filter nothing for none, and refuse those that keep nothing."""
    filters = parameters.filters
    sources.check_texts(
        {f"parameters.filters.{field}": getattr(filters, field) for field in ("keep_pattern", "drop_pattern")}
    )
    if filters.max_characters and filters.max_characters < filters.min_characters:
        field = "parameters.filters.max_characters"
        description = f"{filters.max_characters} is less than min_characters, {filters.min_characters}."
        raise errors.InvalidArgument(f"{field}: {description}", violations=[errors.FieldViolation(field, description)])
    if parameters.null_text == _Parameters.NULL_TEXT_ERROR:
        parameters.ClearField("null_text")
    if not filters.ByteSize():
        parameters.ClearField("filters")


def as_fields(parameters: tokenizations_pb2.TokenizationParameters) -> dict[str, object]:
    """Return everything that is set as a flat dict, for comparison."""
    flat: dict[str, object] = {f"filters.{field.name}": value for field, value in parameters.filters.ListFields()}
    if parameters.normalization:
        flat["normalization"] = _Parameters.Normalization.Name(parameters.normalization).removeprefix("NORMALIZATION_")
    if parameters.null_text:
        flat["null_text"] = _Parameters.NullText.Name(parameters.null_text).removeprefix("NULL_TEXT_")
    if parameters.HasField("max_documents"):
        flat["max_documents"] = parameters.max_documents
    if parameters.HasField("shuffle_seed"):
        flat["shuffle_seed"] = parameters.shuffle_seed
    return flat
