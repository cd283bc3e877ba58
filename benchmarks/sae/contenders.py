"""The two contenders: this project's steps, and SAELens's `SAETrainer`. Both from equal weights on equal batches."""

import contextlib
import io
import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.sae.material import Scale
from services.trainer.sae import architectures, configs, export, normalization
from services.trainer.sae.steps import factory

LR = 3e-4
"""As in the published benchmark."""
_WINDOW = 1000
_MEASURE_EVERY = 50


class Trained(NamedTuple):
    """The result of a training."""

    sae: Any
    """Opened from disk in SAELens, in its form for inference."""
    seconds: float
    """Of training alone, without generating data or writing."""


def configuration(architecture: configs.Architecture, scale: Scale, seed: int) -> configs.SaeConfig:
    """Return the configuration of the autoencoder that both train."""
    return configs.SaeConfig(
        architecture=architecture,
        d_in=scale.d_in,
        d_sae=scale.d_sae,
        k=scale.k,
        matryoshka_widths=(scale.d_sae // 8, scale.d_sae // 2),
        seed=seed,
    )


def our_step(config: configs.SaeConfig, scale: Scale, device: str, *, autocast: bool = False) -> Any:
    """Return our training step."""
    planned = configs.PlannedSae(name="sae", hook="synthetic", sae=config, optimizer=configs.OptimizerConfig(lr=LR))
    training = configs.TrainingPlan(
        saes=(planned,),
        total_samples=scale.steps * scale.batch,
        batch_size=scale.batch,
        dead_feature_window=_WINDOW,
        device=device,
        autocast=autocast,
    )
    return factory.create_step(planned, training)


def their_trainer(
    config: configs.SaeConfig, scale: Scale, data: Iterator[torch.Tensor], device: str, *, autocast: bool = False
) -> Any:
    """Return SAELens's trainer, with its weights in its own layout."""
    architectures.import_sae_lens()
    from sae_lens.config import LoggingConfig, SAETrainerConfig  # noqa: PLC0415
    from sae_lens.training.sae_trainer import SAETrainer  # noqa: PLC0415

    sae = architectures.create_sae(config, device=device)
    sae.W_enc = torch.nn.Parameter(sae.W_enc.detach().contiguous())
    trainer_config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=scale.steps * scale.batch,
        device=device,
        autocast=autocast,
        lr=LR,
        lr_end=LR,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=scale.batch,
        dead_feature_window=_WINDOW,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=1,
    )
    return SAETrainer(trainer_config, sae, data)


def train_ours(config: configs.SaeConfig, scale: Scale, data: Iterator[torch.Tensor]) -> Trained:
    """Train with our step, its metrics read every 50 steps as a training does."""
    step = our_step(config, scale, "cpu")
    started = time.perf_counter()
    for number, batch in enumerate(itertools.islice(data, scale.steps)):
        measure = number % _MEASURE_EVERY == 0
        outcome = step(batch, measure=measure)
        if measure:
            [float(value) for value in outcome.metrics.values()]
    seconds = time.perf_counter() - started
    counts, samples = step.firing()
    origin = export.Origin(model_name="synthetic", hook_name="synthetic", context_size=1, prepend_bos=False)
    with tempfile.TemporaryDirectory() as folder:
        firing = export.Firing(counts, samples, "trained on")
        export.write(step.sae, normalization.Normalization(), origin, firing, pathlib.Path(folder))
        return Trained(architectures.import_sae_lens().SAE.load_from_disk(folder), seconds)


def train_theirs(config: configs.SaeConfig, scale: Scale, data: Iterator[torch.Tensor]) -> Trained:
    """Train with SAELens's trainer, without reading its metrics."""
    trainer = their_trainer(config, scale, data, "cpu")
    with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        sae = trainer.fit()
        seconds = time.perf_counter() - started
        sae.save_inference_model(folder)
        return Trained(architectures.import_sae_lens().SAE.load_from_disk(folder), seconds)
