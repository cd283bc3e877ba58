"""The runs that are compared; each returns its seconds, without loading model and tokens."""

import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from sae_lens import CacheActivationsRunnerConfig, cache_activations_runner
from sae_lens.load_model import load_model
from transformer_lens import HookedTransformer
from transformer_lens.loading_from_pretrained import get_pretrained_model_config, get_pretrained_state_dict

from benchmarks.extract.material import Case
from services.activations import models
from services.extractor.worker import extraction
from services.runtime import malloc_tuning


def bare(case: Case, folder: pathlib.Path, dataset: datasets.Dataset) -> Callable[[], float]:
    """Run the forward pass to the last hooked block in a plain loop; nothing is stored."""
    base = models.load(folder, dtype=case.dtype, device=case.device).base
    base.h = base.h[: case.depth]
    base.ln_f = torch.nn.Identity()
    ids = torch.from_numpy(np.stack(dataset.with_format("numpy")["input_ids"][:])).long()

    def run() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for batch in torch.split(ids, case.batch):
                base(input_ids=batch.to(case.device), use_cache=False)
        _finish(case)
        return time.perf_counter() - began

    return run


def ours(
    case: Case, folder: pathlib.Path, dataset: datasets.Dataset, target: pathlib.Path, *, compiled: bool
) -> Callable[[], float]:
    """Run a worker's range, with statistics, checksums and sync."""
    # As the worker's task process does.
    malloc_tuning.tune_malloc()
    model = models.load(folder, dtype=case.dtype, device=case.device, compile=compiled)
    settings = extraction.RangeSettings(
        hooks=case.hooks, context_size=case.context, batch_size=case.batch, storage_dtype=case.dtype
    )

    def run() -> float:
        shutil.rmtree(target, ignore_errors=True)
        began = time.perf_counter()
        made = extraction.extract(model, dataset, 0, case.rows, settings, target, "bench", lambda *_: None)
        seconds = time.perf_counter() - began
        if made.tokens != case.tokens:
            raise RuntimeError(f"{made.tokens} tokens were stored instead of {case.tokens}.")
        return seconds

    return run


def saelens(
    case: Case, folder: pathlib.Path, dataset: datasets.Dataset, target: pathlib.Path, kind: str
) -> Callable[[], float]:
    """Cache activations with SAELens, over the same tokens in the same batches; one hook."""
    config = CacheActivationsRunnerConfig(
        dataset_path="unused",
        model_name=str(folder),
        model_class_name=kind,
        model_batch_size=case.batch,
        hook_name=case.hooks[-1] if kind == "HookedTransformer" else f"transformer.h.{case.depth - 1}",
        d_in=case.width,
        training_tokens=case.tokens,
        context_size=case.context,
        new_cached_activations_path=str(target),
        dtype=case.dtype,
        device=case.device,
        # One buffer with everything: the fewest files.
        buffer_size_gb=(case.tokens * case.width * (4 if case.dtype == "float32" else 2) + 1) / 1e9,
        shuffle=False,
        prepend_bos=False,
    )
    hooked = _hooked(case, folder) if kind == "HookedTransformer" else load_model(kind, str(folder), device=case.device)
    # The runner itself can load a HookedTransformer only by the name of a published model.
    with mock.patch.object(cache_activations_runner, "load_model", return_value=hooked):
        runner = cache_activations_runner.CacheActivationsRunner(config, override_dataset=dataset)

    def run() -> float:
        shutil.rmtree(target, ignore_errors=True)
        began = time.perf_counter()
        made = runner.run()
        seconds = time.perf_counter() - began
        if len(made) != case.rows:
            raise RuntimeError(f"SAELens stored {len(made)} rows instead of {case.rows}.")
        return seconds

    return run


def _hooked(case: Case, folder: pathlib.Path) -> Any:
    """Return TransformerLens's model with the same weights, loaded as SAELens does: nothing folded or centred."""
    kind = models.DTYPES[case.dtype]
    configuration = get_pretrained_model_config(str(folder), fold_ln=False, device=case.device, dtype=kind)
    model: Any = HookedTransformer(configuration)
    model.load_and_process_state_dict(
        get_pretrained_state_dict(str(folder), configuration, dtype=kind),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.to(case.device)


def _finish(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()
