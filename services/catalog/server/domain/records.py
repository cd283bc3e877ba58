"""The catalog's records, as their rows have them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.catalog.server.domain import names
from services.records import etags


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus and where it stands."""

    id: uuid.UUID
    name: str
    source: Mapping[str, Any]
    raw_path: str
    num_samples: int
    size_bytes: int
    num_shards: int
    columns: Sequence[Mapping[str, str]]
    features: Mapping[str, Any]
    fingerprint: str
    commit: str
    status: str
    progress: float
    error_reason: str
    error_message: str
    error: Mapping[str, Any]
    metadata: Mapping[str, str]
    job_id: uuid.UUID | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None

    @property
    def resource(self) -> str:
        """Its resource name."""
        return names.dataset(self.name)

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return etags.make(self.id, self.updated_at)


@dataclass(frozen=True, slots=True)
class Model:
    """A model, and what its tokenizer is."""

    id: str
    name: str
    repo_id: str
    revision: str
    commit: str
    tokenizer_repo_id: str
    tokenizer_commit: str
    tokenizer_fingerprint: str
    chat_template_fingerprint: str
    tokenizer_class: str
    vocab_size: int
    special_tokens: Sequence[Mapping[str, Any]]
    architecture: str
    d_model: int
    n_layers: int
    context_length: int
    status: str
    error_reason: str
    error_message: str
    error: Mapping[str, Any]
    metadata: Mapping[str, str]
    job_id: uuid.UUID | None
    created_at: datetime
    updated_at: datetime

    @property
    def resource(self) -> str:
        """Its resource name."""
        return names.model(self.name)

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return etags.make(self.id, self.updated_at)

    @property
    def progress(self) -> float:
        """Percent done, of which an inspection knows two."""
        return 100.0 if self.status == "READY" else 0.0

    @property
    def tokenizer_source(self) -> tuple[str, str]:
        """Repository and revision that its tokenizer is read from: a commit once it is known.

        A tokenizer of its own has no other revision.
        """
        if self.tokenizer_repo_id:
            return self.tokenizer_repo_id, self.tokenizer_commit
        return self.repo_id, self.commit or self.revision

    @property
    def special_roles(self) -> frozenset[str]:
        """The roles that its tokenizer has a special token for."""
        return frozenset(token["role"] for token in self.special_tokens)


@dataclass(frozen=True, slots=True)
class Tokenization:
    """One dataset as token ids for one model, with the names of both."""

    id: str
    dataset_id: uuid.UUID
    model_id: str
    variant: str
    parameters: Mapping[str, Any]
    tokenizer_repo_id: str
    tokenizer_revision: str
    tokenizer_fingerprint: str
    chat_template_fingerprint: str
    tokenized_path: str
    vocab_size: int
    num_tokens: int
    num_sequences: int
    avg_seq_length: float
    statistics: Mapping[str, Any]
    manifest_digest: str
    status: str
    progress: float
    error_reason: str
    error_message: str
    error: Mapping[str, Any]
    job_id: uuid.UUID | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    shared_from: str | None
    dataset_name: str
    model_name: str

    @property
    def resource(self) -> str:
        """Its resource name."""
        return names.tokenization(self.dataset_name, self.model_name, self.variant)

    @property
    def short(self) -> str:
        """What commands call it."""
        return f"{self.dataset_name}/{self.resource.rpartition('/')[2]}"

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return etags.make(self.id, self.updated_at)


@dataclass(frozen=True, slots=True)
class Repair:
    """The last repair of a tokenization's files."""

    tokenization_id: str
    tokenized_path: str
    """Storage key of the folder in which files are made again."""
    status: str
    progress: float
    error_reason: str
    error_message: str
    error: Mapping[str, Any]
    outcome: Mapping[str, Any]
    """`damages`, `num_remade` and `changes` of a polytok.catalog.v1.Repair, and what the job has to know of its stages:

    `checksums_only`, if that was asked for; the keys of `bad` files; `all`, if every file is made again; `whole`, if
    those take the place of the files before.
    """
    job_id: uuid.UUID | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class File:
    """A published Arrow file."""

    key: str
    num_rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Shard(File):
    """A raw Arrow file of a dataset."""

    text_bytes: int
