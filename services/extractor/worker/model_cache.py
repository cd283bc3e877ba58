"""The model that a worker has loaded: one, kept while tasks ask for the same one."""

import pathlib
from typing import NamedTuple

import torch

from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.activations import fingerprints, models
from services.extractor.worker.extraction import RangeSettings
from services.runtime import hub


class _Key(NamedTuple):
    folder: pathlib.Path
    dtype: str
    compiled: bool


class ModelCache:
    """Find the files of models, and load one model at a time."""

    def __init__(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._key: _Key | None = None
        self._model: models.LoadedModel | None = None
        self.fingerprint = ""
        """Fingerprint of the loaded weights; see `services.activations.fingerprints`."""

    def folder(self, order: tasks_pb2.ExtractionOrder) -> pathlib.Path:
        """Return the folder of a model's files, downloaded if necessary."""
        return hub.folder(order.model_repo_id, order.model_revision, files=hub.MODEL, reason="MODEL_INVALID")

    def get(self, order: tasks_pb2.ExtractionOrder) -> models.LoadedModel:
        """Return a model, loading it unless it is loaded already.

        Raises FailedPrecondition (MODEL_INVALID) if its fingerprint is not the order's, and what
        `services.activations.models.load` raises.
        """
        folder = self.folder(order)
        parameters = order.parameters
        key = _Key(folder, number_format(parameters.compute_format), parameters.compile)
        # Changed files are rejected even if the model is loaded: the result must not depend on what a worker did
        # before.
        if self._model is None or key != self._key or _check(order, folder) != self.fingerprint:
            # Release the previous model first: there may be memory for one only.
            self._key = self._model = None
            if self.device == "cuda":
                torch.cuda.empty_cache()
            checks: list[str] = []
            self._model = models.load(
                folder,
                dtype=key.dtype,
                device=self.device,
                compile=key.compiled,
                check=lambda: checks.append(_check(order, folder, *checks)),
            )
            self._key, self.fingerprint = key, checks[-1]
        return self._model


def _check(order: tasks_pb2.ExtractionOrder, folder: pathlib.Path, found: str = "") -> str:
    advice = f"Restore the old files, or retry {order.name}, which then starts over with the current files."
    return fingerprints.check_fingerprint(
        order.model_repo_id, folder, found or order.weights_fingerprint, order.name, advice
    )


def number_format(value: extractions_pb2.NumberFormat.ValueType) -> str:
    """Return the name of a number format, such as `float32`."""
    return extractions_pb2.NumberFormat.Name(value).removeprefix("NUMBER_FORMAT_").lower()


def range_settings(order: tasks_pb2.ExtractionOrder) -> RangeSettings:
    """Return the settings shared by every range of an extraction."""
    parameters = order.parameters
    keep = parameters.nonfinite == extractions_pb2.ExtractionParameters.NONFINITE_KEEP
    return RangeSettings(
        hooks=tuple(parameters.hooks),
        context_size=parameters.context_size,
        batch_size=parameters.batch_size,
        storage_dtype=number_format(parameters.storage_format),
        excluded_token_ids=tuple(order.excluded_token_ids),
        excluded_positions=tuple(parameters.excluded_positions),
        nonfinite="keep" if keep else "fail",
    )
