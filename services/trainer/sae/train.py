"""Train a plan: from data to exported autoencoders, resuming from the newest checkpoint.

    result = train(plan, folder, open_data=lambda device: live.LiveDataset(…), report=print, on_rows=print, stop=event)

`folder` holds `checkpoints/` and, at the end, `saes/{name}/`. If the process is killed, a call with the same plan
resumes from the newest checkpoint, and ends with the weights of an uninterrupted run: bit for bit on a processor of
the same kind with the same number of threads. Under torchrun every process calls it with the same arguments; the first
one reports.
"""

import dataclasses
import pathlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from polytok import errors
from services.trainer.sae import configs, export, loop, memory_errors, reports
from services.trainer.sae.checkpoints import Checkpoints
from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.distributed import partition, process_group
from services.trainer.sae.steps import factory

CHECKPOINTS = "checkpoints"
EXPORTS = "saes"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def _silent(_: object) -> None:
    pass


class _Exported(NamedTuple):
    """An exported autoencoder, as JSON: its folder, and the sha256 of each file by its name."""

    folder: str
    checksums: dict[str, str]


def train(
    training: configs.TrainingPlan,
    folder: pathlib.Path,
    *,
    open_data: Callable[[str], ActivationDataset],
    report: reports.OnProgress = _silent,
    on_rows: reports.OnRows = _silent,
    stop: reports.Stop | None = None,
    origin: Callable[[configs.PlannedSae], export.Origin] | None = None,
    resume: bool = True,
    keep: int = 2,
    ahead: int | None = None,
) -> reports.Result:
    """Train to the end, or until `stop` is set, after which the same call resumes.

    `open_data` is called with the device of this process; `origin` returns the provenance for an export. With `resume`
    false, existing checkpoints are removed first; the last `keep` are kept. `ahead` batches are prefetched while a
    step computes, by default as many as suit the data.

    Raises `errors.InvalidArgument` for a plan that does not fit the data, `errors.FailedPrecondition` for a loss that
    is not finite or a checkpoint of another plan, `errors.ResourceExhausted` if memory or disk do not suffice,
    `errors.DataLoss` if no checkpoint can be read.
    """
    with process_group.join_process_group(training.device, gradients=training.spread == "data") as group:
        own = dataclasses.replace(training, device=group.device)
        with memory_errors.explain_memory_errors(own):
            factory.set_threads(own.threads)
            _check_names(own)
            _check_group(own, group)
            share = partition.get_share(own, group.rank)
            data = open_data(group.device)
            _check_widths(own, data)
            data = partition.select_hooks(data, partition.list_hooks(own, share.saes))
            checkpoints = Checkpoints(folder / CHECKPOINTS, keep=keep)
            if not resume and group.first:
                checkpoints.clear()
            group.gather(None)
            listeners = loop.TrainingCallbacks(report, on_rows, stop or threading.Event())
            run = loop.TrainingLoop(
                own, data, checkpoints, group, listeners, ahead=data.ahead if ahead is None else ahead
            )
            run.prepare(checkpoints.latest(wanted=run.wants))
            finished = run.run()
            evaluations = run.evaluate() if finished else []
            exports: dict[str, _Exported] = {}
            if finished and (share.whole or group.first):
                exports = _export(run, folder / EXPORTS, origin or _unknown, _reuse(own, data))
            return _result(run, own, group, data, evaluations, exports)


def _result(
    run: loop.TrainingLoop,
    training: configs.TrainingPlan,
    group: process_group.ProcessGroup,
    data: ActivationDataset,
    evaluations: list[reports.EvaluationRow],
    exports: dict[str, _Exported],
) -> reports.Result:
    """Return the joint result of all processes."""
    finished = run.step == training.total_steps
    scales = {trainer.name: trainer.normalization.to_dict() for trainer in run.trainers}
    gathered = group.gather({"exports": exports, "normalization": scales})
    exported = {name: _Exported(*fields) for each in gathered for name, fields in each["exports"].items()}
    estimated = {name: figures for each in gathered for name, figures in each["normalization"].items()}
    names = [planned.name for planned in training.saes]
    return reports.Result(
        finished=finished,
        step=run.step,
        samples=run.step * training.batch_size,
        seconds=run.seconds,
        available_samples=data.available_samples if finished else 0,
        exports={name: pathlib.Path(exported[name].folder) for name in names if name in exported},
        checksums={name: exported[name].checksums for name in names if name in exported},
        evaluations=evaluations,
        normalization={name: estimated[name] for name in names},
    )


def _export(
    run: loop.TrainingLoop,
    folder: pathlib.Path,
    origin: Callable[[configs.PlannedSae], export.Origin],
    reuse: Mapping[str, Any],
) -> dict[str, _Exported]:
    run.report("exporting")
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for trainer in run.trainers:
        of_this = origin(trainer.planned)
        of_this = dataclasses.replace(of_this, further={**of_this.further, **reuse})
        checksums = trainer.export(of_this, run.firing(trainer), folder / trainer.name)
        found[trainer.name] = _Exported(str(folder / trainer.name), checksums)
    return found


def _reuse(training: configs.TrainingPlan, data: ActivationDataset) -> dict[str, Any]:
    """Return how often activations were trained on, for the export."""
    samples, available = training.total_steps * training.batch_size, data.available_samples
    return {"training_samples": samples, "available_samples": available, "passes": samples / available}


def _unknown(planned: configs.PlannedSae) -> export.Origin:
    return export.Origin(model_name="", hook_name=planned.hook, context_size=0, prepend_bos=None)


def _check_group(training: configs.TrainingPlan, group: process_group.ProcessGroup) -> None:
    if group.size != training.processes:
        raise errors.FailedPrecondition(
            f"processes is {training.processes}, but {group.size} are running. Use `launch.train` to start "
            "the plan's number of processes."
        )


def _check_names(training: configs.TrainingPlan) -> None:
    for planned in training.saes:
        if not _NAME.fullmatch(planned.name):
            description = (
                f"{planned.name!r} cannot be used as a folder name; use letters, digits, dots, dashes and underscores"
            )
            raise errors.InvalidArgument(
                f"saes.name: {description}.", violations=[errors.FieldViolation("saes.name", f"{description}.")]
            )


def _check_widths(training: configs.TrainingPlan, data: ActivationDataset) -> None:
    for planned in training.saes:
        width = data.widths.get(planned.hook)
        if width is None:
            description = f"{planned.hook} is not in the data; it has {', '.join(data.widths)}"
            raise errors.InvalidArgument(
                f"saes.hook: {description}.",
                reason="HOOK_NOT_FOUND",
                violations=[errors.FieldViolation("saes.hook", f"{description}.")],
            )
        if width and width != planned.sae.d_in:
            description = f"is {planned.sae.d_in}; {planned.hook} has {width} numbers per token"
            raise errors.InvalidArgument(
                f"sae.d_in {description}.", violations=[errors.FieldViolation("sae.d_in", f"{description}.")]
            )
