"""What a GPU gives is what a CPU gives, on whichever streams it came."""

import contextlib
import pathlib
from typing import Any

import pytest
import torch

from services.activations import streaming, transfers
from services.activations.statistics import Statistics
from tests.activations import material

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
HOOKS = ("blocks.0.hook_resid_post", "blocks.2.mlp.hook_post")
ROWS = material.rows(200, 40)


def _settings(batch_tokens: int = 256) -> streaming.Settings:
    return streaming.Settings(hooks=HOOKS, batch_tokens=batch_tokens)


def _all(pieces: Any, device: str, look: transfers.Look) -> dict[str, torch.Tensor]:
    arrivals = transfers.Arrivals(torch.device(device), torch.float32)
    with contextlib.closing(pieces):
        taken = [arrivals.take(piece, look) for piece in pieces]
    return {name: torch.cat([values[name] for values in taken]) for name in HOOKS}


def test_same_as_on_the_cpu(tmp_path: pathlib.Path) -> None:
    found: dict[str, dict[str, torch.Tensor]] = {}
    counted: dict[str, dict[str, Statistics]] = {"cpu": {}, "cuda": {}}
    for device, seen in counted.items():
        model = material.load("llama", tmp_path, device=device)

        def look(name: str, value: torch.Tensor, seen: dict[str, Statistics] = seen) -> None:
            seen.setdefault(name, Statistics(value.shape[1])).add(value)

        stream = streaming.Stream(model, material.dataset(ROWS), _settings())
        found[device] = _all(stream.pieces(), device, look)
    for name in HOOKS:
        torch.testing.assert_close(found["cuda"][name], found["cpu"][name], rtol=1e-3, atol=1e-3)
        ours, theirs = (counted[device][name] for device in ("cuda", "cpu"))
        torch.testing.assert_close(torch.from_numpy(ours.mean), torch.from_numpy(theirs.mean), rtol=1e-3, atol=1e-3)


def test_batches_halve_when_the_gpu_is_full(tmp_path: pathlib.Path) -> None:
    model = material.load("gpt2", tmp_path, device="cuda")
    stream = streaming.Stream(model, material.dataset(material.rows(4096, 64, 64)), _settings(4096 * 64))
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_reserved() + 64 * 2**20) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        kept = sum(len(piece.token_ids) for piece in stream.pieces())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert kept == 4096 * 64
    assert stream.batch_tokens < 4096 * 64
