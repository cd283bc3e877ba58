"""The training loop: several autoencoders from one stream of activations, resumable exactly at any checkpoint."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from polytok import errors
from services.runtime.telemetry import logging
from services.trainer.sae import configs, export, normalization, progress_reporter, reports
from services.trainer.sae.checkpoints import Checkpoints, LoadedCheckpoint
from services.trainer.sae.data.activation_buffer import ActivationBuffer
from services.trainer.sae.data.dataset import ActivationDataset, Block, CheckpointState
from services.trainer.sae.data.prefetch import Prefetcher
from services.trainer.sae.distributed import partition, process_group
from services.trainer.sae.evaluation import evaluator, reconstruction
from services.trainer.sae.sae_trainer import SaeTrainer, diverged_error
from services.trainer.sae.steps import factory

_log = logging.get(__name__)
_STOP_SECONDS = 1.0
"""Steps between two agreements of several processes on whether to stop."""
_FREE_TO_CHANGE = frozenset({"log_every", "checkpoint_every", "evaluate_every", "device", "threads", "processes"})
"""Fields of a plan that do not change the result, except for rounding; of processes, only the running number counts."""
_AVERAGED = ("loss", "l0", "explained_variance", "gradient_norm")
_RANDOM = "random"
_MOST_MEASURED = 1 << 16
_Row = TypeVar("_Row", reports.MetricsRow, reports.EvaluationRow)


class _Stopped(Exception):
    """Raised when a stop is requested before the first step."""


@dataclasses.dataclass
class TrainingCallbacks:
    """Callbacks for progress, metrics and stopping."""

    report: reports.OnProgress
    on_rows: reports.OnRows
    stop: reports.Stop


class TrainingLoop:
    """A process's share of one training, from its start or a checkpoint to its last step or a stop."""

    def __init__(
        self,
        training: configs.TrainingPlan,
        data: ActivationDataset,
        checkpoints: Checkpoints,
        group: process_group.ProcessGroup,
        listeners: TrainingCallbacks,
        *,
        ahead: int = 2,
    ) -> None:
        """Take `data` with the hooks of the share, and prefetch `ahead` batches while a step computes."""
        self._plan = training
        self._share = partition.get_share(training, group.rank)
        self._data = data
        self._checkpoints = checkpoints
        self._group = group
        self._listeners = listeners
        self._source = data.source(self._share.part, self._share.parts)
        self._batch = training.batch_size // self._share.parts
        self._buffer_samples = training.buffer_samples // self._share.parts
        buffer = ActivationBuffer(
            self._source,
            samples=self._buffer_samples,
            batch=self._batch,
            seed=training.seed,
            device=training.device,
            on_filled=self._filling,
        )
        self._buffer = buffer
        self._stream = Prefetcher(buffer, ahead)
        self.trainers: list[SaeTrainer] = []
        self._measured: dict[str, reconstruction.Reconstruction] = {}
        self.step = 0
        self._kept_step = 0
        self._seconds_before = 0.0
        self._began = time.monotonic()
        self._course = progress_reporter.ProgressReporter(training, listeners.report)
        self._estimated = 0
        self._went_on_from = self._next_look = 0

    @property
    def seconds(self) -> float:
        """Seconds since the training began, including earlier runs up to their checkpoint."""
        return self._seconds_before + time.monotonic() - self._began

    def prepare(self, loaded: LoadedCheckpoint | None) -> None:
        """Create the autoencoders and restore a checkpoint; without one, estimate the normalisation.

        Raises `errors.FailedPrecondition` for a checkpoint of another plan.
        """
        torch.manual_seed(self._plan.seed)
        self.report("preparing")
        wanted = normalization.keys(self._plan.saes[place] for place in self._share.saes)
        samples = self._plan.normalization_batches * self._batch
        self._course.to_fill = normalization.samples_of(wanted, samples) + self._buffer_samples
        found = self._normalization(wanted, samples) if loaded is None else {}
        for place in self._share.saes:
            planned = self._plan.saes[place]
            key = (planned.hook, planned.sae.normalize_activations)
            step = factory.create_step(planned, self._plan)
            self.trainers.append(SaeTrainer(planned, step, found.get(key, normalization.Normalization())))
        if loaded is not None:
            self._load(loaded)

    def _normalization(
        self, wanted: tuple[normalization.Key, ...], samples: int
    ) -> dict[normalization.Key, normalization.Normalization]:
        """Estimate the normalisation; the activation buffer reads the same activations again."""
        over = (lambda tensor: tensor) if self._share.whole else self._group.sum
        return normalization.estimate(self._source, wanted, samples, over, self._estimating)

    def _estimating(self, samples: int) -> None:
        self._estimated = self._course.filled = samples
        self.report("filling")

    def run(self) -> bool:
        """Train to the last step (returns True) or until stopped (returns False).

        Writes a checkpoint of the end either way.
        """
        self._began = time.monotonic()
        try:
            with self._stream:
                while self.step < self._plan.total_steps:
                    if self._is_stopped():
                        self._save()
                        return False
                    self._advance(self._stream.take())
        except _Stopped:
            # Before the first step there is nothing to save.
            return False
        self._save()
        return True

    def _is_stopped(self) -> bool:
        if self._group.size == 1:
            return self._listeners.stop.is_set()
        # All processes stop after the same step; agreeing at every step would cost more than the step.
        if self.step < self._next_look:
            return False
        found = self._group.gather({"stop": self._listeners.stop.is_set(), "seconds": time.monotonic() - self._began})
        done = self.step - self._went_on_from
        each = max(gathered["seconds"] for gathered in found) / done if done else _STOP_SECONDS
        self._next_look = self.step + max(1, int(_STOP_SECONDS / each))
        return any(gathered["stop"] for gathered in found)

    def _advance(self, batch: Block) -> None:
        self.step += 1
        last = self.step == self._plan.total_steps
        measure = self.step % self._plan.log_every == 0 or last
        normalized: dict[normalization.Key, torch.Tensor] = {}
        for trainer in self.trainers:
            key = (trainer.planned.hook, trainer.normalization.kind)
            if key not in normalized:
                normalized[key] = trainer.normalization.apply(batch[key[0]])
            trainer.train(normalized[key], self.step, measure=measure)
        if measure:
            self._log()
        if self.step % self._plan.checkpoint_every == 0:
            self._save()
        if self._plan.evaluate_every and self.step % self._plan.evaluate_every == 0 and not last:
            self.evaluate()
        self.report("training")

    def _log(self) -> None:
        self._check()
        own = [trainer.row(self.step, self._samples, self.seconds).to_dict() for trainer in self.trainers]
        rows = self._together(own, reports.MetricsRow)
        if self._group.first:
            self._listeners.on_rows(list(rows))

    def _together(self, own: list[dict[str, Any]], kind: type[_Row]) -> list[_Row]:
        """Return the rows of all autoencoders, in the plan's order, from those of each process."""
        everywhere = self._group.gather(own)
        found: dict[str, list[dict[str, Any]]] = {}
        for row in (row for rows in everywhere for row in rows):
            found.setdefault(row["sae"], []).append(row)
        return [kind(**_averaged(found[planned.name])) for planned in self._plan.saes if planned.name in found]

    def _check(self) -> None:
        """Raise if a loss was not finite, in every process alike."""
        for gathered in self._group.gather({trainer.name: trainer.first_bad_step() for trainer in self.trainers}):
            for planned in self._plan.saes:
                if step := gathered.get(planned.name):
                    samples = step * self._plan.batch_size
                    what = f"The loss became NaN or infinite at step {step:,} ({samples:,} samples)"
                    raise diverged_error(planned, what, self._kept_step)

    def _check_weights(self) -> None:
        for trainer in self.trainers:
            if not trainer.has_finite_weights():
                what = f"Weights became NaN or infinite by step {self.step:,}"
                raise diverged_error(trainer.planned, what, self._kept_step)

    def _save(self) -> None:
        """Write a checkpoint, unless the newest is of this step."""
        if self.step == self._kept_step:
            return
        self._check()
        self._check_weights()
        with self._checkpoints.writing(self.step) as writing, self._stream.paused() as stream:
            files = {name: writing.add(name, state) for name, state in self._states(stream)}
            parts = self._group.gather(files)
            if self._group.first:
                merged = {name: entry for part in parts for name, entry in part.items()}
                self._checkpoints.publish(self.step, merged, self._values())
        # No process starts the next checkpoint before this one is published.
        self._group.gather(None)
        self._kept_step = self.step

    def _states(self, stream: CheckpointState) -> Iterator[tuple[str, CheckpointState]]:
        """Yield the states that this process writes to a checkpoint, by name."""
        if self._share.keeper == self._group.rank:
            yield self._data_name, stream
        if self._share.whole or self._group.first:
            for place, trainer in zip(self._share.saes, self.trainers, strict=True):
                yield _sae_name(place), trainer.state()
        if self._group.first:
            yield _RANDOM, _random()

    def wants(self, name: str) -> bool:
        """Return whether a state of a checkpoint belongs to this process's share."""
        return name in {self._data_name, _RANDOM, *map(_sae_name, self._share.saes)}

    @property
    def _data_name(self) -> str:
        return f"data-{self._share.keeper:05d}"

    def _values(self) -> dict[str, Any]:
        return {"plan": self._plan.to_dict(), "processes": self._group.size, "seconds": self.seconds}

    def _load(self, loaded: LoadedCheckpoint) -> None:
        self._check_same(loaded.values)
        for place, trainer in zip(self._share.saes, self.trainers, strict=True):
            trainer.load(loaded.states[_sae_name(place)], self._plan.device)
        self._stream.load(loaded.states[self._data_name])
        _set_random(loaded.states[_RANDOM])
        self.step = self._kept_step = self._went_on_from = self._next_look = loaded.step
        self._seconds_before = float(loaded.values["seconds"])
        self._course.filled = self._course.to_fill
        damaged = f" {' '.join(loaded.damaged)}" if loaded.damaged else ""
        message = f"Resumed from the checkpoint of step {loaded.step:,}.{damaged}"
        _log.info("training resumes", step=loaded.step, damaged=loaded.damaged)
        self.report("preparing", message)

    def _check_same(self, values: dict[str, Any]) -> None:
        # Fields added later had their defaults.
        old, new = configs.TrainingPlan.from_dict(values["plan"]).to_dict(), self._plan.to_dict()
        free = _FREE_TO_CHANGE if self._plan.processes > 1 else _FREE_TO_CHANGE | {"spread"}
        changed = sorted(name for name in new if name not in free and old[name] != new[name])
        if values["processes"] != self._group.size:
            changed.append(f"number of processes ({values['processes']}, now {self._group.size})")
        if changed:
            raise errors.FailedPrecondition(
                f"The checkpoint of this training was made with a different {', '.join(changed)}. A training "
                "resumes with its original plan only; start a new one for another plan."
            )

    def evaluate(self) -> list[reports.EvaluationRow]:
        """Evaluate all autoencoders as they are now: each process its own, or the first all that they share.

        A plan without evaluation sequences has no rows.
        """
        own: list[dict[str, Any]] = []
        if self._plan.evaluation_sequences:
            self.report("evaluating")
            own = self._evaluated() if self._share.whole or self._group.first else []
        rows = self._together(own, reports.EvaluationRow)
        if self._group.first and rows:
            self._listeners.on_rows(list(rows))
        return rows

    def _evaluated(self) -> list[dict[str, Any]]:
        # The source uses the same model: it must not prefetch meanwhile.
        self._measured = {}
        with self._stream.paused():
            autoencoders = {each.name: each.inference() for each in self.trainers}
            found = evaluator.evaluate(self._data, autoencoders, self._measured)
        for trainer in self.trainers:
            found[trainer.name]["dead_latents_training"] = int(trainer.step.dead().sum())
        return [
            reports.EvaluationRow(sae=name, step=self.step, samples=self._samples, figures=figures).to_dict()
            for name, figures in found.items()
        ]

    def firing(self, trainer: SaeTrainer) -> export.Firing:
        """Return how often an autoencoder's latents fire as exported, on the data of the last evaluation.

        If nothing is held out, on the activations in the activation buffer.
        """
        sums = self._measured.get(trainer.name)
        if sums is not None:
            return export.Firing(*sums.firing(), "held out")
        autoencoder = trainer.inference()
        vectors = self._buffer.contents()[autoencoder.hook][:_MOST_MEASURED]
        sums = reconstruction.Reconstruction(autoencoder.d_sae, vectors.device)
        chunk = evaluator.chunk(autoencoder)
        reconstruction.measure(autoencoder.encode, autoencoder.decode, vectors, sums, chunk=chunk)
        return export.Firing(*sums.firing(), "trained on")

    def report(self, phase: reports.Phase, message: str = "") -> None:
        """Report the progress; of several processes only the first does."""
        if self._group.first:
            self._course.report(phase, self.step, self._kept_step, message)

    def _filling(self, samples: int) -> None:
        """Report how full the activation buffer is, and heed a stop meanwhile."""
        self._course.filled = self._estimated + samples
        self.report("filling")
        if self._group.size == 1 and self._listeners.stop.is_set():
            raise _Stopped

    @property
    def _samples(self) -> int:
        return self.step * self._plan.batch_size


def _averaged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of an autoencoder, averaged over the processes if each measured its part of the batch."""
    if len(rows) == 1:
        return rows[0]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in _AVERAGED}
    losses = {name: sum(row["losses"][name] for row in rows) / len(rows) for name in rows[0]["losses"]}
    return rows[0] | means | {"losses": losses}


def _sae_name(place: int) -> str:
    return f"sae-{place:05d}"


def _random() -> CheckpointState:
    """Return PyTorch's own generators, which an architecture may draw from."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return CheckpointState(tensors)


def _set_random(state: CheckpointState) -> None:
    torch.set_rng_state(state.tensors["cpu"])
    if "cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["cuda"])
