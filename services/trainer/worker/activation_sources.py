"""The source of a training's activations: a model that runs over a tokenization, or an extraction."""

import functools
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import datasets
import datasets.table

from polytok import errors, manifests
from polytok.trainer.v1 import tasks_pb2, trainings_pb2
from services.activations import activation_stream, compatibility, fingerprints, hooks, models, tokenizations
from services.activations.models import LoadedModel
from services.activations.token_selection import TokenSelection
from services.runtime import hub
from services.runtime.storage import Storage
from services.runtime.telemetry import logging
from services.trainer.sae.data import extraction, live
from services.trainer.sae.data.dataset import ActivationDataset

_CHUNK_BYTES = 8 << 20

_log = logging.get(__name__)

_DTYPES = {
    trainings_pb2.LiveSource.DTYPE_UNSPECIFIED: "float32",
    trainings_pb2.LiveSource.DTYPE_FLOAT32: "float32",
    trainings_pb2.LiveSource.DTYPE_BFLOAT16: "bfloat16",
    trainings_pb2.LiveSource.DTYPE_FLOAT16: "float16",
}


class ActivationSource(Protocol):
    """The activations that a training reads."""

    def widths(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the width of each hook. Raises InvalidArgument for unknown hooks."""

    def open(self, names: tuple[str, ...], *, seed: int, held_out: int) -> ActivationDataset:
        """Return the activations, with some sequences held out."""

    @property
    def selection(self) -> TokenSelection:
        """Return which tokens' activations are trained on."""

    @property
    def dtype(self) -> str:
        """Return the number format that the model runs in."""

    @property
    def weights_fingerprint(self) -> str:
        """Return the fingerprint of the model's weights."""

    @property
    def manifest(self) -> tokenizations.TokenizationManifest | None:
        """Return the manifest of the tokenization, if it still exists."""

    @property
    def tokens(self) -> Any:
        """Return the tokenization as a `datasets.Dataset`, or None if it is gone."""


def open_source(
    task: tasks_pb2.RunTrainingTask, storage: Storage, device: str, scratch: pathlib.Path, *, fetched: bool = False
) -> ActivationSource:
    """Return the source of a training.

    `scratch` is a folder for files copied from a remote storage; with `fetched`, they are there already.
    """
    if task.lineage.extraction:
        return ExtractedActivations(task, storage, device, scratch, fetched=fetched)
    return LiveActivations(task, storage, device)


class LiveActivations:
    """A model and the tokenization that it reads; both are opened once.

    Raises FailedPrecondition (MODEL_INVALID) if the model's fingerprint is not the lineage's.
    """

    def __init__(self, task: tasks_pb2.RunTrainingTask, storage: Storage, device: str) -> None:
        lineage = task.lineage
        self._task = task
        self._device = device
        self.manifest = tokenizations.read_manifest(
            storage, lineage.tokenization, task.tokenization_key, lineage.tokenization_digest
        )
        table = tokenizations.TokenizationReader(storage).open(self.manifest)
        self.tokens = datasets.Dataset(datasets.table.InMemoryTable(table))
        self._folder = model_folder(lineage)
        self.weights_fingerprint = _check_weights(task, self._folder, lineage.weights_fingerprint)
        self._description = models.describe(self._folder)
        self._check()
        self._model: LoadedModel | None = None

    def _check(self) -> None:
        task = self._task
        tokenization = compatibility.TokenizationFacts(
            task.lineage.tokenization,
            tokenizer_fingerprint=task.tokenizer_fingerprint,
            largest_id=compatibility.largest_id(self.tokens),
            longest_row=int(self.manifest.statistics.get("max_seq_length", 0)),
        )
        compatibility.check_compatible(self._description, tokenization, context_size=self.selection.context_size)

    @property
    def model(self) -> LoadedModel:
        """Return the model, loading it on first use."""
        if self._model is None:
            self._model = models.load(
                self._folder,
                dtype=self.dtype,
                device=self._device,
                compile=self._task.parameters.compile,
                check=lambda: _check_weights(self._task, self._folder, self.weights_fingerprint),
            )
        return self._model

    def widths(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the width of each hook. Raises InvalidArgument for hooks that the model does not have."""
        found = {hook.name: hook.width for hook in hooks.parse_hooks(names, self._description)}
        unknown = tuple(name for name, width in found.items() if not width)
        if unknown:
            # A module named by its path: only a forward pass shows its width.
            stream = activation_stream.ActivationStream(self.model, self.tokens, self._settings(unknown))
            piece = next(iter(stream.pieces(0, 1)))
            found |= {name: int(piece.values[name].shape[1]) for name in unknown}
        return found

    def open(self, names: tuple[str, ...], *, seed: int, held_out: int) -> ActivationDataset:
        """Return the activations, with some sequences held out."""
        return live.LiveDataset(self.model, self.tokens, self._settings(names), seed=seed, held_out_rows=held_out)

    def _settings(self, names: tuple[str, ...]) -> activation_stream.StreamSettings:
        return activation_stream.StreamSettings(
            hooks=names,
            batch_tokens=self._task.live.batch_tokens,
            selection=self.selection,
        )

    @property
    def selection(self) -> TokenSelection:
        """Return which tokens' activations are trained on."""
        return TokenSelection.from_message(self._task.lineage.selection)

    @property
    def dtype(self) -> str:
        """Return the number format that the model runs in."""
        return _DTYPES[self._task.live.dtype]


class ExtractedActivations:
    """An extraction, and the model that it was made with, used for evaluation only."""

    def __init__(
        self,
        task: tasks_pb2.RunTrainingTask,
        storage: Storage,
        device: str,
        scratch: pathlib.Path,
        *,
        fetched: bool = False,
    ) -> None:
        self._task = task
        self._storage = storage
        self._device = device
        manifest = self._extraction()
        asked = manifest["parameters"].get("compute_format", "NUMBER_FORMAT_FLOAT32")
        self.dtype = str(asked).removeprefix("NUMBER_FORMAT_").lower()
        self._rows = extraction.open_extraction(self._folder(scratch, fetched), task.lineage.extraction, manifest)

    def _extraction(self) -> Any:
        lineage = self._task.lineage
        try:
            data = self._storage.read_bytes(f"{self._task.source_key}/{manifests.NAME}")
        except errors.NotFound:
            data = b""
        found = manifests.decode_checked(data, lineage.extraction_digest)
        if found is None:
            what = "was recreated" if data else "was deleted"
            raise errors.FailedPrecondition(
                f"{lineage.extraction} {what} since this training was created. Extract again, and create "
                "another training on the new extraction.",
                reason="RESOURCE_CHANGED",
                metadata={"resource": lineage.extraction},
            )
        return found

    def _folder(self, scratch: pathlib.Path, fetched: bool) -> pathlib.Path:
        key = self._task.source_key
        local = self._storage.local_path(key)
        if local is not None or fetched:
            return local or scratch
        for each in self._storage.list(key):
            with self._storage.open(each) as stream, (scratch / each.rpartition("/")[2]).open("wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK_BYTES)
        return scratch

    def widths(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the width of each hook. Raises InvalidArgument for hooks that were not extracted."""
        return extraction.ExtractionTable(self._rows, tuple(names), self._task.lineage.extraction).widths

    def open(self, names: tuple[str, ...], *, seed: int, held_out: int) -> ActivationDataset:
        """Return the activations, with some rows held out."""
        return extraction.ExtractionDataset(
            self._rows,
            names,
            name=self._task.lineage.extraction,
            seed=seed,
            held_out_rows=held_out,
            origin=self._origin(),
        )

    @property
    def weights_fingerprint(self) -> str:
        """Return the fingerprint of the weights that the extraction was made with.

        Empty if an old version did not record it.
        """
        return self._task.lineage.weights_fingerprint

    @functools.cached_property
    def manifest(self) -> tokenizations.TokenizationManifest | None:
        """Return the manifest of the tokenization, if it still exists."""
        lineage = self._task.lineage
        if not self._task.tokenization_key:
            return None
        try:
            return tokenizations.read_manifest(
                self._storage, lineage.tokenization, self._task.tokenization_key, lineage.tokenization_digest
            )
        except errors.FailedPrecondition as error:
            # Training needs only what was extracted; the autoencoders are then not evaluated in the model.
            _log.warning("no evaluation in the model", error=error.message)
            return None

    @functools.cached_property
    def tokens(self) -> Any:
        """Return the tokenization as a `datasets.Dataset`, or None if it is gone."""
        manifest = self.manifest
        if manifest is None:
            return None
        return datasets.Dataset(
            datasets.table.InMemoryTable(tokenizations.TokenizationReader(self._storage).open(manifest))
        )

    def _origin(self) -> extraction.ExtractionOrigin | None:
        if self.tokens is None:
            return None
        # Loaded in the number format of the extraction: in another one its activations would differ.
        folder = model_folder(self._task.lineage)
        model = models.load(
            folder,
            dtype=self.dtype,
            device=self._device,
            check=lambda: _check_weights(self._task, folder, self.weights_fingerprint),
        )
        return extraction.ExtractionOrigin(model, self.tokens, self.selection)

    @property
    def selection(self) -> TokenSelection:
        """Return which tokens' activations are in the extraction."""
        return TokenSelection.from_message(self._task.lineage.selection)


def _check_weights(task: tasks_pb2.RunTrainingTask, folder: pathlib.Path, expected: str) -> str:
    reader, otherwise = task.training, "start over with `polytok training retry … --from-start`"
    if task.lineage.extraction:
        reader, otherwise = task.lineage.extraction, ("extract again and create another training on the new extraction")
    advice = f"Restore the old files and retry the training, or {otherwise}."
    return fingerprints.check_fingerprint(task.lineage.model_repo_id, folder, expected, reader, advice)


def model_folder(lineage: trainings_pb2.TrainingLineage) -> pathlib.Path:
    """Return the folder of a model, downloaded if it is on the hub."""
    return hub.folder(lineage.model_repo_id, lineage.model_revision, files=hub.MODEL, reason="MODEL_INVALID")
