"""How a training comes to be: what is checked, what is written, and the job that trains."""

import uuid
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.trainer.v1 import trainings_pb2
from services.jobs import failures
from services.jobs.store import JobStore
from services.trainer import config_proto
from services.trainer.sae import configs
from services.trainer.server import (
    jobs,
    messages,
    metrics_repository,
    models,
    resource_names,
    states,
)
from services.trainer.server.inputs import ResolvedInput
from services.trainer.server.repository import trainings


def resolve_columns(request: trainings_pb2.CreateTrainingRequest, source: ResolvedInput) -> dict[str, Any]:
    """Return the row of a training that is asked for, every default filled in. Raises InvalidArgument."""
    planned = config_proto.saes_from_messages(request.saes, source.widths)
    complete = config_proto.plan_from_messages(planned, request.parameters, source.samples)
    source.lineage.available_samples = _available(source, complete)
    row = {
        "source": _document(request.source),
        "saes": [_document(config_proto.sae_to_message(each)) for each in complete.saes],
        "parameters": _document(config_proto.plan_to_message(complete)),
        "lineage": _document(source.lineage),
        "source_key": source.key,
        "vocab_size": source.vocab_size,
        "tokenizer_fingerprint": source.tokenizer_fingerprint,
        "total_steps": complete.total_steps,
    }
    return row | {"name": request.training_id or resource_names.default_id(source.words, row)}


def _available(source: ResolvedInput, complete: configs.TrainingPlan) -> int:
    """Activations of each hook that there are to train on, at most: the share of the sequences that is not held out."""
    held = configs.num_held_out(source.sequences, complete.evaluation_sequences)
    return source.samples * (source.sequences - held) // max(1, source.sequences)


def _document(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document


class TrainingService:
    """Makes trainings, and goes on with them."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def create(self, conn: AsyncConnection, row: dict[str, Any]) -> models.Training:
        """Make a training, or return the one that exists if it is the same."""
        made = await trainings.insert(conn, id=uuid.uuid4(), **row)
        if made is not None:
            return await self.begin(conn, made, from_start=True)
        return await self.existing(conn, row)

    async def existing(self, conn: AsyncConnection, row: dict[str, Any]) -> models.Training:
        """Return the training that exists, if it is the one that is asked for."""
        existing = await trainings.find(conn, row["name"])
        if existing is None:
            raise errors.Unavailable(
                f"{resource_names.format_name(row['name'])} was deleted just now; create it again."
            )
        differing = _differences(existing, row)
        if differing:
            raise errors.AlreadyExists(
                f"{existing.resource} exists with {'; '.join(differing[:5])}. Choose another id, or delete it first.",
                metadata={"resource": existing.resource, "differs": "; ".join(differing)[:1000]},
            )
        return existing

    async def begin(self, conn: AsyncConnection, record: models.Training, *, from_start: bool) -> models.Training:
        """Start the job of a training that the caller has locked: from its last checkpoint, or from the start."""
        if from_start:
            await metrics_repository.clear(conn, record.id, metrics=True)
        known: Sequence[models.Checkpoint] = await metrics_repository.list_checkpoints(conn, record.id)
        checkpoint = known[-1] if known else None
        task = jobs.create_first_task(record, checkpoint)
        job_id = await self._store.create(conn, jobs.KIND, record.resource, [task])
        restarted = {} if checkpoint else {"step": 0, "progress": 0.0, "started_at": None}
        return await trainings.update(
            conn,
            record.id,
            job_id=job_id,
            status=states.TRAINING.first,
            pause_requested=False,
            **failures.NO_ERROR,
            completed_at=None,
            held=True,
            **restarted,
        )


def _differences(existing: models.Training, row: dict[str, Any]) -> list[str]:
    """Return what is otherwise than what exists, for people."""
    # Sources first: other tokens are the reason for other numbers of them.
    differing = _differing("", existing.source, row["source"])
    differing += _differing("parameters.", existing.parameters, row["parameters"])
    if len(existing.saes) != len(row["saes"]):
        differing.append(f"{len(existing.saes)} autoencoders, not {len(row['saes'])}")
    for ours, theirs in zip(existing.saes, row["saes"], strict=False):
        differing += _differing(f"{ours['name']}: ", ours, theirs)
    before, now = messages.lineage(existing), row["lineage"]
    for what in ("tokenization", "extraction"):
        if not differing and getattr(before, f"{what}_digest") != now.get(f"{what}_digest", ""):
            differing.append(f"another {now.get(what)}, which was recreated since")
    return differing


def _differing(prefix: str, ours: Any, theirs: Any) -> list[str]:
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        before, now = ours.get(name), theirs.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differing(f"{prefix}{name}.", before, now)
        elif before != now:
            found.append(f"{prefix}{name} {_shown(before)}, not {_shown(now)}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "set"
    return "unset" if value is None else str(value)
