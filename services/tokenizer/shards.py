"""The task `tokenize.shard`: one raw shard to one file of token ids."""

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.jobs.child import TaskContext
from services.runtime.storage import Storage
from services.tokenizer import loading, output, packing, reading, sequences, windows, writing
from services.tokenizer.engines import Engine, reference

_Parameters = tokenizations_pb2.TokenizationParameters
_Packing = tokenizations_pb2.Packing


def tokenize(
    task: tasks_pb2.TokenizeShardTask, storage: Storage, tokenizers: loading.Tokenizers, context: TaskContext
) -> tasks_pb2.TokenizeShardResult:
    """Reads, encodes and writes, a bounded piece at a time."""
    tokenizer = tokenizers.get(task.tokenizer)
    engine: Engine = reference.Reference(tokenizer.backend)
    sequencer = make_sequencer(task.parameters, tokenizer)
    key = f"{task.tokenized_key}/shard-{task.ordinal:05d}-of-{task.count:05d}-{context.tag}.arrow"
    num_documents = text_bytes = 0
    # The reader's block is the inner one: bytes that were not the right ones must not become a file.
    with writing.ShardWriter(storage, key) as writer, reading.verified(storage, task.shard) as file:
        made = output.Output(sequencer, writer, tokenizer.unknown)
        for piece in reading.slices(file, task.shard, task.parameters.text_column):
            made.add(engine.encode(piece.texts))
            num_documents, text_bytes = num_documents + len(piece.texts), text_bytes + piece.text_bytes
            context.report(piece.position, task.shard.size_bytes)
        total = made.finish()
    total.engine = engine.name
    total.num_documents, total.text_bytes = num_documents, text_bytes
    total.num_files = len(writer.files)
    total.size_bytes = sum(file.size_bytes for file in writer.files)
    return tasks_pb2.TokenizeShardResult(files=writer.files, statistics=total)


def make_sequencer(parameters: _Parameters, tokenizer: loading.Tokenizer) -> sequences.Sequencer:
    """Chooses how documents become sequences."""
    packed = parameters.HasField("packing")
    framed = parameters.add_special_tokens if parameters.HasField("add_special_tokens") else not packed
    around = tokenizer.frame if framed else sequences.NO_FRAME
    if packed:
        boundaries = _boundaries(parameters.packing, tokenizer)
        make = packing.Cut if parameters.packing.disable_concatenation else packing.Packed
        return make(around, _max_length(parameters), boundaries)
    if parameters.truncation == _Parameters.TRUNCATION_NONE:
        return sequences.Whole(around, None)
    keep_end = parameters.truncation == _Parameters.TRUNCATION_LEFT
    if parameters.overflow:
        return windows.Windows(around, _max_length(parameters), parameters.stride, keep_end=keep_end)
    return sequences.Whole(around, _max_length(parameters), keep_end=keep_end)


def _max_length(parameters: _Parameters) -> int:
    if parameters.max_length < 1:
        message = "max_length must be set: the model's context length is not known."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.max_length", message)])
    return int(parameters.max_length)


def _boundaries(parameters: _Packing, tokenizer: loading.Tokenizer) -> packing.Boundaries:
    return packing.Boundaries(
        begin_of_batch=_boundary("begin_of_batch", parameters.begin_of_batch or _Packing.BOUNDARY_BOS, tokenizer),
        begin_of_sequence=_boundary(
            "begin_of_sequence", parameters.begin_of_sequence or _Packing.BOUNDARY_NONE, tokenizer
        ),
        separator=_boundary("separator", parameters.separator or _Packing.BOUNDARY_BOS, tokenizer),
    )


def _boundary(field: str, boundary: int, tokenizer: loading.Tokenizer) -> int | None:
    if boundary == _Packing.BOUNDARY_NONE:
        return None
    token = tokenizer.special("eos_token")
    if boundary == _Packing.BOUNDARY_BOS:
        beginning = tokenizer.special("bos_token")
        token = token if beginning is None else beginning
    if token is None:
        wanted = "an end-of-sequence token"
        if boundary == _Packing.BOUNDARY_BOS:
            wanted = "a beginning-of-sequence or an end-of-sequence token"
        message = f"the tokenizer has not {wanted}; set packing.{field} to NONE."
        raise errors.InvalidArgument(
            f"packing.{field}: {message}", violations=[errors.FieldViolation(f"parameters.packing.{field}", message)]
        )
    return token
