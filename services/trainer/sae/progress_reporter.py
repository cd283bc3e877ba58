"""How far a training is, told to whoever listens: a few times a second, and whenever something else begins."""

import time

from services.trainer.sae import configs, reports

_SECONDS = 0.2
_OFTEN = frozenset({"filling", "training"})


class ProgressReporter:
    """What a process tells of its training. `filled` of `to_fill` activations are read before the first step."""

    def __init__(self, training: configs.TrainingPlan, report: reports.OnProgress) -> None:
        self._plan = training
        self._report = report
        self._phase: reports.Phase = "preparing"
        self._told = (0.0, 0, 0.0)
        self.filled = 0
        self.to_fill = 0

    def report(self, phase: reports.Phase, step: int, kept_step: int, message: str = "") -> None:
        """Report; `kept_step` is the newest checkpoint's.

        In one phase a report soon after another is left out, unless there is a message or a new checkpoint.
        """
        now = time.monotonic()
        then, before, speed = self._told
        written = step == kept_step and step != before
        again = phase == self._phase and phase in _OFTEN
        if again and now - then < _SECONDS and not written and not message:
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
