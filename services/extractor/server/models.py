"""An extraction as its row has it, and its states."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.extractor.server import resource_names
from services.records import etags
from services.records.lifecycle import Lifecycle

LIFECYCLE = Lifecycle(
    first="QUEUED",
    live=frozenset({"QUEUED", "PROCESSING"}),
    terminal=frozenset({"READY", "ERROR", "CANCELLED"}),
    making="being made",
    wait="polytok extraction watch {}",
    retry="polytok extraction retry {}",
)
"""The states of an extraction."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a model computes on the way, for the tokens of one tokenization."""

    id: uuid.UUID
    name: str
    dataset: str
    model: str
    variant: str
    tokenization: str
    tokenization_uid: str
    tokenization_key: str
    tokenization_digest: str
    tokenizer_fingerprint: str
    model_repo_id: str
    model_revision: str
    weights_fingerprint: str
    code_version: str
    parameters: Mapping[str, Any]
    excluded_token_ids: Sequence[int]
    path: str
    statistics: Mapping[str, Any]
    manifest_digest: str
    expected_tokens: int
    status: str
    progress: float
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
    def etag(self) -> str:
        """Changes with every change."""
        return etags.make(self.id, self.updated_at)
