"""Learning rates and coefficients as functions of the step, equal to the schedulers of SAELens.

A function of the step needs no state: a resumed training continues on the same schedule. Source: sae-lens 6.54,
`training/optim.py`.
"""

import math

from services.trainer.sae import configs


def learning_rate(config: configs.OptimizerConfig, total_steps: int, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    if step < config.lr_warm_up_steps:
        return config.lr * (step + 1) / config.lr_warm_up_steps
    constant = config.lr_scheduler_name == "constant"
    end = config.lr / 10 if config.lr_end is None else config.lr_end
    decay_start = total_steps - config.lr_decay_steps
    if config.lr_decay_steps and step >= decay_start:
        return (config.lr if constant else end) * max(0.0, 1 - (step - decay_start) / config.lr_decay_steps)
    if constant:
        return config.lr
    main_steps = max(1, decay_start - config.lr_warm_up_steps)
    cycle = main_steps
    position = step - config.lr_warm_up_steps
    if config.lr_scheduler_name == "cosineannealingwarmrestarts":
        cycle = max(1, main_steps // config.n_restart_cycles)
        position %= cycle
    return end + (config.lr - end) * (1 + math.cos(math.pi * min(position, cycle) / cycle)) / 2


def coefficients(config: configs.SaeConfig, step: int) -> dict[str, float]:
    """Return the coefficients of a step, counted from 0, warmed up linearly from 0; by SAELens's names."""
    if config.architecture in {"standard", "gated"}:
        return {"l1": _warmed(config.l1_coefficient, config.l1_warm_up_steps, step)}
    if config.architecture == "jumprelu":
        return {"l0": _warmed(config.l0_coefficient, config.l0_warm_up_steps, step)}
    return {}


def _warmed(value: float, warm_up_steps: int, step: int) -> float:
    return value * (step / warm_up_steps) if step < warm_up_steps else value
