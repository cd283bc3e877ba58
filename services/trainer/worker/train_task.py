"""The task `train.run`: activations, the training loop, and the export that the trainer's server publishes."""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import torch
from google.protobuf import json_format

from polytok import manifests
from polytok.trainer.v1 import tasks_pb2, trainings_pb2
from services.jobs import task_process_main
from services.runtime.storage import Storage
from services.trainer import config_proto
from services.trainer.sae import architectures, configs, export, reports, train
from services.trainer.sae.distributed import launch
from services.trainer.worker import activation_sources, provenance, report_sender, training_rank, workspace
from services.trainer.worker.activation_sources import ActivationSource
from services.trainer.worker.worker_settings import TrainerSettings
from services.trainer.worker.workspace import Workspace

_ALL = 1 << 31
_PACKAGES = ("polytok", "torch", "transformers", "sae-lens", "safetensors")

architectures.import_sae_lens()  # imported here: the first training would otherwise wait for it


def run(
    task: tasks_pb2.RunTrainingTask, storage: Storage, settings: TrainerSettings, context: task_process_main.TaskContext
) -> tasks_pb2.RunTrainingResult:
    """Train, from the resume point if there is one. Raises TaskPaused when a requested pause took effect."""
    point = tasks_pb2.ResumePoint.FromString(context.resume_point) if context.resume_point else None
    device = _device(settings)
    settings.check(task.parameters.processes or 1, torch.cuda.device_count() if device == "cuda" else None)
    several = task.parameters.processes > 1
    if not task.lineage.extraction:
        # Without a checkpoint, nothing that is kept was made with other weights.
        task.lineage.weights_fingerprint = point.weights_fingerprint if point else ""
    with contextlib.ExitStack() as stack:
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polytok-source-")))
        # With several processes, each on its own GPU, this process leaves the GPUs to them.
        source = activation_sources.open_source(task, storage, "cpu" if several else device, scratch)
        # For the manifest, and for processes that load the model again.
        task.lineage.weights_fingerprint = source.weights_fingerprint
        widths = source.widths([sae.hook for sae in task.saes])
        complete = config_proto.plan_from_messages(
            config_proto.saes_from_messages(task.saes, widths), task.parameters, 0
        )
        complete = dataclasses.replace(complete, device=device, threads=settings.threads_of(complete.processes))
        work = stack.enter_context(workspace.open_workspace(storage, f"{task.key}/{context.tag}"))
        if point is not None:
            work.restore(point)
        sender = report_sender.ReportSender(
            context, work, point.step if point else 0, settings.kept_checkpoints, source.weights_fingerprint
        )
        result = (_together if several else _alone)(task, complete, work, source, scratch, sender, context)
        if not result.finished:
            sender.stopped(result.step, complete.total_steps)
            raise task_process_main.TaskPaused
        return _published(task, complete, result, work)


def _alone(
    task: tasks_pb2.RunTrainingTask,
    complete: configs.TrainingPlan,
    work: Workspace,
    source: ActivationSource,
    _: pathlib.Path,
    sender: report_sender.ReportSender,
    context: task_process_main.TaskContext,
) -> reports.Result:
    """Train in this process."""
    return train.train(
        complete,
        work.folder,
        open_data=lambda _: source.open(complete.hooks, seed=complete.seed, held_out=complete.evaluation_sequences),
        report=sender.progress,
        on_rows=sender.rows,
        stop=context.pause_requested,
        origin=provenance.origins(task, source, complete),
        # ReportSender removes old checkpoints once the server knows of later ones.
        keep=_ALL,
    )


def _together(
    task: tasks_pb2.RunTrainingTask,
    complete: configs.TrainingPlan,
    work: Workspace,
    source: ActivationSource,
    scratch: pathlib.Path,
    sender: report_sender.ReportSender,
    context: task_process_main.TaskContext,
) -> reports.Result:
    """Train in several processes, each of which opens the source again."""
    origin = provenance.origins(task, source, complete)
    return launch.train(
        complete,
        work.folder,
        training_rank.describe_source(task, scratch),
        module=training_rank.__name__,
        report=sender.progress,
        on_rows=sender.rows,
        stop=context.pause_requested,
        origins={planned.name: origin(planned) for planned in complete.saes},
        keep=_ALL,
    )


def _device(settings: TrainerSettings) -> str:
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _published(
    task: tasks_pb2.RunTrainingTask, complete: configs.TrainingPlan, result: reports.Result, work: Workspace
) -> tasks_pb2.RunTrainingResult:
    """Store the export, its manifest last."""
    evaluations = {row.sae: row for row in result.evaluations}
    answer = tasks_pb2.RunTrainingResult(
        key=f"{work.key}/{workspace.EXPORTS}",
        versions=manifests.versions(*_PACKAGES),
        device=_device_name(complete.device),
    )
    answer.available_samples = result.available_samples
    for planned in complete.saes:
        files = list(work.exported(planned.name, result.checksums[planned.name]))
        answer.files.extend(files)
        config = json.loads((result.exports[planned.name] / export.CONFIG).read_bytes())
        answer.results.append(
            trainings_pb2.TrainedSae(
                name=planned.name,
                hook=planned.hook,
                architecture=config["architecture"],
                d_in=planned.sae.d_in,
                d_sae=planned.sae.d_sae,
                evaluation=report_sender.evaluation_to_message(evaluations[planned.name]),
                size_bytes=sum(file.size_bytes for file in files),
            )
        )
    answer.manifest_digest = work.write(manifests.NAME, manifests.encode(_manifest(task, complete, result, answer)))
    return answer


def _manifest(
    task: tasks_pb2.RunTrainingTask,
    complete: configs.TrainingPlan,
    result: reports.Result,
    answer: tasks_pb2.RunTrainingResult,
) -> dict[str, Any]:
    return {
        "name": task.training,
        "lineage": json_format.MessageToDict(task.lineage, preserving_proto_field_name=True),
        "plan": complete.to_dict(),
        "steps": result.step,
        "samples": result.samples,
        "available_samples": result.available_samples,
        "seconds": result.seconds,
        "normalization": result.normalization,
        "evaluations": {row.sae: row.figures for row in result.evaluations},
        "files": [{"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in answer.files],
        "versions": dict(answer.versions),
        "device": answer.device,
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
