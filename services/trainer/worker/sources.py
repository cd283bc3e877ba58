"""Where a training's activations come from: a model that runs over a tokenization."""

import pathlib
from typing import Any

import datasets
import datasets.table

from polytok.trainer.v1 import tasks_pb2, trainings_pb2
from services.activations import fitting, hooks, models, streaming, tokenizations
from services.activations.models import LoadedModel
from services.runtime import hub
from services.runtime.storage import Storage
from services.trainer.data import live
from services.trainer.data.streams import Data

_DTYPES = {
    trainings_pb2.LiveSource.DTYPE_UNSPECIFIED: "float32",
    trainings_pb2.LiveSource.DTYPE_FLOAT32: "float32",
    trainings_pb2.LiveSource.DTYPE_BFLOAT16: "bfloat16",
    trainings_pb2.LiveSource.DTYPE_FLOAT16: "float16",
}


class Live:
    """A model and the tokenization that it reads; both are opened once."""

    def __init__(self, task: tasks_pb2.RunTrainingTask, storage: Storage, device: str) -> None:
        lineage = task.lineage
        self._task = task
        self._device = device
        self.manifest = tokenizations.read(storage, lineage.tokenization, task.source_key, lineage.tokenization_digest)
        table = tokenizations.Reader(storage).open(self.manifest)
        self._rows = datasets.Dataset(datasets.table.InMemoryTable(table))
        self._folder = model_folder(lineage)
        self._description = models.describe(self._folder)
        self._check()
        self._model: LoadedModel | None = None

    def _check(self) -> None:
        task = self._task
        tokenization = fitting.Tokenization(
            task.lineage.tokenization,
            tokenizer_fingerprint=task.tokenizer_fingerprint,
            largest_id=fitting.largest_id(self._rows),
            longest_row=int(self.manifest.statistics.get("max_seq_length", 0)),
        )
        fitting.check(self._description, tokenization, context_size=task.live.context_size)

    @property
    def model(self) -> LoadedModel:
        """The model, loaded when it is first needed."""
        if self._model is None:
            self._model = models.load(self._folder, dtype=_DTYPES[self._task.live.dtype], device=self._device)
        return self._model

    def widths(self, names: list[str]) -> dict[str, int]:
        """The width of each hook. Raises InvalidArgument for those that the model does not have."""
        found = {hook.name: hook.width for hook in hooks.parse(names, self._description)}
        unknown = tuple(name for name, width in found.items() if not width)
        if unknown:
            # A module that was named by its path: only running it tells.
            stream = streaming.Stream(self.model, self._rows, self._settings(unknown))
            piece = next(iter(stream.pieces(0, 1)))
            found |= {name: int(piece.values[name].shape[1]) for name in unknown}
        return found

    def open(self, names: tuple[str, ...], *, seed: int, held_out: int) -> Data:
        """The activations, some sequences held out."""
        return live.Live(self.model, self._rows, self._settings(names), seed=seed, held_out_rows=held_out)

    def _settings(self, names: tuple[str, ...]) -> streaming.Settings:
        return streaming.Settings(
            hooks=names,
            context_size=self._task.live.context_size,
            batch_tokens=self._task.live.batch_tokens,
            excluded_token_ids=tuple(self._task.excluded_token_ids),
        )

    @property
    def context_size(self) -> int:
        """Tokens of a sequence at most."""
        return self._task.live.context_size or int(self.manifest.statistics.get("max_seq_length", 0))

    @property
    def begins_with_bos(self) -> bool:
        """Whether sequences begin with the begin-of-sequence token, as far as the parameters tell."""
        parameters: dict[str, Any] = dict(self.manifest.parameters)
        packing = parameters.get("packing")
        if packing is not None:
            return str(packing.get("begin_of_batch", "BOUNDARY_BOS")) == "BOUNDARY_BOS"
        return bool(parameters.get("add_special_tokens", True))


def model_folder(lineage: trainings_pb2.TrainingLineage) -> pathlib.Path:
    """The folder of a model, downloaded if it is on the hub."""
    return hub.folder(lineage.model_repo_id, lineage.model_revision, files=hub.MODEL, reason="MODEL_INVALID")
