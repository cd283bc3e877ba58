"""Rows of what trainings find on the way: metrics and checkpoints."""

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.trainer.v1 import metrics_pb2, tasks_pb2
from services.trainer.server import models, tables

_metrics = tables.metrics
_checkpoints = tables.checkpoints
_COLUMNS = tuple(_metrics.c[name] for name in ("sae", "step", "kind", "samples", "figures", "seq"))


class MetricsCursor(NamedTuple):
    """Where a row stands in the order of a training's metrics."""

    step: int
    sae: str
    kind: str


async def delete_after(conn: AsyncConnection, uid: uuid.UUID, attempt: str, step: int) -> None:
    """Drop what earlier attempts found after the step that this one begins at."""
    stale = _metrics.delete().where(_metrics.c.training_id == uid, _metrics.c.attempt != attempt)
    await conn.execute(stale.where(_metrics.c.step > step))
    await conn.execute(_checkpoints.delete().where(_checkpoints.c.training_id == uid, _checkpoints.c.step > step))


async def clear(conn: AsyncConnection, uid: uuid.UUID, *, metrics: bool = False) -> None:
    """Drop the rows of a training's checkpoints, and its metrics if asked to."""
    await conn.execute(_checkpoints.delete().where(_checkpoints.c.training_id == uid))
    if metrics:
        await conn.execute(_metrics.delete().where(_metrics.c.training_id == uid))


async def add_metrics(conn: AsyncConnection, uid: uuid.UUID, attempt: str, found: Sequence[metrics_pb2.Metrics]) -> int:
    """Write rows, in place of those of the same step; return the highest seq."""
    if not found:
        return 0
    rows = {MetricsCursor(each.step, each.sae, str(each.WhichOneof("figures"))): each for each in found}
    values = [
        {
            "training_id": uid,
            "sae": place.sae,
            "step": place.step,
            "kind": place.kind,
            "attempt": attempt,
            "samples": each.samples,
            "figures": json_format.MessageToDict(getattr(each, place.kind), preserving_proto_field_name=True),
        }
        for place, each in rows.items()
    ]
    insert = upsert(_metrics).values(values)
    changed: dict[str, Any] = {name: insert.excluded[name] for name in ("attempt", "samples", "figures")}
    # A row that is replaced comes again to those who watch.
    changed["seq"] = sa.text("DEFAULT")
    statement = insert.on_conflict_do_update(constraint=_metrics.primary_key, set_=changed).returning(_metrics.c.seq)
    return int(max((await conn.execute(statement)).scalars()))


async def add_checkpoint(conn: AsyncConnection, uid: uuid.UUID, checkpoint: tasks_pb2.ResumePoint) -> None:
    """Record a checkpoint."""
    insert = upsert(_checkpoints).values(
        training_id=uid, step=checkpoint.step, key=checkpoint.key, size_bytes=checkpoint.size_bytes
    )
    changed = {name: insert.excluded[name] for name in ("key", "size_bytes", "created_at")}
    await conn.execute(insert.on_conflict_do_update(constraint=_checkpoints.primary_key, set_=changed))


async def keep_checkpoints(conn: AsyncConnection, uid: uuid.UUID, steps: Sequence[int]) -> None:
    """Forget all other checkpoints."""
    others = _checkpoints.delete().where(_checkpoints.c.training_id == uid, _checkpoints.c.step.not_in(list(steps)))
    await conn.execute(others)


async def list_checkpoints(conn: AsyncConnection, uid: uuid.UUID) -> list[models.Checkpoint]:
    """Read the checkpoints of a training, oldest first."""
    columns = (_checkpoints.c.step, _checkpoints.c.key, _checkpoints.c.size_bytes, _checkpoints.c.created_at)
    statement = sa.select(*columns).where(_checkpoints.c.training_id == uid).order_by(_checkpoints.c.step)
    return [models.Checkpoint(*row) for row in await conn.execute(statement)]


async def list_since(conn: AsyncConnection, uid: uuid.UUID, seq: int, limit: int) -> list[models.Measurement]:
    """Read metrics that were written after `seq`, in that order."""
    statement = sa.select(*_COLUMNS).where(_metrics.c.training_id == uid, _metrics.c.seq > seq)
    return _measured(await conn.execute(statement.order_by(_metrics.c.seq).limit(limit)))


async def page(
    conn: AsyncConnection, uid: uuid.UUID, *, sae: str, after_step: int, after: MetricsCursor | None, limit: int
) -> list[models.Measurement]:
    """Read metrics by step."""
    place = sa.tuple_(_metrics.c.step, _metrics.c.sae, _metrics.c.kind)
    statement = sa.select(*_COLUMNS).where(_metrics.c.training_id == uid, _metrics.c.step > after_step)
    if sae:
        statement = statement.where(_metrics.c.sae == sae)
    if after is not None:
        statement = statement.where(place > sa.tuple_(*(sa.literal(value) for value in after)))
    return _measured(await conn.execute(statement.order_by(*place).limit(limit)))


def _measured(rows: sa.CursorResult[Any]) -> list[models.Measurement]:
    return [models.Measurement(**row._mapping) for row in rows]  # noqa: SLF001  SQLAlchemy's public name for it
