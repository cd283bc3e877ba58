"""The task `extract.estimate`: a short trial whose files are removed again."""

import resource
import time

import torch
from google.protobuf import duration_pb2

from polytok import errors
from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.activations import models, tokenizations
from services.extractor.worker import extraction, model_cache
from services.extractor.worker.tasks import plan_task
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage

_TRIAL_SECONDS = 3.0
_FIRST_TOKENS = 4096


def estimate(
    task: tasks_pb2.EstimateExtractionTask,
    storage: Storage,
    reader: tokenizations.TokenizationReader,
    loaded: model_cache.ModelCache,
    context: TaskContext,
) -> tasks_pb2.EstimateExtractionResult:
    """Check what a plan checks except the free disk space, then extract some rows twice: to warm up, and to time."""
    order = task.order
    found = plan_task.read_input(order, models.describe(loaded.folder(order)), storage, reader)
    model = loaded.get(order)
    each = plan_task.bytes_per_token(order, found)
    tokens = int(found.lengths.sum())
    ends = found.lengths.cumsum()
    if not tokens:
        raise errors.FailedPrecondition(
            f"{order.tokenization} has no tokens, so there is no speed to measure. Choose another tokenization.",
            reason="SOURCE_EMPTY",
        )

    def trial(wanted: int) -> tuple[extraction.ExtractionResult, int, float]:
        count = min(len(ends), int(ends.searchsorted(wanted)) + 1)
        began = time.perf_counter()
        done = extraction.extract_to(
            model,
            found.table,
            0,
            count,
            model_cache.range_settings(order),
            storage,
            f"{order.extraction_key}/trial-{context.tag}",
            lambda *_: None,
        )
        return done, int(ends[count - 1]), time.perf_counter() - began

    try:
        _, first_tokens, first_seconds = trial(_FIRST_TOKENS)
        # The first run includes one-time costs; the second takes about three seconds, if there is enough to read.
        wanted = int(first_tokens * max(1.0, _TRIAL_SECONDS / first_seconds))
        done, timed_tokens, seconds = trial(min(wanted, max(1, plan_task.free_bytes(storage) // (2 * each)) or wanted))
    finally:
        storage.delete_tree(order.extraction_key)
    rate = timed_tokens / seconds
    return tasks_pb2.EstimateExtractionResult(
        estimate=extractions_pb2.EstimateExtractionResponse(
            num_sequences=len(found.lengths),
            num_tokens=tokens,
            size_bytes=tokens * each,
            free_bytes=plan_task.free_bytes(storage),
            model_bytes=model.description.num_parameters * model.dtype.itemsize,
            peak_memory_bytes=_peak(model.device),
            tokens_per_second=rate,
            duration=duration_pb2.Duration(seconds=max(1, round(tokens / rate))),
            device=str(model.device),
            batch_tokens=done.batch_tokens,
        )
    )


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Kilobytes on Linux (getrusage(2)).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
