"""From records to the messages of `polytok.extractor.v1`."""

from datetime import datetime

from google.protobuf import json_format, timestamp_pb2

from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.extractor.server.models import Extraction
from services.jobs import failures
from services.runtime.storage import Storage


def extraction(record: Extraction, storage: Storage) -> extractions_pb2.Extraction:
    """Return the message of an extraction."""
    return extractions_pb2.Extraction(
        name=record.resource,
        uid=str(record.id),
        dataset=record.dataset,
        model=record.model,
        variant=record.variant,
        tokenization=record.tokenization,
        tokenization_uid=record.tokenization_uid,
        tokenization_manifest_digest=record.tokenization_digest,
        tokenizer_fingerprint=record.tokenizer_fingerprint,
        model_repo_id=record.model_repo_id,
        model_revision=record.model_revision,
        weights_fingerprint=record.weights_fingerprint,
        code_version=record.code_version,
        parameters=parameters(record),
        state=extractions_pb2.Extraction.State.Value(f"STATE_{record.status}"),
        progress=record.progress,
        path=storage.uri(record.path),
        statistics=_statistics(record),
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
        expected_tokens=record.expected_tokens,
        selection=_selection(record),
    )


def parameters(record: Extraction) -> extractions_pb2.ExtractionParameters:
    """Return the parameters of an extraction."""
    return json_format.ParseDict(
        dict(record.parameters), extractions_pb2.ExtractionParameters(), ignore_unknown_fields=True
    )


def _selection(record: Extraction) -> extractions_pb2.TokenSelection:
    asked = parameters(record)
    return extractions_pb2.TokenSelection(
        context_size=asked.context_size,
        excluded_token_ids=record.excluded_token_ids,
        excluded_positions=asked.excluded_positions,
    )


def order(record: Extraction) -> tasks_pb2.ExtractionOrder:
    """Return what every task of an extraction receives."""
    return tasks_pb2.ExtractionOrder(
        name=record.resource,
        tokenization=record.tokenization,
        tokenization_key=record.tokenization_key,
        manifest_digest=record.tokenization_digest,
        model=record.model,
        model_repo_id=record.model_repo_id,
        model_revision=record.model_revision,
        weights_fingerprint=record.weights_fingerprint,
        parameters=parameters(record),
        excluded_token_ids=record.excluded_token_ids,
        extraction_key=record.path,
    )


def _statistics(record: Extraction) -> extractions_pb2.ExtractionStatistics | None:
    if record.status != "READY":
        return None
    return json_format.ParseDict(
        dict(record.statistics), extractions_pb2.ExtractionStatistics(), ignore_unknown_fields=True
    )


def _timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    if moment is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
