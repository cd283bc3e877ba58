"""Parameters of tokenizing as keyword arguments; the catalog fills in the defaults and validates the values."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2 as pb
from polytok.client import message_builder

Boundary = Literal["none", "bos", "eos"]


class Packing(TypedDict, total=False):
    """How documents are concatenated and cut into sequences of exactly max_length tokens."""

    begin_of_batch: Boundary
    """Token at the start of every sequence; `bos` by default."""
    begin_of_sequence: Boundary
    """Token at the start of every document; `none` by default."""
    separator: Boundary
    """Token between documents; `bos` by default."""
    disable_concatenation: bool
    """Whether to cut each document separately and drop what does not fill a sequence."""
    document_starts: bool
    """Whether to store a column `document_starts`: the positions, from 0, where documents start in each sequence."""


class Padding(TypedDict, total=False):
    """How to pad sequences to one length."""

    to: Literal["max_length", "longest"]
    """Target length: `max_length` (the default), or that of the longest sequence of the Arrow file."""
    side: Literal["right", "left"]
    """Side to pad; `right` by default."""
    token: Literal["pad", "eos"]
    """Token to pad with; by default `pad` if the tokenizer has one, else `eos`."""


class Filters(TypedDict, total=False):
    """Which documents to drop; the statistics count them."""

    min_characters: int
    """Drop documents shorter than this."""
    max_characters: int
    """Drop documents longer than this."""
    keep_pattern: str
    """Drop documents that do not match this regular expression (RE2)."""
    drop_pattern: str
    """Drop documents that match this regular expression (RE2)."""
    max_junk: float
    """Drop documents with a larger share of characters other than letters, marks, numbers and white space."""
    drop_duplicates: bool
    """Drop documents whose normalized text equals that of an earlier document that no filter dropped."""


class Chat(TypedDict, total=False):
    """How to render conversations as text, as `apply_chat_template` of transformers does."""

    add_generation_prompt: bool
    """Whether to end each conversation with the prefix of an assistant message."""
    template: str
    """A Jinja template; by default the tokenizer's."""
    tools_column: str
    """The column passed to the template as `tools`: lists of JSON schemas, or JSON text. By default `tools`, if it
    exists; an empty name passes no tools."""


class Parameters(TypedDict, total=False):
    """Parameters of a tokenization, all optional."""

    text_column: str
    """The column with the text or conversations. By default `text`, the only column of conversations, the only one
    with another usual name (`content`, `document`, `body`), or the only one of strings. The record names the column
    and the reason."""
    chat: Chat | bool
    """How to render conversations with a chat template; by default done if text_column holds conversations."""
    max_length: int
    """Maximum tokens per sequence, including special tokens; by default the model's context length."""
    truncation: Literal["right", "left", "none"]
    """Side to truncate documents longer than max_length: `right` keeps the start, `left` the end, `none` everything."""
    add_special_tokens: bool
    """Whether the tokenizer adds its special tokens; by default true, and false when packing."""
    overflow: bool
    """Whether to split a document longer than max_length into several sequences instead of truncating it."""
    stride: int
    """Number of overlapping tokens between consecutive windows; 0 by default."""
    padding: Padding | Literal["max_length", "longest"]
    """How to pad sequences to one length; by default they are not padded."""
    filters: Filters
    """Which documents to drop; none by default."""
    null_text: Literal["error", "drop", "empty"]
    """What to do with documents without text: fail (the default), drop them, or take them as empty texts."""
    normalization: Literal["nfc", "nfkc"]
    """Unicode normalization before filtering and tokenizing; by default the text is not changed."""
    max_documents: int
    """Maximum number of documents: the first ones, or with shuffle_seed a random sample; by default all."""
    shuffle_seed: int
    """Seed for shuffling the documents of the whole dataset; by default they stay in order."""
    packing: Packing | bool
    """How to pack documents into sequences of exactly max_length tokens; True takes the defaults."""


def to_message(parameters: Parameters) -> pb.TokenizationParameters:
    """Return the message of the parameters. Raises InvalidArgument for unknown fields and values."""
    values: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    packing = values.pop("packing", False)
    chat = values.pop("chat", False)
    padding = values.pop("padding", None)
    filters = values.pop("filters", None)
    truncation = values.pop("truncation", None)
    normalization = values.pop("normalization", None)
    null_text = values.pop("null_text", None)
    unknown = values.keys() - Parameters.__annotations__.keys()
    if unknown:
        raise errors.InvalidArgument(
            f"Unknown parameter {min(unknown)!r}. Expected one of: {', '.join(Parameters.__annotations__)}."
        )
    message = message_builder.build(pb.TokenizationParameters, **values)
    if truncation is not None:
        message.truncation = _enum(pb.TokenizationParameters.Truncation, "TRUNCATION", truncation)
    if null_text is not None:
        message.null_text = _enum(pb.TokenizationParameters.NullText, "NULL_TEXT", null_text)
    if normalization is not None:
        message.normalization = _enum(pb.TokenizationParameters.Normalization, "NORMALIZATION", normalization)
    if padding is not None:
        message.padding.CopyFrom(_padding({"to": padding} if isinstance(padding, str) else padding))
    if filters is not None:
        message.filters.CopyFrom(message_builder.build(pb.Filters, **_known("filters", filters, Filters)))
    if chat is not False:
        message.chat.CopyFrom(message_builder.build(pb.Chat, **_known("chat", {} if chat is True else chat, Chat)))
    if packing is not False:
        message.packing.CopyFrom(_packing({} if packing is True else packing))
    return message


def _known(name: str, given: Any, kind: Any) -> dict[str, Any]:
    """Return the fields of a nested parameter. Raises InvalidArgument for unknown ones."""
    known = ", ".join(kind.__annotations__)
    if not isinstance(given, Mapping):
        raise errors.InvalidArgument(f"{name} must be a dict, not {given!r}. Its fields: {known}.")
    unknown = given.keys() - kind.__annotations__.keys()
    if unknown:
        raise errors.InvalidArgument(f"Unknown field {min(unknown, key=str)!r} of {name}. Expected one of: {known}.")
    return dict(given)


def _padding(given: Any) -> pb.Padding:
    values = _known("padding", given, Padding)
    enums = {"to": pb.Padding.To, "side": pb.Padding.Side, "token": pb.Padding.Token}
    return pb.Padding(**{name: _enum(enums[name], name.upper(), value) for name, value in values.items()})


def _packing(given: Any) -> pb.Packing:
    values = _known("packing", given, Packing)
    for name in values.keys() - {"disable_concatenation", "document_starts"}:
        values[name] = _enum(pb.Packing.Boundary, "BOUNDARY", values[name])
    return message_builder.build(pb.Packing, **values)


def _enum(enum: Any, prefix: str, value: str) -> Any:
    names = [name.removeprefix(f"{prefix}_") for name in enum.keys() if not name.endswith("_UNSPECIFIED")]  # noqa: SIM118
    if str(value).upper() not in names:
        allowed = ", ".join(name.lower() for name in names)
        raise errors.InvalidArgument(f"Unknown {prefix.lower()} {value!r}. Expected one of: {allowed}.")
    return enum.Value(f"{prefix}_{str(value).upper()}")
