"""The worker's tasks: what they find wrong, what a user reads of it, and what they make."""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import struct

import datasets
import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch._inductor import config as inductor

from polytok import errors
from services.activations import models
from services.extractor.worker.tasks import estimate_task
from tests.extractor import worker_harness
from tests.extractor.worker_harness import ROWS, WorkerHarness
from tests.support import messages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a workplace's folder, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    worker_harness.create_worker_harness(folder)
    return folder


@pytest.fixture
def place(made: pathlib.Path, tmp_path: pathlib.Path) -> WorkerHarness:
    """Return a workplace of the test's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return worker_harness.create_worker_harness(tmp_path)


def _flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_ranges_together_are_what_one_range_gives(place: WorkerHarness) -> None:
    order = place.order(hooks=["blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"])
    whole = place.extract(order, place.plan(order))
    (one,) = whole
    expected = _rows(place, order, whole)
    plan = place.plan(order, range_bytes=one.files[0].size_bytes // 3)
    assert len(plan.ranges) == 3
    assert [each.first_row for each in plan.ranges] == [0, *np.cumsum([each.num_rows for each in plan.ranges])[:-1]]
    assert sum(each.num_rows for each in plan.ranges) == ROWS
    found = _rows(place, order, place.extract(order, plan))
    assert found.num_rows == expected.num_rows == ROWS
    for column in ("row_index", "position", "token_ids"):
        assert found[column] == expected[column]
    for hook in order.parameters.hooks:
        np.testing.assert_allclose(found.with_format("numpy")[hook], expected.with_format("numpy")[hook], atol=1e-5)


def _rows(place, order, ranges):
    published = place.publish(order, ranges)
    folder = place.storage.uri(order.extraction_key)
    manifest = json.loads(place.storage.read_bytes(f"{order.extraction_key}/polytok.json"))
    assert manifest["statistics"]["num_tokens"] == published.statistics.num_tokens == ROWS * 8
    assert manifest["tokenization"] == {"name": worker_harness.NAME, "manifest_digest": place.digest}
    assert [hook.hook for hook in published.statistics.hooks] == list(order.parameters.hooks)
    vectors = load(place.storage.read_bytes(f"{order.extraction_key}/statistics.safetensors"))
    rows = datasets.load_from_disk(folder)
    for hook in published.statistics.hooks:
        values = np.array(rows.with_format("numpy")[hook.hook], np.float64).reshape(-1, hook.width)
        np.testing.assert_allclose(vectors[f"{hook.hook}.mean"], values.mean(0), atol=1e-6)
        assert hook.variance == pytest.approx(values.var(0).mean())
        assert hook.mean_norm == pytest.approx(np.linalg.norm(values, axis=1).mean())
        assert (hook.min, hook.max) == (values.min(), values.max())
    return rows


def test_limits_take_the_first_whole_sequences(place: WorkerHarness) -> None:
    assert sum(each.num_rows for each in place.plan(place.order(max_tokens=50)).ranges) == 6
    assert sum(each.num_rows for each in place.plan(place.order(max_tokens=1)).ranges) == 1
    assert sum(each.num_rows for each in place.plan(place.order(max_sequences=7)).ranges) == 7


def test_padding_is_counted_and_stored_nowhere(tmp_path: pathlib.Path) -> None:
    place = worker_harness.create_worker_harness(tmp_path, padding=12)
    order = place.order(context_size=10)
    lengths = [min(16 - min(row, 12), 10) for row in range(ROWS)]
    plan = place.plan(order)
    assert sum(each.num_tokens for each in plan.ranges) == sum(lengths)
    place.publish(order, place.extract(order, plan))
    rows = datasets.load_from_disk(place.storage.uri(order.extraction_key))
    found = np.bincount(np.array(rows["row_index"][:]).ravel(), minlength=ROWS)
    # What is left over at the end fills no row.
    assert found[:-3].tolist() == lengths[:-3]
    assert place.plan(place.order(context_size=10, max_tokens=25)).ranges[0].num_rows == 2


@pytest.mark.parametrize(
    ("parameters", "reason", "names"),
    [
        (
            {"hooks": ["blocks.1.hook_nope"]},
            "HOOK_NOT_FOUND",
            ["blocks.1.hook_nope", "gpt2", "'hook_nope'", "attn.hook_z"],
        ),
        ({"hooks": ["blocks.7.hook_mlp_out"]}, "HOOK_NOT_FOUND", ["blocks.7.hook_mlp_out", "gpt2", 0, 2]),
        ({"context_size": 65}, "MODEL_MISFIT", ["models/gpt2", 64, 65]),
    ],
)
def test_invalid_parameters(place: WorkerHarness, parameters, reason: str, names: list[object]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        place.plan(place.order(**parameters))
    assert caught.value.reason == reason
    messages.check_names(caught.value.message, *names)


def test_ids_beyond_the_embedding_are_refused(tmp_path: pathlib.Path) -> None:
    place = worker_harness.create_worker_harness(tmp_path, largest=120)
    with pytest.raises(errors.FailedPrecondition) as caught:
        place.plan(place.order())
    assert caught.value.reason == "MODEL_MISFIT"
    assert caught.value.metadata == {"largest_id": "120", "embedding_rows": "97"}
    messages.check_names(caught.value.message, worker_harness.NAME, 120, "models/gpt2", 97, "`polytok model add`")


def test_a_flipped_bit_names_the_file(place: WorkerHarness) -> None:
    path = place.storage.local_path(place.files[1])
    assert path is not None
    _flip(path)
    with pytest.raises(errors.DataLoss) as caught:
        place.plan(place.order())
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    messages.check_names(caught.value.metadata["file"], "shard-00001.arrow")
    names = "shard-00001.arrow", worker_harness.NAME, "`polytok tokenization repair docs gpt2`"
    messages.check_names(caught.value.message, *names)
    # What lies elsewhere is read nevertheless.
    place.plan(place.order(max_sequences=ROWS // 2))


def test_a_changed_or_deleted_tokenization(place: WorkerHarness) -> None:
    order = place.order()
    order.manifest_digest = "0" * 64
    with pytest.raises(errors.FailedPrecondition) as caught:
        place.plan(order)
    assert caught.value.reason == "RESOURCE_CHANGED"
    assert caught.value.metadata == {"resource": worker_harness.NAME}
    changed = caught.value.message
    place.storage.delete_tree(worker_harness.KEY)
    with pytest.raises(errors.FailedPrecondition) as caught:
        place.plan(place.order())
    assert caught.value.reason == "RESOURCE_CHANGED"
    assert caught.value.metadata == {"resource": worker_harness.NAME}
    for message in (changed, caught.value.message):
        messages.check_names(message, worker_harness.NAME, "`polytok tokenize docs --model gpt2`")
    assert "deleted" in caught.value.message
    assert "deleted" not in changed


def test_a_folder_without_weights(place: WorkerHarness) -> None:
    for path in place.model.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(errors.FailedPrecondition) as caught:
        place.plan(place.order())
    assert caught.value.reason == "MODEL_INVALID"
    messages.check_names(caught.value.message, place.model, "safetensors")


def test_a_model_that_does_not_fit(place: WorkerHarness) -> None:
    (weights,) = place.model.glob("*.safetensors")
    numbers = 1 << 40
    # The header of safetensors, and behind it a hole: four tebibytes that no disk has to hold.
    header = json.dumps({"wte": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}).encode()
    weights.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(weights, 8 + len(header) + 4 * numbers)
    with pytest.raises(errors.ResourceExhausted) as caught:
        place.plan(place.order())
    assert caught.value.reason == "MODEL_INVALID"
    messages.check_names(caught.value.message, place.model, "1,099,511,627,776", "4096.0 GiB", "float32", "memory")


def test_planning_refuses_a_disk_without_room(place: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(errors.ResourceExhausted) as caught:
        place.plan(place.order())
    assert caught.value.reason == "DISK_FULL"
    assert caught.value.metadata["free_bytes"] == "1000"
    assert int(caught.value.metadata["needed_bytes"]) == pytest.approx(46.2 * 1024, rel=0.01)
    messages.check_names(caught.value.message, "extractions/mine", "46.2 KiB", "1000 bytes", "max_tokens")
    assert place.storage.list("extractions") == []


def test_nan_fails_or_is_counted(place: WorkerHarness) -> None:
    model = models.load(place.model)
    with torch.no_grad():
        model.module.transformer.wpe.weight[3, 0] = float("nan")
    model.module.save_pretrained(place.model)
    order = place.order(hooks=["blocks.0.hook_resid_pre"])
    with pytest.raises(errors.FailedPrecondition) as caught:
        place.extract(order, place.plan(order))
    assert caught.value.reason == "NOT_FINITE"
    assert caught.value.metadata == {"hook": "blocks.0.hook_resid_pre", "row": "0", "position": "3"}
    messages.check_names(caught.value.message, "row 0", "position 3")
    kept = place.order(hooks=["blocks.0.hook_resid_pre"], nonfinite=2)
    published = place.publish(kept, place.extract(kept, place.plan(kept)))
    assert published.statistics.hooks[0].num_nonfinite == ROWS


def test_a_file_that_changed_before_publication(place: WorkerHarness) -> None:
    order = place.order()
    ranges = place.extract(order, place.plan(order))
    path = place.storage.local_path(ranges[0].files[0].key)
    assert path is not None
    _flip(path)
    with pytest.raises(errors.DataLoss) as caught:
        place.publish(order, ranges)
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    assert caught.value.metadata == {"file": ranges[0].files[0].key}
    messages.check_names(caught.value.message, ranges[0].files[0].key)


def test_too_few_tokens_for_a_row(place: WorkerHarness) -> None:
    order = place.order(context_size=16, max_sequences=1)
    order.excluded_token_ids.extend(range(0, 97, 2))
    with pytest.raises(errors.FailedPrecondition) as caught:
        place.publish(order, place.extract(order, place.plan(order)))
    assert caught.value.reason == "SOURCE_EMPTY"
    messages.check_names(caught.value.message, 16)


def test_tokens_and_places_are_left_out(place: WorkerHarness) -> None:
    order = place.order(excluded_positions=[0, 5])
    order.excluded_token_ids.extend(range(0, 97, 2))
    place.publish(order, place.extract(order, place.plan(order)))
    rows = datasets.load_from_disk(place.storage.uri(order.extraction_key))
    positions, ids = np.array(rows["position"][:]), np.array(rows["token_ids"][:])
    assert set(positions.ravel()) == {1, 2, 3, 4, 6, 7}
    assert (ids % 2 == 1).all()


def test_a_full_disk_leaves_no_files(place: WorkerHarness) -> None:
    order = place.order(storage_format=1)
    plan = place.plan(order)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that may not grow fails as one on a full disk does, one error number apart.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(errors.ResourceExhausted) as caught:
            place.extract(order, plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.reason == "DISK_FULL"
    messages.check_names(caught.value.message, pathlib.Path(place.storage.uri("extractions")).parent)
    assert place.storage.list("extractions") == []


def test_a_trial_leaves_nothing_behind(place: WorkerHarness) -> None:
    from polytok.extractor.v1 import tasks_pb2

    order = place.order()
    order.extraction_key = "estimates/trial"
    task = tasks_pb2.EstimateExtractionTask(order=order)
    found = estimate_task.estimate(task, place.storage, place.reader, place.loaded, worker_harness.context()).estimate
    assert (found.num_sequences, found.num_tokens, found.device) == (ROWS, ROWS * 8, "cpu")
    assert found.size_bytes == place.plan(place.order()).size_bytes
    assert found.tokens_per_second > 0
    assert found.peak_memory_bytes > found.model_bytes > 0
    assert place.storage.list("estimates") == []


def test_another_model_replaces_the_loaded_one(place: WorkerHarness, tmp_path: pathlib.Path) -> None:
    first = place.loaded.get(place.order())
    assert place.loaded.get(place.order()) is first
    assert place.loaded.get(place.order(compute_format=3)).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiling_needs_a_compiler(place: WorkerHarness) -> None:
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(errors.FailedPrecondition) as caught,
    ):
        place.plan(place.order(compile=True))
    assert (caught.value.reason, caught.value.retryable) == ("MODEL_INVALID", False)
    messages.check_names(caught.value.message, "compile", "g++", "CXX")
    assert not place.storage.list("extractions")


def test_weights_changed_since_the_plan(place: WorkerHarness) -> None:
    order = place.order()
    plan = place.plan(order)
    order.weights_fingerprint = plan.weights_fingerprint
    ranges = place.extract(order, plan)
    place.publish(order, ranges)
    manifest = json.loads(place.storage.read_bytes(f"{order.extraction_key}/polytok.json"))
    assert manifest["model"]["weights_fingerprint"] == plan.weights_fingerprint != ""
    weights = place.model / "model.safetensors"
    stat = weights.stat()
    _flip(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    # Refused whether the worker has the old ones loaded or not.
    for _ in range(2):
        with pytest.raises(errors.FailedPrecondition) as caught:
            place.extract(order, plan)
        assert (caught.value.reason, caught.value.retryable) == ("MODEL_INVALID", False)
        assert caught.value.metadata["expected"] == plan.weights_fingerprint != caught.value.metadata["found"]
        messages.check_names(caught.value.message, "extractions/mine", plan.weights_fingerprint[:12])
        place = dataclasses.replace(place)
    assert place.plan(place.order()).weights_fingerprint != plan.weights_fingerprint
