"""The task `tokenize.arrange`: record what the files are made from, after every stage that contributes."""

from collections.abc import Sequence

import numpy as np

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage
from services.tokenizer.files import arrangement, staging
from services.tokenizer.sequences import packing_offsets
from services.tokenizer.worker.tasks import duplicates_task


def arrange(task: stages_pb2.ArrangeTask, storage: Storage, context: TaskContext) -> stages_pb2.ArrangeResult:
    """Add the results of the last stage."""
    if task.arrangement_key:
        made = arrangement.read(storage, task)
        measured = [staging.Staged(each.phases_key, each.phases_sha256) for each in task.measured]
    else:
        bounds = _bounds(task.documents, task.parameters, task.dataset_rows)
        made = stages_pb2.Arrangement(documents=task.documents, dataset_rows=task.dataset_rows, bounds=bounds)
        measured = [staging.Staged(each.phases_key, each.phases_sha256) for each in task.documents]
    folder, num_files = task.tokenized_key, len(made.bounds) - 1
    result = stages_pb2.ArrangeResult(num_files=num_files)
    if found := [staging.Staged(each.rows_key, each.rows_sha256) for each in task.duplicates if each.rows_key]:
        bits = duplicates_task.build_duplicate_bits(storage, found, made.dataset_rows)
        key = staging.key(folder, "bits", 0, 1, context.tag)
        made.duplicates_key, made.duplicates_sha256 = staging.write(storage, key, bits)
        result.num_duplicates = int(np.bitwise_count(bits).sum())
    if packing_offsets.are_needed(task.parameters) and not made.phases:
        made.phases.extend(_phases(storage, measured, num_files))
    result.is_aligned = len(made.phases) == num_files
    result.arrangement_key = staging.key(folder, "arrangement", 0, 1, context.tag)
    result.arrangement_sha256 = storage.write_bytes(result.arrangement_key, made.SerializeToString())
    return result


def _bounds(
    documents: Sequence[stages_pb2.StagedDocuments],
    parameters: tokenizations_pb2.TokenizationParameters,
    dataset_rows: int,
) -> list[int]:
    """Return where files begin: one file per raw shard, or as many of equal size when shuffled."""
    if not parameters.HasField("shuffle_seed"):
        return [*(each.first_row for each in documents), documents[-1].first_row + documents[-1].num_rows]
    taken = min(parameters.max_documents, dataset_rows) if parameters.HasField("max_documents") else dataset_rows
    count = max(1, -(-len(documents) * taken // dataset_rows))
    return [place * taken // count for place in range(count + 1)]


def _phases(storage: Storage, measured: Sequence[staging.Staged], num_files: int) -> list[int]:
    if num_files == 1:
        return [0]
    if not all(each.key for each in measured) or len(measured) != num_files:
        return []
    return packing_offsets.resolve_offsets(staging.read(storage, each, np.int32) for each in measured)
