"""The trainer's records, as their rows have them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.records import etags
from services.trainer.server import resource_names


@dataclass(frozen=True, slots=True)
class Training:
    """A training and where it stands. Documents are messages of `polytok.trainer.v1` as JSON."""

    id: uuid.UUID
    name: str
    source: Mapping[str, Any]
    saes: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]
    lineage: Mapping[str, Any]
    source_key: str
    tokenization_key: str
    vocab_size: int
    tokenizer_fingerprint: str
    status: str
    pause_requested: bool
    progress: float
    step: int
    phase: str
    phase_progress: float
    total_steps: int
    cursor: int
    result_key: str
    results: Sequence[Mapping[str, Any]]
    manifest_digest: str
    error_reason: str
    error_message: str
    error: Mapping[str, Any]
    held: bool
    job_id: uuid.UUID | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def resource(self) -> str:
        """Its resource name."""
        return resource_names.format_name(self.name)

    @property
    def key(self) -> str:
        """Storage key of its folder."""
        return resource_names.storage_key(self.id)

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return etags.make(self.id, self.updated_at)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state that a training can go on from."""

    step: int
    key: str
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of metrics; `figures` is a StepFigures or an EvaluationFigures as JSON."""

    sae: str
    step: int
    kind: str
    samples: int
    figures: Mapping[str, Any]
    seq: int
