"""How a tokenization comes to be: what is checked, what is written, and the job that makes it."""

import secrets
from typing import Any

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server import messages
from services.catalog.server.domain import names, parameters, records, sources, states
from services.catalog.server.jobs import tokenizations as handler
from services.catalog.server.repository import distrusted_engines, sharing
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.models import models
from services.catalog.server.repository.tokenizations import tokenizations
from services.catalog.server.service import filter_patterns
from services.jobs import failures
from services.jobs.store import JobStore
from services.records import storage_folders
from services.records.queries import Lock
from services.records.storage_folders import StorageFolders

_BEGINNING: dict[str, Any] = {
    "status": states.TOKENIZATION.first,
    "progress": 0.0,
    **failures.NO_ERROR,
    "started_at": None,
    "completed_at": None,
}


class TokenizationService:
    """Creates tokenizations, and starts them again."""

    def __init__(self, store: JobStore, owned: StorageFolders) -> None:
        self._store = store
        self._folders = owned

    async def create(
        self,
        conn: AsyncConnection,
        name: names.TokenizationName,
        asked: tokenizations_pb2.TokenizationParameters,
    ) -> records.Tokenization:
        """Create a tokenization, or return the one that exists if it is the same."""
        dataset = await datasets.get(conn, name.dataset, Lock.REFERENCE)
        model = await models.get(conn, name.model, Lock.REFERENCE)
        states.DATASET.require_ready(dataset.resource, dataset.name, dataset.status, dataset.error_message)
        states.MODEL.require_ready(model.resource, model.name, model.status, model.error_message)
        parameters.require_shards(dataset)
        filter_patterns.check(asked.filters)
        complete = parameters.apply_defaults(asked, dataset, model)
        uid = names.tokenization_uid(dataset.id, model.id, name.variant)
        made = await tokenizations.insert(conn, **_values(uid, name.variant, complete, dataset, model))
        if made is not None:
            return await self.start_or_share(conn, made)
        # Its dataset is locked, so that it is not deleted.
        return _same(await tokenizations.require(conn, uid), complete)

    async def start_or_share(self, conn: AsyncConnection, record: records.Tokenization) -> records.Tokenization:
        """Bring a tokenization, which is locked, to its files: another's, those that another is about to have, or own.

        Another's are those of a tokenizer of the same content with the same parameters. READY ones are shared at once.
        While a job makes such files this one waits for its end, and is settled again (`sharing`).
        """
        # A conversation becomes text by the model's template, which is no part of its tokenizer's content.
        can_share = record.tokenizer_fingerprint and "chat" not in record.parameters
        if can_share and await sharing.is_allowed(conn):
            await sharing.lock(conn, record)
            for other in await sharing.alike(conn, record):
                if await (self._share if other.status == "READY" else self._wait)(conn, record, other):
                    return await tokenizations.require(conn, record.id)
        return await self._begin(conn, record)

    async def _share(self, conn: AsyncConnection, record: records.Tokenization, source: records.Tokenization) -> bool:
        """Take the files of another tokenization, unless that was deleted in between."""
        # With the lock on its row it is not deleted before this commits; with that on its folder it is not repaired.
        while found := await tokenizations.find_by_uid(conn, source.id, Lock.REFERENCE):
            await storage_folders.lock(conn, found.tokenized_path)
            locked = await tokenizations.require(conn, source.id)
            if locked.tokenized_path == found.tokenized_path:
                await sharing.take_files(conn, record.id, locked)
                return True
        return False

    async def _wait(self, conn: AsyncConnection, record: records.Tokenization, maker: records.Tokenization) -> bool:
        """Let it wait for one that a job is at."""
        if (record.status, record.job_id, record.shared_from) == ("QUEUED", None, maker.resource):
            return True
        await tokenizations.update(conn, record.id, **_BEGINNING, job_id=None, shared_from=maker.resource)
        return True

    async def _begin(self, conn: AsyncConnection, record: records.Tokenization) -> records.Tokenization:
        """Start the job that makes a tokenization, the first one or another."""
        dataset = await datasets.get(conn, str(record.dataset_id), Lock.REFERENCE)
        parameters.require_shards(dataset)
        path = await self._free_folder(conn, record, dataset)
        await tokenizations.replace_files(conn, record.id, [])
        own = await tokenizations.update(conn, record.id, **_BEGINNING, tokenized_path=path, shared_from=None)
        shards = await datasets.shards(conn, record.dataset_id)
        tasks = handler.first_tasks(own, shards, await distrusted_engines.distrusted(conn, own.tokenizer_fingerprint))
        job_id = await self._store.create(conn, handler.KIND, own.resource, tasks)
        return await tokenizations.update(conn, record.id, job_id=job_id)

    async def _free_folder(self, conn: AsyncConnection, record: records.Tokenization, dataset: records.Dataset) -> str:
        """Take a folder of its own, empty: others may still share that of a tokenization that had the same name."""
        path = record.tokenized_path
        while True:
            await storage_folders.lock(conn, path)
            if not await sharing.is_others(conn, path, record.id):
                await self._folders.reserve(conn, path)
                return path
            path = names.tokenized_key(dataset.raw_path, record.model_id, record.variant) + f"_{secrets.token_hex(4)}"

    async def cancel_pending(self, conn: AsyncConnection, record: records.Tokenization) -> records.Tokenization:
        """Cancel a tokenization, which is locked, that waits for another's files."""
        return await tokenizations.update(
            conn, record.id, status="CANCELLED", shared_from=None, completed_at=sa.func.clock_timestamp()
        )


def _values(
    uid: str,
    variant: str,
    complete: tokenizations_pb2.TokenizationParameters,
    dataset: records.Dataset,
    model: records.Model,
) -> dict[str, object]:
    repo_id, revision = model.tokenizer_source
    return {
        "id": uid,
        "dataset_id": dataset.id,
        "model_id": model.id,
        "variant": variant,
        "parameters": json_format.MessageToDict(complete, preserving_proto_field_name=True),
        "tokenizer_repo_id": repo_id,
        "tokenizer_revision": revision,
        "tokenizer_fingerprint": model.tokenizer_fingerprint,
        # A template of one's own is among the parameters; text needs none.
        "chat_template_fingerprint": (
            model.chat_template_fingerprint if complete.HasField("chat") and not complete.chat.template else ""
        ),
        "tokenized_path": names.tokenized_key(dataset.raw_path, model.id, variant),
        "vocab_size": model.vocab_size,
    }


def _same(existing: records.Tokenization, complete: tokenizations_pb2.TokenizationParameters) -> records.Tokenization:
    differing = sources.differences(parameters.as_fields(messages.parameters(existing)), parameters.as_fields(complete))
    if differing:
        raise parameters.exists(existing.resource, differing)
    return existing
