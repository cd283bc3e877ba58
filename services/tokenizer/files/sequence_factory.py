"""Create the sequencer and padder for a tokenization's parameters."""

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.models import loader
from services.tokenizer.sequences import base, packing, padding, windows

_Parameters = tokenizations_pb2.TokenizationParameters
_Packing = tokenizations_pb2.Packing
_Padding = tokenizations_pb2.Padding


def create_sequencer(parameters: _Parameters, tokenizer: loader.Tokenizer) -> base.Sequencer:
    """Return the sequencer that turns documents into sequences."""
    packed = parameters.HasField("packing")
    framed = parameters.add_special_tokens if parameters.HasField("add_special_tokens") else not packed
    around = tokenizer.frame if framed else base.NO_FRAME
    if packed:
        boundaries = _boundaries(parameters.packing, tokenizer)
        if parameters.packing.disable_concatenation:
            return packing.DocumentCutter(around, _max_length(parameters), boundaries)
        # A begin token starts the next document, an end token ends the previous one.
        opens = parameters.packing.separator != _Packing.BOUNDARY_EOS if parameters.packing.document_starts else None
        return packing.Packer(around, _max_length(parameters), boundaries, separator_opens=opens)
    if parameters.truncation == _Parameters.TRUNCATION_NONE:
        return base.WholeDocuments(around, None)
    keep_end = parameters.truncation == _Parameters.TRUNCATION_LEFT
    if parameters.overflow:
        return windows.Windows(around, _max_length(parameters), parameters.stride, keep_end=keep_end)
    return base.WholeDocuments(around, _max_length(parameters), keep_end=keep_end)


def create_padder(parameters: _Parameters, tokenizer: loader.Tokenizer) -> padding.Padder:
    """Return the padder for sequences."""
    if not parameters.HasField("padding"):
        return padding.NoPadding()
    role = "eos_token" if parameters.padding.token == _Padding.TOKEN_EOS else "pad_token"
    token = tokenizer.special(role)
    if token is None:
        message = f"the tokenizer has no {role} token for padding; set padding.token to another one."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.padding.token", message)])
    filling = padding.Filling(token, left=parameters.padding.side == _Padding.SIDE_LEFT)
    if parameters.padding.to == _Padding.TO_LONGEST:
        return padding.PadToLongest(filling)
    return padding.PadToLength(_max_length(parameters), filling)


def _max_length(parameters: _Parameters) -> int:
    if parameters.max_length < 1:
        message = "max_length must be set: the model's context length is not known."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.max_length", message)])
    return int(parameters.max_length)


def _boundaries(parameters: _Packing, tokenizer: loader.Tokenizer) -> packing.Boundaries:
    beginning = _Packing.BOUNDARY_NONE if tokenizer.special("bos_token") is None else _Packing.BOUNDARY_BOS
    return packing.Boundaries(
        begin_of_batch=_boundary("begin_of_batch", parameters.begin_of_batch or beginning, tokenizer),
        begin_of_sequence=_boundary(
            "begin_of_sequence", parameters.begin_of_sequence or _Packing.BOUNDARY_NONE, tokenizer
        ),
        separator=_boundary("separator", parameters.separator or beginning, tokenizer),
    )


def _boundary(field: str, boundary: int, tokenizer: loader.Tokenizer) -> int | None:
    if boundary == _Packing.BOUNDARY_NONE:
        return None
    role = "bos_token" if boundary == _Packing.BOUNDARY_BOS else "eos_token"
    token = tokenizer.special(role)
    if token is None:
        message = f"the tokenizer has no {role}; set packing.{field} to NONE or to one of its tokens."
        raise errors.InvalidArgument(
            f"packing.{field}: {message}", violations=[errors.FieldViolation(f"parameters.packing.{field}", message)]
        )
    return token
