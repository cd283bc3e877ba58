"""How a tokenization comes to be: what is checked, what is written, and the job that makes it."""

from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.catalog.v1 import tokenizations_pb2
from services.catalog import changes, messages, patterns
from services.catalog.domain import names, parameters, records, sources, states
from services.catalog.handlers import tokenizations as handler
from services.catalog.repositories import datasets, models, tokenizations
from services.runtime.jobs.store import JobStore
from services.runtime.records.folders import Folders
from services.runtime.records.statements import Lock


class Creation:
    """Makes tokenizations, and makes them anew."""

    def __init__(self, store: JobStore, folders: Folders) -> None:
        self._store = store
        self._folders = folders

    async def create(
        self,
        conn: AsyncConnection,
        name: names.TokenizationName,
        asked: tokenizations_pb2.TokenizationParameters,
    ) -> records.Tokenization:
        """Makes a tokenization, or gives the one that exists if it is the same."""
        dataset = await datasets.get(conn, name.dataset, Lock.REFERENCE)
        model = await models.get(conn, name.model, Lock.REFERENCE)
        states.DATASET.require_ready(dataset.resource, dataset.name, dataset.status, dataset.error_message)
        states.MODEL.require_ready(model.resource, model.name, model.status, model.error_message)
        parameters.require_shards(dataset)
        patterns.check(asked.filters)
        complete = parameters.complete(asked, dataset, model)
        uid = names.tokenization_uid(dataset.id, model.id, name.variant)
        made = await tokenizations.insert(conn, **_values(uid, name.variant, complete, dataset, model))
        record = await tokenizations.by_id(conn, uid)
        assert record is not None  # locked by the insert, or held by its dataset, which is locked
        return await self.begin(conn, record) if made else _same(record, complete)

    async def begin(self, conn: AsyncConnection, record: records.Tokenization) -> records.Tokenization:
        """Starts the job that makes a tokenization, the first one or another."""
        parameters.require_shards(await datasets.get(conn, str(record.dataset_id), Lock.REFERENCE))
        await self._folders.claim(conn, record.tokenized_path)
        await tokenizations.replace_files(conn, record.id, [])
        shards = await datasets.shards(conn, record.dataset_id)
        job_id = await self._store.create(conn, handler.KIND, record.resource, handler.first_tasks(record, shards))
        await tokenizations.update(
            conn,
            record.id,
            job_id=job_id,
            status=states.TOKENIZATION.first,
            progress=0.0,
            error_reason="",
            error_message="",
            started_at=None,
            completed_at=None,
        )
        await changes.tell(conn, record.id)
        begun = await tokenizations.by_id(conn, record.id)
        assert begun is not None  # locked by the update
        return begun


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
        "tokenized_path": names.tokenized_key(dataset.raw_path, model.id, variant),
        "vocab_size": model.vocab_size,
    }


def _same(existing: records.Tokenization, complete: tokenizations_pb2.TokenizationParameters) -> records.Tokenization:
    differing = sources.differences(parameters.shown(messages.parameters(existing)), parameters.shown(complete))
    if differing:
        raise parameters.exists(existing.resource, differing)
    return existing
