"""How to tokenize, as keyword arguments; the catalog fills in every default and checks every value."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2 as pb
from polytok.client import message_builder

Boundary = Literal["none", "bos", "eos"]


class Packing(TypedDict, total=False):
    """How documents are concatenated and cut into sequences of exactly max_length tokens."""

    begin_of_batch: Boundary
    """At the start of every sequence; `bos` by default."""
    begin_of_sequence: Boundary
    """At the start of every document; `none` by default."""
    separator: Boundary
    """Between documents; `bos` by default."""
    disable_concatenation: bool
    """Cuts each document by itself and drops what does not fill a sequence."""
    document_starts: bool
    """Stores a column `document_starts`: the places in each sequence at which a document starts, the first one 0."""


class Padding(TypedDict, total=False):
    """How sequences are filled up to one length."""

    to: Literal["max_length", "longest"]
    """The length: max_length (the default), or that of the longest sequence of the Arrow file."""
    side: Literal["right", "left"]
    """Where padding goes; `right` by default."""
    token: Literal["pad", "eos"]
    """What padding is; by default `pad` where the tokenizer has such a token, else `eos`."""


class Filters(TypedDict, total=False):
    """Which documents are dropped, and counted in the statistics."""

    min_characters: int
    """Those of fewer characters."""
    max_characters: int
    """Those of more characters."""
    keep_pattern: str
    """Those in which this regular expression (RE2) is not found."""
    drop_pattern: str
    """Those in which this regular expression (RE2) is found."""
    max_junk: float
    """Those with a greater share of characters that are neither letter, mark, number nor white space."""
    drop_duplicates: bool
    """Those whose text, normalized, is that of a document before them in the dataset which no filter dropped."""


class Chat(TypedDict, total=False):
    """How conversations become text, as `apply_chat_template` of transformers makes it."""

    add_generation_prompt: bool
    """Ends each conversation with what begins an answer of the assistant."""
    template: str
    """A Jinja template of one's own; by default the tokenizer's."""
    tools_column: str
    """The column whose values the template is given as `tools`: lists of JSON schemas, or their text. By default
    `tools`, if there is one; an empty name gives none."""


class Parameters(TypedDict, total=False):
    """How a dataset is tokenized; what is left out takes its default."""

    text_column: str
    """The column that holds the text or conversations; by default the one that there is no doubt about, which the
    record then names and gives the reason for: `text`, the only one of conversations, the only one with another usual
    name of text (`content`, `document`, `body`), or the only one of strings."""
    chat: Chat | bool
    """Renders conversations through a chat template; by default wherever text_column holds them."""
    max_length: int
    """Tokens in a sequence at most, special tokens included; by default the model's context length."""
    truncation: Literal["right", "left", "none"]
    """What a document longer than max_length keeps: its start (`right`), its end (`left`), all of it (`none`)."""
    add_special_tokens: bool
    """Whether the tokenizer adds its special tokens; by default true, and false when packing."""
    overflow: bool
    """Keeps all of a document longer than max_length, as several sequences."""
    stride: int
    """Tokens that each of those shares with the one before; 0 by default."""
    padding: Padding | Literal["max_length", "longest"]
    """Fills sequences up to one length; by default each stays as long as it is."""
    filters: Filters
    """Drops whole documents; by default none."""
    normalization: Literal["nfc", "nfkc"]
    """Changes the text before it is filtered and tokenized; by default every byte stays as it is."""
    max_documents: int
    """Takes only so many documents: the first of the dataset, or with shuffle_seed a random sample; by default all."""
    shuffle_seed: int
    """Shuffles the documents of the whole dataset, the same way for the same seed; by default they stay in order."""
    packing: Packing | bool
    """Packs documents into sequences of exactly max_length tokens; True takes the defaults."""


def to_message(parameters: Parameters) -> pb.TokenizationParameters:
    """Return the message for the parameters.

    Raises InvalidArgument, which names what there is not or cannot be sent.
    """
    values: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    packing = values.pop("packing", False)
    chat = values.pop("chat", False)
    padding = values.pop("padding", None)
    filters = values.pop("filters", None)
    truncation = values.pop("truncation", None)
    normalization = values.pop("normalization", None)
    unknown = values.keys() - Parameters.__annotations__.keys()
    if unknown:
        raise errors.InvalidArgument(
            f"There is no parameter {min(unknown)!r}; there are: {', '.join(Parameters.__annotations__)}."
        )
    message = message_builder.build(pb.TokenizationParameters, **values)
    if truncation is not None:
        message.truncation = _enum(pb.TokenizationParameters.Truncation, "TRUNCATION", truncation)
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
    """Return the values of a parameter that has fields of its own. Raises InvalidArgument for others."""
    known = ", ".join(kind.__annotations__)
    if not isinstance(given, Mapping):
        raise errors.InvalidArgument(f"{name} is a dict, not {given!r}; it has: {known}.")
    unknown = given.keys() - kind.__annotations__.keys()
    if unknown:
        raise errors.InvalidArgument(f"{name} has no {min(unknown, key=str)!r}; it has: {known}.")
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
        raise errors.InvalidArgument(f"{value!r} is no {prefix.lower()}; one of: {allowed}.")
    return enum.Value(f"{prefix}_{str(value).upper()}")
