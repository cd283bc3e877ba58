"""Choose the training step for a configuration."""

import torch

from services.activations import compilation
from services.trainer.sae import architectures, configs
from services.trainer.sae.steps import base, protocol, reference, relu, sparse


def create_step(planned: configs.PlannedSae, training: configs.TrainingPlan) -> protocol.TrainingStep:
    """Create the autoencoder with its initial weights, and the fastest step that trains it.

    In a group of processes (torch.distributed initialised) that share batches, gradients and counters are shared: see
    `reduction`. Raises FailedPrecondition if steps are to be compiled and there is no compiler.
    """
    if training.compile:
        compilation.check_compiler(torch.device(training.device))
    options = base.Options(
        planned.optimizer,
        training.total_steps,
        dead_feature_window=training.dead_feature_window,
        feature_sampling_window=training.feature_sampling_window,
        autocast=training.autocast,
        compile=training.compile,
        shared=training.spread == "data",
    )
    sae = architectures.create_sae(planned.sae, device=training.device)
    # The step of standard and jumprelu already avoids what torch.compile would.
    reference_only = training.reference or (training.compile and planned.sae.architecture not in configs.TOPK_FAMILY)
    return choose_step_class(planned.sae, reference_only)(planned.sae, sae, options)


def choose_step_class(config: configs.SaeConfig, reference_only: bool = False) -> type[base.Step]:
    """Return the fastest step class for a configuration, or the reference for bfloat16 weights.

    Their rounding depends on the order of operations, so only the reference produces the reference's numbers.
    """
    if reference_only or config.dtype == "bfloat16":
        return reference.ReferenceStep
    if config.architecture in configs.TOPK_FAMILY:
        return sparse.TopkStep
    return relu.ReluStep if relu.is_supported(config) else reference.ReferenceStep


def set_threads(threads: int) -> None:
    """Set the number of processor threads that PyTorch computes with; 0 leaves it unchanged."""
    if threads:
        torch.set_num_threads(threads)
