"""What a GPU gives is what a CPU gives, on whichever streams it came."""

import contextlib
import pathlib
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from services.activations import activation_stream, device_transfer
from services.activations.statistics import ActivationStatistics
from services.extractor.worker import extraction
from tests.activations import tiny_models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
HOOKS = ("blocks.0.hook_resid_post", "blocks.2.mlp.hook_post")
ROWS = tiny_models.rows(200, 40)


def _settings(batch_tokens: int = 256) -> activation_stream.StreamSettings:
    return activation_stream.StreamSettings(hooks=HOOKS, batch_tokens=batch_tokens)


def _nothing(*_: object) -> None:
    pass


def _all(pieces: Any, device: str, look: device_transfer.Look) -> dict[str, torch.Tensor]:
    arrivals = device_transfer.DeviceTransfer(torch.device(device), torch.float32)
    with contextlib.closing(pieces):
        taken = [arrivals.take(piece, look) for piece in pieces]
    return {name: torch.cat([values[name] for values in taken]) for name in HOOKS}


def test_same_as_on_the_cpu(tmp_path: pathlib.Path) -> None:
    found: dict[str, dict[str, torch.Tensor]] = {}
    counted: dict[str, dict[str, ActivationStatistics]] = {"cpu": {}, "cuda": {}}
    for device, seen in counted.items():
        model = tiny_models.load("llama", tmp_path, device=device)

        def look(name: str, value: torch.Tensor, seen: dict[str, ActivationStatistics] = seen) -> None:
            assert value.device.type == device  # noqa: B023  it is called within the loop
            seen.setdefault(name, ActivationStatistics(value.shape[1])).add(value)

        stream = activation_stream.ActivationStream(model, tiny_models.dataset(ROWS), _settings())
        found[device] = _all(stream.pieces(), device, look)
    for name in HOOKS:
        torch.testing.assert_close(found["cuda"][name], found["cpu"][name], rtol=1e-3, atol=1e-3)
        ours, theirs = (counted[device][name] for device in ("cuda", "cpu"))
        torch.testing.assert_close(torch.from_numpy(ours.mean), torch.from_numpy(theirs.mean), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_arrives_is_what_was_made(tmp_path: pathlib.Path, dtype: str) -> None:
    """Bit for bit what is there once everything has been waited for, though nobody waits for anything else."""
    model = tiny_models.load("llama", tmp_path, device="cuda", dtype=dtype)
    dataset = tiny_models.dataset(ROWS)
    expected = []
    for piece in activation_stream.ActivationStream(model, dataset, _settings()).pieces():
        torch.cuda.synchronize()
        expected.append({name: value.cpu() for name, value in piece.values.items()})
    arrivals = device_transfer.DeviceTransfer(torch.device("cuda"), model.dtype)
    found = [
        arrivals.take(piece, _nothing)
        for piece in activation_stream.ActivationStream(model, dataset, _settings()).pieces()
    ]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for name in HOOKS:
            assert (ours[name].dtype, ours[name].device.type, ours[name].is_pinned()) == (model.dtype, "cpu", True)
            assert torch.equal(ours[name], theirs[name])


def test_a_range_in_bfloat16(tmp_path: pathlib.Path) -> None:
    """From the model's thread over the side stream to the disk, as a worker does it."""
    found = []
    for device, dtype in (("cuda", "bfloat16"), ("cpu", "float32")):
        model = tiny_models.load("gpt2", tmp_path / device, device=device, dtype=dtype, attention="sdpa")
        settings = extraction.RangeSettings(
            hooks=("blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"), context_size=16, storage_dtype=dtype
        )
        made = extraction.extract(
            model, tiny_models.dataset(ROWS), 0, len(ROWS), settings, tmp_path / f"{device}-files", "a", _nothing
        )
        (file,) = made.files
        table = datasets.Dataset.from_file(str(tmp_path / f"{device}-files" / file.key)).with_format("numpy")
        found.append((made, table[:]))
    (ours, rows), (theirs, expected) = found
    assert (ours.tokens, ours.left_over) == (theirs.tokens, theirs.left_over)
    assert np.array_equal(rows["token_ids"], expected["token_ids"])
    for hook in settings.hooks:
        bits = torch.from_numpy(rows[f"{hook}.bfloat16"].astype(np.uint16)).view(torch.bfloat16)
        torch.testing.assert_close(bits.float(), torch.from_numpy(expected[hook]), rtol=0.05, atol=0.1)
        assert ours.statistics[hook].count == theirs.statistics[hook].count
        np.testing.assert_allclose(ours.statistics[hook].mean, theirs.statistics[hook].mean, rtol=0.05, atol=0.05)


def test_batches_halve_when_the_gpu_is_full(tmp_path: pathlib.Path) -> None:
    model = tiny_models.load("gpt2", tmp_path, device="cuda")
    # What all of it would give takes 160 MiB, and the attention of one batch of it 256 MiB on the way.
    stream = activation_stream.ActivationStream(
        model, tiny_models.dataset(tiny_models.rows(4096, 64, 64)), _settings(4096 * 64)
    )
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_reserved() + 192 * 2**20) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        kept = sum(len(piece.token_ids) for piece in stream.pieces())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert kept == 4096 * 64
    assert stream.batch_tokens < 4096 * 64
