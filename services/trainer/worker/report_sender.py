"""Reports of a running training to the trainer's server: metrics, checkpoints and progress."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polytok.trainer.v1 import metrics_pb2, tasks_pb2, trainings_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.telemetry import logging
from services.runtime.throttle import Throttle
from services.trainer.sae import reports
from services.trainer.worker.workspace import Workspace

_FORMULAS, _UNDEFINED = "formulas", "undefined"
_FILLING_SECONDS = 1.0
_PHASES: Mapping[reports.Phase, trainings_pb2.Training.Phase.ValueType] = {
    "filling": trainings_pb2.Training.PHASE_FILLING,
    "training": trainings_pb2.Training.PHASE_TRAINING,
    "evaluating": trainings_pb2.Training.PHASE_EVALUATING,
    "exporting": trainings_pb2.Training.PHASE_EXPORTING,
}

_log = logging.get(__name__)


class ReportSender:
    """Send the loop's progress as reports. `from_step` is the step of the checkpoint resumed from, or 0."""

    def __init__(
        self, context: TaskContext, workspace: Workspace, from_step: int, keep: int, weights_fingerprint: str = ""
    ) -> None:
        """Keep the last `keep` checkpoints, and those that the server does not know of yet."""
        self._keep = keep
        self._weights_fingerprint = weights_fingerprint
        self._context = context
        self._workspace = workspace
        self._from_step = from_step
        self._kept_step = from_step
        self._begun = False
        self._own_point = b""
        self._phase: reports.Phase = "preparing"
        self._throttle = Throttle(_FILLING_SECONDS)
        self._before = 0

    def progress(self, progress: reports.Progress) -> None:
        """Report the loop's progress; a new checkpoint is stored and reported before the resume point names it."""
        if progress.message:
            _log.info("training", message=progress.message, step=progress.step)
            # The step actually resumed from: a damaged checkpoint is skipped in favour of the one before.
            self._from_step = self._kept_step = progress.step
        if progress.phase == "preparing":
            return
        self._begin()
        self._send_phase(progress)
        # Reading before the first step counts as much as the steps that read as much.
        each = progress.total_samples / progress.total_steps
        self._before = math.ceil(progress.to_fill / each)
        done = int(progress.filled / each) if progress.phase == "filling" else self._before + progress.step
        self._send(done, self._before + progress.total_steps, progress.checkpoint_step)

    def _send_phase(self, progress: reports.Progress) -> None:
        begins, filling = progress.phase != self._phase, progress.phase == "filling"
        if (not begins and not filling) or not self._throttle.ready(force=begins):
            return
        self._phase = progress.phase
        percent = 100 * progress.filled / progress.to_fill if filling else 0.0
        phase = _PHASES[progress.phase]
        self._context.record(tasks_pb2.TrainingReport(from_step=self._from_step, phase=phase, phase_progress=percent))

    def stopped(self, step: int, total_steps: int) -> None:
        """Record that the loop stopped at a step, with a checkpoint of it unless it is the first."""
        self._begin()
        self._send(self._before + step, self._before + total_steps, step)

    def _send(self, done: int, total: int, checkpoint_step: int) -> None:
        point, self._own_point = self._own_point, b""
        if checkpoint_step > self._kept_step:
            self._kept_step = checkpoint_step
            point = self._checkpoint(checkpoint_step)
        self._context.report(done, total, point)

    def rows(self, rows: Sequence[reports.Row]) -> None:
        """Report rows of metrics."""
        self._begin()
        self._context.record(
            tasks_pb2.TrainingReport(from_step=self._from_step, metrics=[metrics_to_message(row) for row in rows])
        )

    def _begin(self) -> None:
        """Report where this attempt begins, before anything else."""
        if self._begun:
            return
        self._begun = True
        report = tasks_pb2.TrainingReport(
            begins=True, from_step=self._from_step, weights_fingerprint=self._weights_fingerprint
        )
        if self._from_step:
            # The checkpoint is this attempt's own copy now: the earlier attempt's folder is garbage-collected after a
            # while. The next attempt must resume from this copy, even if this attempt writes no later one.
            copy = self._point(self._from_step)
            report.checkpoint.CopyFrom(copy)
            self._own_point = copy.SerializeToString()
            report.kept_steps[:] = self._prune()
        self._context.record(report)

    def _prune(self) -> list[int]:
        point = tasks_pb2.ResumePoint.FromString(self._context.saved_resume_point)
        return self._workspace.prune(point.step, self._keep)

    def _point(self, step: int) -> tasks_pb2.ResumePoint:
        point = self._workspace.checkpoint(step)
        point.weights_fingerprint = self._weights_fingerprint
        return point

    def _checkpoint(self, step: int) -> bytes:
        point = self._point(step)
        report = tasks_pb2.TrainingReport(from_step=self._from_step, checkpoint=point)
        report.kept_steps[:] = self._prune()
        self._context.record(report)
        return point.SerializeToString()


def metrics_to_message(row: reports.Row) -> metrics_pb2.Metrics:
    """Return the message of a row of metrics."""
    message = metrics_pb2.Metrics(sae=row.sae, step=row.step, samples=row.samples)
    if isinstance(row, reports.EvaluationRow):
        message.evaluation.CopyFrom(evaluation_to_message(row))
        return message
    message.training.CopyFrom(
        metrics_pb2.StepFigures(
            seconds=row.seconds,
            loss=row.loss,
            losses=row.losses,
            l0=row.l0,
            explained_variance=row.explained_variance,
            dead_latents=row.dead_latents,
            learning_rate=row.learning_rate,
            gradient_norm=row.gradient_norm,
            coefficients=row.coefficients,
            extra=row.extra,
        )
    )
    return message


def evaluation_to_message(row: reports.EvaluationRow) -> metrics_pb2.EvaluationFigures:
    """Return the message of an evaluation."""
    message = metrics_pb2.EvaluationFigures()
    _add(message, "", row.figures)
    return message


def _add(message: metrics_pb2.EvaluationFigures, prefix: str, figures: Mapping[str, Any]) -> None:
    for key, value in figures.items():
        name = f"{prefix}{key}"
        match value:
            case dict() if key == _FORMULAS:
                message.formulas.update({str(each): str(text) for each, text in value.items()})
            case dict() if key == _UNDEFINED:
                message.undefined.update({f"{prefix}{each}": text for each, text in value.items()})
                message.figures.update(dict.fromkeys((f"{prefix}{each}" for each in value), math.nan))
            case dict():
                _add(message, f"{name}.", value)
            case bool() | str():
                message.notes[name] = str(value)
            case int() | float() if math.isfinite(value):
                message.figures[name] = value
            case list() | tuple() if all(isinstance(each, int | float) for each in value):
                message.series[name].values[:] = value
            case _:
                # None means that the figure is undefined.
                continue
