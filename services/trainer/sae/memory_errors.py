"""Error messages for a training that runs out of memory."""

from collections.abc import Generator
from contextlib import contextmanager

from polytok import errors
from services.activations import memory
from services.trainer.sae import configs


@contextmanager
def explain_memory_errors(training: configs.TrainingPlan) -> Generator[None]:
    """Convert out-of-memory errors into an error that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        raise errors.ResourceExhausted(
            f"There is not enough memory on {training.device} for this training. {_hints(training)} "
            "The newest checkpoint is kept.",
            reason="WORKER_LOST",
            retryable=False,
        ) from error


def _hints(training: configs.TrainingPlan) -> str:
    """Return what to lower, largest memory use first."""
    weights = sum(_weight_bytes(planned.sae) for planned in training.saes)
    widths = {planned.hook: planned.sae.d_in for planned in training.saes}
    buffer = training.buffer_samples * sum(widths.values()) * 4
    latents = training.batch_size * max(planned.sae.d_sae for planned in training.saes) * 4
    named = {
        f"batch_size (now {training.batch_size:,}; a batch's latents take {memory.format_bytes(latents)})": latents,
        f"d_sae or the number of autoencoders (weights and optimiser take {memory.format_bytes(weights)})": weights,
        f"buffer_samples (now {training.buffer_samples:,}; they take {memory.format_bytes(buffer)})": buffer,
    }
    return f"Lower {'; then '.join(sorted(named, key=lambda hint: -named[hint]))}."


def _weight_bytes(sae: configs.SaeConfig) -> int:
    # Encoder and decoder, each with a gradient and two moments.
    return 2 * sae.d_in * sae.d_sae * 4 * 4
