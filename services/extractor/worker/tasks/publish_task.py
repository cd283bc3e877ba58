"""The task `extract.publish`: check the files, merge the statistics, stage the folder's small files.

They are staged under names of this attempt. The extractor's server renames them in the transaction that makes the
extraction READY; until then `datasets.load_from_disk` finds nothing to open.
"""

import math
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format
from safetensors.numpy import save

from polytok import errors, manifests
from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.activations.statistics import ActivationStatistics
from services.extractor.worker import arrow_columns, file_writer, model_cache
from services.jobs.task_process_main import TaskContext
from services.records import publication
from services.runtime.storage import Storage, verification

_VECTORS = "statistics.safetensors"
_BLOCKS = "blocks.safetensors"
_ADVICE = "Retry the extraction."


def publish(
    task: tasks_pb2.PublishExtractionTask, storage: Storage, context: TaskContext
) -> tasks_pb2.PublishExtractionResult:
    """Check and merge the results of the ranges."""
    order = task.order
    files = [file for each in task.ranges for file in each.files]
    _check_not_empty(order, files)
    verification.verify(storage, files, _ADVICE, context.report)
    gathered = _merged(order, task.ranges, storage)
    merged = _statistics(task.ranges, files, gathered)
    vectors = save(
        {
            f"{hook}.{name}": array
            for hook, each in gathered.items()
            for name, array in (("mean", each.mean), ("variance", each.variance), ("min", each.low), ("max", each.high))
        }
    )
    digests = save({posixpath.basename(file.key): np.frombuffer(file.block_digests, "<u8") for file in files})
    encoded = manifests.encode(_manifest(order, files, merged, gathered, {_VECTORS: vectors, _BLOCKS: digests}))
    digest = manifests.digest(encoded)
    widths = {hook: each.width for hook, each in gathered.items()}
    features = arrow_columns.features(
        widths, order.parameters.context_size, model_cache.number_format(order.parameters.storage_format)
    )
    contents = {
        _VECTORS: vectors,
        _BLOCKS: digests,
        manifests.NAME: encoded,
        **manifests.sidecars(features.to_dict(), (posixpath.basename(file.key) for file in files), digest),
    }
    staged = [
        publication.stage(storage, order.extraction_key, name, data, context.tag) for name, data in contents.items()
    ]
    return tasks_pb2.PublishExtractionResult(statistics=merged, manifest_digest=digest, staged_files=staged)


def _check_not_empty(order: tasks_pb2.ExtractionOrder, files: Sequence[tasks_pb2.ActivationFile]) -> None:
    if files:
        return
    raise errors.FailedPrecondition(
        f"{order.tokenization} has too few tokens to fill a single row of {order.parameters.context_size}. "
        "Choose a smaller context size, or exclude fewer tokens.",
        reason="SOURCE_EMPTY",
    )


def _merged(
    order: tasks_pb2.ExtractionOrder, ranges: Sequence[tasks_pb2.ExtractRangeResult], storage: Storage
) -> dict[str, ActivationStatistics]:
    """Return hook → statistics over all ranges, in the order of the parameters."""
    found: dict[str, ActivationStatistics] = {}
    for each in ranges:
        data = storage.read_checked(each.statistics.key, each.statistics.sha256, _ADVICE)
        packed = tasks_pb2.RangeStatistics.FromString(data)
        for hook in packed.hooks:
            statistics = ActivationStatistics.from_bytes(hook.state)
            if hook.hook in found:
                found[hook.hook].merge(statistics)
            else:
                found[hook.hook] = statistics
    return {hook: found[hook] for hook in order.parameters.hooks if hook in found}


def _statistics(
    ranges: Sequence[tasks_pb2.ExtractRangeResult],
    files: Sequence[tasks_pb2.ActivationFile],
    gathered: Mapping[str, ActivationStatistics],
) -> extractions_pb2.ExtractionStatistics:
    return extractions_pb2.ExtractionStatistics(
        num_tokens=sum(each.num_tokens for each in ranges),
        num_sequences=sum(each.num_sequences for each in ranges),
        num_left_over=sum(each.num_left_over for each in ranges),
        num_rows=sum(file.num_rows for file in files),
        num_files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        hooks=[_of_hook(hook, each) for hook, each in gathered.items()],
    )


def _of_hook(hook: str, each: ActivationStatistics) -> extractions_pb2.HookStatistics:
    summary = each.summary()
    return extractions_pb2.HookStatistics(
        hook=hook,
        width=each.width,
        num_tokens=each.count,
        mean=float(each.mean.mean()),
        variance=summary["variance_mean"],
        kurtosis=math.nan if summary["kurtosis_mean"] is None else summary["kurtosis_mean"],
        min=summary["min"],
        max=summary["max"],
        mean_norm=summary["norm_mean"],
        num_dead_dimensions=len(summary["dead_dimensions"]),
        num_outlier_dimensions=len(summary["outlier_dimensions"]),
        num_nonfinite=each.nan + each.infinite,
    )


def _manifest(
    order: tasks_pb2.ExtractionOrder,
    files: Sequence[tasks_pb2.ActivationFile],
    merged: extractions_pb2.ExtractionStatistics,
    gathered: Mapping[str, ActivationStatistics],
    beside: Mapping[str, bytes],
) -> dict[str, Any]:
    left_out = {"mean_vector", "variance_vector"}
    counted = (field for field in merged.DESCRIPTOR.fields if field.name not in {"hooks", "seconds"})
    return {
        "name": order.name,
        "tokenization": {"name": order.tokenization, "manifest_digest": order.manifest_digest},
        "model": {
            "name": order.model,
            "repo_id": order.model_repo_id,
            "revision": order.model_revision,
            "weights_fingerprint": order.weights_fingerprint,
        },
        "parameters": json_format.MessageToDict(order.parameters, preserving_proto_field_name=True),
        "excluded_token_ids": list(order.excluded_token_ids),
        # Numbers as numbers: canonical JSON would write a 64-bit integer as a string.
        "statistics": {field.name: getattr(merged, field.name) for field in counted},
        "hooks": {
            hook: {name: value for name, value in each.summary().items() if name not in left_out}
            for hook, each in gathered.items()
        },
        "vectors": _named(_VECTORS, beside),
        "blocks": _named(_BLOCKS, beside) | {"block_bytes": file_writer.BLOCK_BYTES, "digest": "xxh3_64"},
        "files": [manifests.describe_file(file, order.extraction_key) for file in files],
        "versions": manifests.versions("polytok", "torch", "transformers"),
    }


def _named(name: str, beside: Mapping[str, bytes]) -> dict[str, Any]:
    return {"name": name, "sha256": manifests.digest(beside[name])}
