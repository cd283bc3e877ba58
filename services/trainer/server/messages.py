"""From records to the messages of `polytok.trainer.v1`."""

import posixpath
from datetime import datetime

from google.protobuf import json_format, timestamp_pb2

from polytok.trainer.v1 import metrics_pb2, saes_pb2, tasks_pb2, trainings_pb2
from services.jobs import failures
from services.runtime.storage import Storage
from services.trainer.server import models


def training(record: models.Training, storage: Storage) -> trainings_pb2.Training:
    """Return the message of a training."""
    read, planned = lineage(record), parameters(record)
    samples = record.total_steps * planned.batch_size
    phase = f"PHASE_{record.phase}" if record.phase and record.status == "PROCESSING" else "PHASE_UNSPECIFIED"
    return trainings_pb2.Training(
        name=record.resource,
        uid=str(record.id),
        source=source(record),
        saes=saes(record),
        parameters=planned,
        state=trainings_pb2.Training.State.Value(f"STATE_{record.status}"),
        pause_requested=record.pause_requested,
        progress=record.progress,
        step=record.step,
        total_steps=record.total_steps,
        lineage=read,
        results=_results(record, storage),
        path=storage.uri(record.result_key) if record.result_key else "",
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
        phase=trainings_pb2.Training.Phase.Value(phase),
        phase_progress=record.phase_progress if record.status == "PROCESSING" else 0.0,
        passes=samples / read.available_samples if read.available_samples else 0.0,
    )


def phase(report: tasks_pb2.TrainingReport) -> str:
    """Return what a worker reports that it does, as stored in a row."""
    return trainings_pb2.Training.Phase.Name(report.phase).removeprefix("PHASE_")


def source(record: models.Training) -> trainings_pb2.TrainingSource:
    """Return where a training's activations come from."""
    return json_format.ParseDict(dict(record.source), trainings_pb2.TrainingSource(), ignore_unknown_fields=True)


def saes(record: models.Training) -> list[saes_pb2.Sae]:
    """Return the autoencoders of a training."""
    return [json_format.ParseDict(dict(sae), saes_pb2.Sae(), ignore_unknown_fields=True) for sae in record.saes]


def parameters(record: models.Training) -> trainings_pb2.TrainingParameters:
    """Return the parameters of a training."""
    return json_format.ParseDict(
        dict(record.parameters), trainings_pb2.TrainingParameters(), ignore_unknown_fields=True
    )


def lineage(record: models.Training) -> trainings_pb2.TrainingLineage:
    """Return what a training read."""
    return json_format.ParseDict(dict(record.lineage), trainings_pb2.TrainingLineage(), ignore_unknown_fields=True)


def checkpoint(record: models.Checkpoint, storage: Storage) -> trainings_pb2.Checkpoint:
    """Return the message of a checkpoint."""
    return trainings_pb2.Checkpoint(
        step=record.step,
        size_bytes=record.size_bytes,
        path=storage.uri(record.key),
        create_time=_timestamp(record.created_at),
    )


def metrics(record: models.Measurement) -> metrics_pb2.Metrics:
    """Return the message of a row of metrics."""
    message = metrics_pb2.Metrics(sae=record.sae, step=record.step, samples=record.samples)
    figures = getattr(message, record.kind)
    figures.SetInParent()
    json_format.ParseDict(dict(record.figures), figures, ignore_unknown_fields=True)
    return message


def _results(record: models.Training, storage: Storage) -> list[trainings_pb2.TrainedSae]:
    found = []
    for result in record.results:
        message = json_format.ParseDict(dict(result), trainings_pb2.TrainedSae(), ignore_unknown_fields=True)
        message.path = storage.uri(posixpath.join(record.result_key, message.name))
        found.append(message)
    return found


def _timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    if moment is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
