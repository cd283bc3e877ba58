"""The stages of a tokenization whose files are made of more than one raw shard each.

Where documents are packed across raw shards, shuffled, or freed of duplicates, a file depends on documents of others:

    encode x raw shards → arrange → [duplicates x shares → arrange] → [measure x files → arrange] → assemble x files

Shards whose engine turned out not to be exact are encoded once more before `arrange` (mismatches.py).

What there is to make files of is written down by `tokenize.arrange`; a payload says only where. Every other
tokenization has one stage, `tokenize.shard` x raw shards. In both cases `tokenize.publish` is the last.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.catalog.server import messages
from services.catalog.server.domain import records
from services.catalog.server.jobs import stage_results
from services.catalog.server.repository.datasets import datasets
from services.jobs import payloads
from services.jobs.model import Job, NewTask, TaskResult
from services.records import publication

ENCODE, ARRANGE, DUPLICATES, MEASURE, ASSEMBLE, SHARD, PUBLISH = (
    f"tokenize.{name}" for name in ("encode", "arrange", "duplicates", "measure", "assemble", "shard", "publish")
)
WORK = {ENCODE: 100, ARRANGE: 1, DUPLICATES: 1, MEASURE: 14, ASSEMBLE: 26, SHARD: 100, PUBLISH: 8}
"""The processor time of each stage for the same text, measured: encoding it is 100."""
_HASHES = 1 << 22
"""Hashes of documents that one task compares: some hundred megabytes."""

_Parameters = tokenizations_pb2.TokenizationParameters


def needs_multi_shard_plan(parameters: _Parameters, num_shards: int) -> bool:
    """Return whether a file depends on documents of more than one raw shard, or on all before them."""
    across = _concatenates(parameters) and num_shards > 1
    return across or parameters.filters.drop_duplicates or parameters.HasField("shuffle_seed")


def work_ahead(parameters: _Parameters, kind: str) -> int:
    """Return the work of the stages after the last one of a kind, as far as it is known, in units of WORK."""
    order = [ENCODE, DUPLICATES, MEASURE, ASSEMBLE]
    left = order[order.index(kind) + 1 :] if kind in order else []
    needed = {
        DUPLICATES: parameters.filters.drop_duplicates,
        MEASURE: _concatenates(parameters)
        and (parameters.filters.drop_duplicates or parameters.HasField("shuffle_seed")),
        ASSEMBLE: True,
    }
    # What a stage gave is arranged before the next.
    return sum(WORK[ARRANGE] + WORK[stage] for stage in left if needed[stage]) + WORK[PUBLISH]


def _concatenates(parameters: _Parameters) -> bool:
    return parameters.HasField("packing") and not parameters.packing.disable_concatenation


def keys(files: Iterable[tasks_pb2.TokenizedFile]) -> list[str]:
    """Return the keys of files and of what was counted in them."""
    return [key for file in files for key in (file.key, file.counts_key) if key]


async def next_tasks(
    conn: AsyncConnection,
    job: Job,
    stage: int,
    results: Sequence[TaskResult],
    tokenization: records.Tokenization,
    tokenizer: tasks_pb2.TokenizerReference,
) -> list[NewTask]:
    """Return the tasks after a stage of `tokenize.encode`, `arrange`, `duplicates` or `measure`."""
    if results[0].kind == ARRANGE:
        (found,) = payloads.from_any(results, stages_pb2.ArrangeResult)
        publication.check_inside(tokenization.tokenized_path, [found.arrangement_key])
        (*_, before) = await stage_results.of_stage(conn, job, stage - 1)
        return await _parallel(conn, found, tokenization, tokenizer, after=before.kind)
    task = stages_pb2.ArrangeTask(
        tokenized_key=tokenization.tokenized_path, parameters=messages.parameters(tokenization)
    )
    if results[0].kind == ENCODE:
        task.documents.extend(each.documents for each in payloads.from_any(results, stages_pb2.EncodeShardResult))
        keys = [key for each in task.documents for key in (each.key, each.hashes_key, each.phases_key) if key]
        publication.check_inside(tokenization.tokenized_path, keys)
        task.dataset_rows = (await datasets.get(conn, str(tokenization.dataset_id))).num_samples
    else:
        (arranged,) = payloads.from_any(await stage_results.of_stage(conn, job, stage - 1), stages_pb2.ArrangeResult)
        task.arrangement_key, task.arrangement_sha256 = arranged.arrangement_key, arranged.arrangement_sha256
        task.MergeFrom(_GIVEN[results[0].kind](results))
    # The arrangement itself is among what the stage before it foresaw.
    ahead = max(1, work_ahead(task.parameters, results[0].kind) - WORK[ARRANGE])
    return [NewTask(kind=ARRANGE, payload=payloads.to_any(task), weight=WORK[ARRANGE], ahead=ahead)]


_GIVEN: Mapping[str, Callable[[Sequence[TaskResult]], stages_pb2.ArrangeTask]] = {
    DUPLICATES: lambda results: stages_pb2.ArrangeTask(
        duplicates=payloads.from_any(results, stages_pb2.FindDuplicatesResult)
    ),
    MEASURE: lambda results: stages_pb2.ArrangeTask(measured=payloads.from_any(results, stages_pb2.MeasureResult)),
}


async def _parallel(
    conn: AsyncConnection,
    found: stages_pb2.ArrangeResult,
    tokenization: records.Tokenization,
    tokenizer: tasks_pb2.TokenizerReference,
    *,
    after: str,
) -> list[NewTask]:
    """Return the tasks for what is not known yet, or those that make the files."""
    parameters = messages.parameters(tokenization)
    kind, count = ASSEMBLE, found.num_files
    # The first thing after what `tokenize.encode` gave was arranged.
    if parameters.filters.drop_duplicates and after == ENCODE:
        dataset = await datasets.get(conn, str(tokenization.dataset_id))
        kind, count = DUPLICATES, -(-dataset.num_samples // _HASHES)
    elif _concatenates(parameters) and not found.is_aligned:
        kind = MEASURE
    shared: dict[str, Any] = {
        "arrangement_key": found.arrangement_key,
        "arrangement_sha256": found.arrangement_sha256,
        "tokenized_key": tokenization.tokenized_path,
        "tokenizer": tokenizer,
        "parameters": parameters,
        "count": count,
    }
    return [
        NewTask(
            kind=kind,
            payload=payloads.to_any(stages_pb2.ArrangedTask(ordinal=place, **shared)),
            ordinal=place,
            weight=WORK[kind],
            ahead=work_ahead(parameters, kind),
        )
        for place in range(count)
    ]


async def collect_counts(conn: AsyncConnection, job: Job) -> list[tokenizations_pb2.TokenizationStatistics]:
    """Return what the stages before the files were made counted, the last time that they were made."""
    encoded = await stage_results.latest_results(conn, job, {ENCODE})
    found = [each.statistics for each in payloads.from_any(encoded, stages_pb2.EncodeShardResult)]
    arranged: list[TaskResult] = []
    for results in await stage_results.every(conn, job):
        if results[0].kind == ENCODE:
            arranged = []
        elif results[0].kind == ARRANGE:
            arranged += results
    return found + [
        tokenizations_pb2.TokenizationStatistics(num_duplicates=each.num_duplicates)
        for each in payloads.from_any(arranged, stages_pb2.ArrangeResult)
    ]
