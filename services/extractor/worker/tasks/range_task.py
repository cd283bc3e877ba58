"""The task `extract.range`: the activations of one range of rows, and their statistics."""

from polytok.extractor.v1 import tasks_pb2
from services.activations import tokenizations
from services.activations.statistics import ActivationStatistics
from services.extractor.worker import extraction, model_cache
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage


def extract(
    task: tasks_pb2.ExtractRangeTask,
    storage: Storage,
    reader: tokenizations.TokenizationReader,
    loaded: model_cache.ModelCache,
    context: TaskContext,
) -> tasks_pb2.ExtractRangeResult:
    """Write the files of the range under names of this attempt."""
    order, rows = task.order, task.range
    manifest = tokenizations.read_manifest(storage, order.tokenization, order.tokenization_key, order.manifest_digest)
    table = reader.open(manifest, rows.first_row, rows.num_rows)
    prefix = f"{order.extraction_key}/activations-{task.ordinal:05d}-of-{task.count:05d}-{context.tag}"
    found = extraction.extract_to(
        loaded.get(order),
        table,
        rows.first_row,
        rows.num_rows,
        model_cache.range_settings(order),
        storage,
        prefix,
        context.report,
    )
    files = [
        tasks_pb2.ActivationFile(
            key=file.key,
            num_rows=file.num_rows,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            block_digests=file.block_digests,
        )
        for file in found.files
    ]
    key = f"{prefix}.statistics"
    return tasks_pb2.ExtractRangeResult(
        files=files,
        statistics=tasks_pb2.StatisticsFile(key=key, sha256=storage.write_bytes(key, _packed(found.statistics))),
        num_tokens=found.tokens,
        num_sequences=found.sequences,
        num_left_over=found.left_over,
    )


def _packed(statistics: dict[str, ActivationStatistics]) -> bytes:
    states = [tasks_pb2.HookState(hook=hook, state=each.to_bytes()) for hook, each in statistics.items()]
    return tasks_pb2.RangeStatistics(hooks=states).SerializeToString()
