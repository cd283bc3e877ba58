"""How an extraction comes to be: what is checked, what is written, and the job that makes it."""

import asyncio
import contextlib
import importlib.metadata
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import models_pb2, tokenizations_pb2
from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.activations.structure_cache import ModelStructureCache
from services.extractor.server import jobs, messages, parameters, resource_names
from services.extractor.server.models import LIFECYCLE, Extraction
from services.extractor.server.repository import extractions
from services.jobs import failures
from services.jobs.store import JobStore
from services.records.hold_client import CatalogClient, Hold
from services.records.storage_folders import StorageFolders


class ResolvedInput(NamedTuple):
    """What the catalog answered, checked to fit."""

    model: models_pb2.Model
    tokenization: tokenizations_pb2.Tokenization
    parameters: extractions_pb2.ExtractionParameters
    """Every default filled in."""


class ExtractionService:
    """Creates extractions, and starts them again."""

    def __init__(
        self,
        store: JobStore,
        folders: StorageFolders,
        catalog: CatalogClient,
        structures: ModelStructureCache,
        range_bytes: int,
    ) -> None:
        self._store = store
        self._folders = folders
        self._catalog = catalog
        self._structures = structures
        self._range_bytes = range_bytes

    async def find(
        self, dataset: str, model: str, variant: str, asked: extractions_pb2.ExtractionParameters
    ) -> ResolvedInput:
        """Ask the catalog for what is to be read; refuse what is not READY or does not fit."""
        found = await self._catalog.model(model)
        tokenization = await self._catalog.resolve(dataset, model, variant)
        structure = await self._structures.of(found, asked.hooks)
        return ResolvedInput(found, tokenization, parameters.apply_defaults(asked, found, tokenization, structure))

    async def create(self, conn: AsyncConnection, identifier: str, found: ResolvedInput) -> Extraction:
        """Make an extraction, or return the one that exists if it is the same."""
        tokenization = found.tokenization
        chosen = identifier or resource_names.default_id(
            tokenization.dataset,
            tokenization.model,
            tokenization.variant,
            found.parameters.SerializeToString(deterministic=True),
        )
        uid = uuid.uuid4()
        made = await extractions.insert(
            conn,
            id=uid,
            name=chosen,
            dataset=tokenization.dataset,
            model=tokenization.model,
            variant=tokenization.variant,
            path=resource_names.storage_key(uid),
            **input_columns(found),
        )
        if made is not None:
            return await self.begin(conn, made)
        return _same(await extractions.get(conn, chosen), found)

    async def begin(self, conn: AsyncConnection, record: Extraction) -> Extraction:
        """Hold the tokenization and starts the job that makes an extraction, the first one or another."""
        held = await self._catalog.hold(create_hold(record))
        await self._folders.reserve(conn, record.path)
        await extractions.replace_files(conn, record.id, [])
        record = await extractions.update(conn, record.id, tokenization_key=held.storage_key, weights_fingerprint="")
        tasks = jobs.create_first_tasks(record, self._range_bytes)
        job_id = await self._store.create(conn, jobs.KIND, record.resource, tasks)
        return await extractions.update(
            conn,
            record.id,
            job_id=job_id,
            held=True,
            status=LIFECYCLE.first,
            progress=0.0,
            expected_tokens=0,
            **failures.NO_ERROR,
            started_at=None,
            completed_at=None,
        )

    async def release(self, record: Extraction) -> None:
        """Let go of the tokenization that an extraction holds."""
        await self._catalog.release(create_hold(record))

    @contextlib.asynccontextmanager
    async def estimate_context(self, found: ResolvedInput) -> AsyncGenerator[tasks_pb2.ExtractionOrder]:
        """Yield the request for a trial run.

        The tokenization is held for the length of the block.
        """
        tokenization = found.tokenization
        hold = Hold(tokenization.name, f"estimates/{uuid.uuid4()}", tokenization.manifest_digest)
        held = await self._catalog.hold(hold)
        try:
            yield tasks_pb2.ExtractionOrder(
                name=hold.holder,
                tokenization=tokenization.name,
                tokenization_key=held.storage_key,
                manifest_digest=tokenization.manifest_digest,
                model=found.model.name,
                model_repo_id=found.model.repo_id,
                model_revision=found.model.commit or found.model.revision,
                parameters=found.parameters,
                excluded_token_ids=parameters.find_excluded_token_ids(found.parameters, found.model),
            )
        finally:
            await asyncio.shield(self._catalog.release(hold))


def create_hold(record: Extraction) -> Hold:
    """Return the hold of an extraction on its tokenization."""
    return Hold(record.tokenization, record.resource, record.tokenization_digest)


def input_columns(found: ResolvedInput) -> Mapping[str, Any]:
    """Return the columns of what is read and how."""
    model, tokenization = found.model, found.tokenization
    return {
        "tokenization": tokenization.name,
        "tokenization_uid": tokenization.uid,
        "tokenization_digest": tokenization.manifest_digest,
        "tokenizer_fingerprint": tokenization.tokenizer_fingerprint,
        "model_repo_id": model.repo_id,
        "model_revision": model.commit or model.revision,
        "code_version": importlib.metadata.version("polytok"),
        "parameters": json_format.MessageToDict(found.parameters, preserving_proto_field_name=True),
        "excluded_token_ids": list(parameters.find_excluded_token_ids(found.parameters, model)),
    }


def _same(existing: Extraction, found: ResolvedInput) -> Extraction:
    tokenization = found.tokenization
    of = (existing.dataset, existing.model, existing.variant)
    if of != (tokenization.dataset, tokenization.model, tokenization.variant):
        differing = [f"of {existing.tokenization}, not {tokenization.name}"]
    else:
        differing = list(parameters.describe_differences(messages.parameters(existing), found.parameters))
    if differing:
        raise errors.AlreadyExists(
            f"{existing.resource} exists with {'; '.join(differing)}. Choose another name, or delete it first.",
            metadata={"resource": existing.resource, "differing": "; ".join(differing)[:1000]},
        )
    return existing
