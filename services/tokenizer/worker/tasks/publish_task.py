"""The task `tokenize.publish`: check the files, merge the statistics, stage the folder's small files.

They are staged under names of this attempt. The catalog renames them in the transaction that makes the tokenization
READY; until then `datasets.load_from_disk` finds nothing to open.
"""

import posixpath
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from polytok import errors, manifests
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.records import publication
from services.runtime.storage import Storage, verification
from services.runtime.telemetry import logging
from services.tokenizer.files import shard_writer, staging, statistics, token_counts
from services.tokenizer.models import loader
from services.tokenizer.sequences import histograms

_log = logging.get(__name__)

_VERSIONS = ("polytok", "tokenizers", "transformers", "jinja2")
"""The packages whose version decides what is written; jinja2 renders chat templates."""


def publish(
    task: tasks_pb2.PublishTokenizationTask, storage: Storage, tokenizers: loader.TokenizerCache, context: TaskContext
) -> tasks_pb2.PublishTokenizationResult:
    """Check and merge the results of the shards."""
    merged = statistics.merge([*task.counted, *(shard.statistics for shard in task.shards)])
    lengths = histograms.merge(shard.lengths for shard in task.shards)
    merged.median_seq_length = min(max(lengths.median(), merged.min_seq_length), merged.max_seq_length)
    merged.length_histogram.extend(lengths.by_powers())
    _check_not_empty(task, merged)
    files = [file for shard in task.shards for file in shard.files]
    counts = token_counts.TokenCounts(task.vocab_size)
    advice = "Retry the tokenization."
    verification.verify(storage, files, advice, context.report, lambda file: counts.measure(storage, file))
    counts.fill_in(merged)
    _name_tokens(merged, task.tokenizer, tokenizers)
    statistics.add_shares(merged)
    encoded = build_manifest(task, files, merged)
    digest = manifests.digest(encoded)
    contents = {manifests.NAME: encoded, **build_datasets_sidecars(task, files, digest)}
    # Every file exists; another attempt at this task does not need the staged files of earlier stages.
    staging.remove(storage, task.tokenized_key)
    return tasks_pb2.PublishTokenizationResult(
        statistics=merged,
        manifest_digest=digest,
        staged_files=[
            publication.stage(storage, task.tokenized_key, name, data, context.tag) for name, data in contents.items()
        ],
    )


def build_manifest(
    task: tasks_pb2.PublishTokenizationTask,
    files: list[tasks_pb2.TokenizedFile],
    merged: tokenizations_pb2.TokenizationStatistics,
) -> bytes:
    """Return the content of `polytok.json`."""
    return manifests.encode(_manifest(task, files, merged))


def build_datasets_sidecars(
    task: tasks_pb2.PublishTokenizationTask, files: list[tasks_pb2.TokenizedFile], digest: str
) -> dict[str, bytes]:
    """Return the contents of the small files beside a manifest with that digest, by name."""
    features = shard_writer.describe_features(document_starts=task.parameters.packing.document_starts)
    return manifests.sidecars(features, (posixpath.basename(file.key) for file in files), digest)


def _check_not_empty(task: tasks_pb2.PublishTokenizationTask, merged: tokenizations_pb2.TokenizationStatistics) -> None:
    if merged.num_tokens and merged.text_bytes:
        return
    if merged.num_documents and merged.num_documents == statistics.count_dropped(merged):
        message = f"The filters drop all {merged.num_documents} documents of the dataset. Relax or remove some of them."
    elif merged.text_bytes and task.parameters.HasField("packing"):
        message = (
            f"The dataset's {merged.num_documents} documents do not fill a single sequence of "
            f"{task.parameters.max_length} tokens. Set a smaller max_length, or disable packing."
        )
    else:
        message = (
            f"The dataset's {merged.num_documents} documents hold no text in the column "
            f"{task.parameters.text_column!r}. Set text_column to the right column."
        )
    raise errors.FailedPrecondition(message, reason="SOURCE_EMPTY")


def _name_tokens(
    merged: tokenizations_pb2.TokenizationStatistics,
    reference: tasks_pb2.TokenizerReference,
    tokenizers: loader.TokenizerCache,
) -> None:
    try:
        token_counts.name_tokens(merged, tokenizers.get(reference))
    except errors.PolytokError as error:
        # All ids are written and correct: missing token names must not fail the job.
        _log.warning("tokens_without_names", error=error.message)


def _manifest(
    task: tasks_pb2.PublishTokenizationTask,
    files: list[tasks_pb2.TokenizedFile],
    merged: tokenizations_pb2.TokenizationStatistics,
) -> dict[str, Any]:
    return {
        "name": task.name,
        "dataset_fingerprint": task.dataset_fingerprint,
        "tokenizer": {
            "repo_id": task.tokenizer.repo_id,
            "revision": task.tokenizer.revision,
            "fingerprint": task.tokenizer.fingerprint,
            **(
                {"chat_template_fingerprint": task.tokenizer.chat_template_fingerprint}
                if task.tokenizer.chat_template_fingerprint
                else {}
            ),
            "vocab_size": task.vocab_size,
        },
        "parameters": json_format.MessageToDict(task.parameters, preserving_proto_field_name=True),
        **({"date": task.date} if task.date else {}),
        # Numbers as numbers: canonical JSON would write a 64-bit integer as a string.
        "statistics": {field.name: _plain(getattr(merged, field.name)) for field in merged.DESCRIPTOR.fields},
        "files": [
            {
                **manifests.describe_file(file, task.tokenized_key),
                **({"phase": file.phase} if file.HasField("phase") else {}),
            }
            for file in files
        ],
        "versions": manifests.versions(*_VERSIONS),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return {field.name: _plain(getattr(value, field.name)) for field in value.DESCRIPTOR.fields}
    return value if isinstance(value, str | int | float) else [_plain(each) for each in value]
