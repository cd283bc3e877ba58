"""Reports the progress of a training a few times a second, and whenever a phase begins."""

import time

from services.runtime.throttle import Throttle
from services.trainer.sae import configs, reports

_SECONDS = 0.2
_OFTEN = frozenset({"filling", "training"})


class ProgressReporter:
    """Reports the progress of a process. `filled` of `to_fill` activations are read before the first step."""

    def __init__(self, training: configs.TrainingPlan, report: reports.OnProgress) -> None:
        self._plan = training
        self._report = report
        self._phase: reports.Phase = "preparing"
        self._told = (0.0, 0, 0.0)
        self._throttle = Throttle(_SECONDS)
        self.filled = 0
        self.to_fill = 0

    def report(self, phase: reports.Phase, step: int, kept_step: int, message: str = "") -> None:
        """Report; `kept_step` is the step of the newest checkpoint.

        Within a phase, a report soon after another is skipped, unless there is a message or a new checkpoint.
        """
        now = time.monotonic()
        then, before, speed = self._told
        written = step == kept_step and step != before
        again = phase == self._phase and phase in _OFTEN
        if not self._throttle.ready(force=not again or written or bool(message)):
            return
        if step > before and then and now > then:
            speed = (step - before) * self._plan.batch_size / (now - then)
        self._phase, self._told = phase, (now, step, speed)
        self._report(
            reports.Progress(
                step=step,
                total_steps=self._plan.total_steps,
                samples=step * self._plan.batch_size,
                total_samples=self._plan.total_steps * self._plan.batch_size,
                samples_per_second=speed,
                phase=phase,
                message=message,
                checkpoint_step=kept_step,
                filled=self.filled,
                to_fill=self.to_fill,
            )
        )
