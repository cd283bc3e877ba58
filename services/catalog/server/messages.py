"""From records to the messages of `polytok.catalog.v1`."""

from collections.abc import Mapping
from datetime import datetime

from google.protobuf import json_format, timestamp_pb2

from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from services.catalog.server.domain import records
from services.jobs import failures
from services.runtime.storage import Storage


def dataset(record: records.Dataset, storage: Storage) -> datasets_pb2.Dataset:
    """Return the message of a dataset."""
    return datasets_pb2.Dataset(
        name=record.resource,
        uid=str(record.id),
        source=json_format.ParseDict(dict(record.source), datasets_pb2.DatasetSource()),
        state=datasets_pb2.Dataset.State.Value(f"STATE_{record.status}"),
        progress=record.progress,
        raw_path=storage.uri(record.raw_path),
        num_samples=record.num_samples,
        size_bytes=record.size_bytes,
        num_shards=record.num_shards,
        columns=[_column(column) for column in record.columns],
        fingerprint=record.fingerprint,
        commit=record.commit,
        error_reason=record.error_reason,
        error_message=record.error_message,
        error=failures.to_proto(record.error),
        metadata=record.metadata,
        create_time=_timestamp(record.created_at),
        update_time=_timestamp(record.updated_at),
        complete_time=_timestamp(record.completed_at),
        etag=record.etag,
        job=str(record.job_id or ""),
    )


def _column(column: Mapping[str, str]) -> datasets_pb2.Column:
    content = datasets_pb2.Column.Content.Value(f"CONTENT_{column.get('content') or 'UNSPECIFIED'}")
    return datasets_pb2.Column(name=column["name"], type=column["type"], content=content)


def model(record: records.Model) -> models_pb2.Model:
    """Return the message of a model."""
    return models_pb2.Model(
        name=record.resource,
        uid=record.id,
        repo_id=record.repo_id,
        revision=record.revision,
        commit=record.commit,
        tokenizer_repo_id=record.tokenizer_repo_id,
        tokenizer_commit=record.tokenizer_commit,
        state=models_pb2.Model.State.Value(f"STATE_{record.status}"),
        tokenizer_fingerprint=record.tokenizer_fingerprint,
        chat_template_fingerprint=record.chat_template_fingerprint,
        tokenizer_class=record.tokenizer_class,
        vocab_size=record.vocab_size,
        special_tokens=[
            models_pb2.SpecialToken(role=token["role"], text=token["text"], id=token["id"])
            for token in record.special_tokens
        ],
        architecture=record.architecture,
        d_model=record.d_model,
        n_layers=record.n_layers,
        context_length=record.context_length,
        error_reason=record.error_reason,
        error_message=record.error_message,
        error=failures.to_proto(record.error),
        metadata=record.metadata,
        create_time=_timestamp(record.created_at),
        update_time=_timestamp(record.updated_at),
        etag=record.etag,
        job=str(record.job_id or ""),
    )


def repair(record: records.Repair) -> tokenizations_pb2.Repair:
    """Return the message of a repair."""
    return tokenizations_pb2.Repair(
        state=tokenizations_pb2.Repair.State.Value(f"STATE_{record.status}"),
        progress=record.progress,
        job=str(record.job_id or ""),
        error_reason=record.error_reason,
        error_message=record.error_message,
        error=failures.to_proto(record.error),
        damages=record.outcome.get("damages", []),
        num_remade=record.outcome.get("num_remade", 0),
        changes=record.outcome.get("changes", []),
        checksums_only=record.outcome.get("checksums_only", False) and not record.outcome.get("all", False),
        create_time=_timestamp(record.created_at),
        complete_time=_timestamp(record.completed_at),
    )


def tokenization(
    record: records.Tokenization, storage: Storage, repaired: records.Repair | None = None
) -> tokenizations_pb2.Tokenization:
    """Return the message of a tokenization, with the last repair of its files."""
    return tokenizations_pb2.Tokenization(
        name=record.resource,
        uid=record.id,
        dataset=f"datasets/{record.dataset_name}",
        model=f"models/{record.model_name}",
        variant=record.variant,
        parameters=parameters(record),
        state=tokenizations_pb2.Tokenization.State.Value(f"STATE_{record.status}"),
        progress=record.progress,
        tokenizer_repo_id=record.tokenizer_repo_id,
        tokenizer_fingerprint=record.tokenizer_fingerprint,
        tokenizer_revision=record.tokenizer_revision,
        chat_template_fingerprint=record.chat_template_fingerprint,
        tokenized_path=storage.uri(record.tokenized_path),
        vocab_size=record.vocab_size,
        statistics=statistics(record),
        manifest_digest=record.manifest_digest,
        job=str(record.job_id or ""),
        error_reason=record.error_reason,
        error_message=record.error_message,
        error=failures.to_proto(record.error),
        create_time=_timestamp(record.created_at),
        update_time=_timestamp(record.updated_at),
        start_time=_timestamp(record.started_at),
        complete_time=_timestamp(record.completed_at),
        etag=record.etag,
        shared_from=record.shared_from or "",
        repair=repair(repaired) if repaired else None,
    )


def parameters(record: records.Tokenization) -> tokenizations_pb2.TokenizationParameters:
    """Return the parameters of a tokenization."""
    return json_format.ParseDict(
        dict(record.parameters), tokenizations_pb2.TokenizationParameters(), ignore_unknown_fields=True
    )


def statistics(record: records.Tokenization) -> tokenizations_pb2.TokenizationStatistics | None:
    """Return what is in the files of a tokenization that is READY."""
    if record.status != "READY":
        return None
    found = json_format.ParseDict(
        dict(record.statistics), tokenizations_pb2.TokenizationStatistics(), ignore_unknown_fields=True
    )
    found.num_tokens = record.num_tokens
    found.num_sequences = record.num_sequences
    found.avg_seq_length = record.avg_seq_length
    return found


def _timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    if moment is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
