"""Engines that gave other ids than the reference: all that they made for a job is made again before it is published.

A worker reports a mismatch as soon as it finds one, and encodes its own shard again. Tasks of other shards, in any
process, may have used the engine before that, use it now, or begin with it later, for their payloads were written
before. So nobody is interrupted: when the last shard of the stage is encoded, those that a distrusted engine made are
tasks once more, for the reference, and the stage after it waits for them. What is distrusted is a row for a tokenizer's
content and an engine's version, and is handed to the tasks of every later job.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import any_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.catalog.server.domain import records
from services.catalog.server.jobs import tokenization_stages
from services.catalog.server.repository import distrusted_engines
from services.jobs import payloads
from services.jobs.model import TaskResult

_RESULTS: Mapping[str, Any] = {
    tokenization_stages.SHARD: tasks_pb2.TokenizeShardResult,
    tokenization_stages.ENCODE: stages_pb2.EncodeShardResult,
}
ENCODING = frozenset(_RESULTS)
"""The kinds of tasks in which an engine encodes."""


class MismatchedShards(NamedTuple):
    """Shards that have to be encoded again."""

    engines: Sequence[str]
    """The distrusted engines of the tokenizer, each with its version."""
    ordinals: Collection[int]
    """The places of the shards, at least one."""


async def keep(conn: AsyncConnection, resource: str, reports: Sequence[bytes]) -> None:
    """Keep what tasks of the tokenization `resource` reported; raises InvalidArgument for other messages."""
    for report in reports:
        found = tasks_pb2.EngineMismatch()
        if not any_pb2.Any.FromString(report).Unpack(found):
            raise errors.InvalidArgument(
                "A tokenizer worker reports something else than a mismatch of engines; worker and catalog are of "
                "different versions, upgrade the older one.",
                reason="MESSAGE_INVALID",
            )
        await distrusted_engines.distrust(conn, found, resource)


async def is_suspect(conn: AsyncConnection, record: records.Tokenization) -> bool:
    """Return whether an engine made files of a tokenization that turned out not to be exact."""
    distrusted = await distrusted_engines.distrusted(conn, record.tokenizer_fingerprint)
    return not set(distrusted).isdisjoint(record.statistics.get("engine_versions", ()))


async def find(conn: AsyncConnection, fingerprint: str, results: Sequence[TaskResult]) -> MismatchedShards | None:
    """Find the shards, of all that were encoded, that an engine made which is not exact for the tokenizer."""
    encoded: list[Any] = payloads.from_any(results, _RESULTS[results[0].kind])
    distrusted = set(await distrusted_engines.distrusted(conn, fingerprint))
    distrusted.update(engine for each in encoded for engine in each.statistics.distrusted_engines)
    ordinals = {
        result.ordinal
        for result, each in zip(results, encoded, strict=True)
        if distrusted.intersection(each.statistics.engine_versions)
    }
    return MismatchedShards(sorted(distrusted), ordinals) if ordinals else None
