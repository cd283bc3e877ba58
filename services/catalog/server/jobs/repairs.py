"""Jobs of kind `repair`: read all files, rebuild the bad ones, and replace them.

    repair.check x groups of files → the tokenization's own stages → repair.restore

First every file is compared with its checksum. A checksum does not say whether the ids are right: unless the request is
for checksums only, the reference engine rebuilds all files; otherwise only bad files are rebuilt. Rebuilt files go to a
separate folder. If they are byte for byte what was written before, `repair.restore` moves them over the bad files, and
neither names nor manifest change. If they differ (the ids were wrong; another version of the software writes them), or
the manifest itself is lost or wrong, all files are rebuilt and published in a new folder, and one statement points all
tokenizations that share the old folder at it. Packed, shuffled or deduplicated files are built from all raw shards.
"""

import asyncio
import dataclasses
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.tokenizer.v1 import repairs_pb2, tasks_pb2
from services.catalog.server import messages
from services.catalog.server.domain import records, states
from services.catalog.server.jobs import mismatches, stage_results, tokenization_stages, tokenizations
from services.catalog.server.repository import distrusted_engines, holds, repairs, sharing
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.tokenizations import tokenizations as repository
from services.jobs import payloads
from services.jobs.failures import Failure
from services.jobs.model import Job, NewTask, TaskResult
from services.records import publication, storage_folders
from services.records.job_handler import RecordJobHandler
from services.records.queries import Lock
from services.runtime.storage import Storage

KIND = "repair"
CHECK, RESTORE, PUBLISH = "repair.check", "repair.restore", tokenization_stages.PUBLISH
_FILES = frozenset({tokenization_stages.SHARD, tokenization_stages.ASSEMBLE})
_GROUP_BYTES = 1 << 30
_MOST_DAMAGES = 1000
_ORDINAL = re.compile(r"shard-(\d{5,})-of-\d{5,}-")


def first_tasks(
    record: records.Tokenization, files: Sequence[records.File], *, checksums_only: bool = False
) -> list[NewTask]:
    """Return the tasks that a job begins with: files are read a gibibyte at a time."""
    groups: list[list[records.File]] = [[]]
    size = 0
    for file in files:
        if groups[-1] and size + file.size_bytes > _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size_bytes
    return [
        NewTask(
            kind=CHECK,
            payload=payloads.to_any(
                repairs_pb2.CheckFilesTask(tokenized_key=record.tokenized_path, files=_messages(group))
            ),
            ordinal=ordinal,
            weight=2 * max(1, sum(file.size_bytes for file in group)),
            # How many bad files are to be made again is known afterwards; a third of the way is left for it. To encode
            # everything with the reference takes some fifty times as long as to read the files.
            ahead=(1 if checksums_only else 100) * max(1, sum(file.size_bytes for file in group)),
        )
        for ordinal, group in enumerate(groups)
    ]


def _messages(files: Iterable[records.File]) -> list[tasks_pb2.TokenizedFile]:
    return [
        tasks_pb2.TokenizedFile(key=file.key, num_rows=file.num_rows, size_bytes=file.size_bytes, sha256=file.sha256)
        for file in files
    ]


def _ordinal(key: str) -> int:
    """Return the place of the task that makes a file, from its name; -1 if it does not."""
    found = _ORDINAL.match(posixpath.basename(key))
    return int(found[1]) if found else -1


class RepairJobHandler(RecordJobHandler):
    """Brings a repair from QUEUED through PROCESSING to DONE, ERROR or CANCELLED; the tokenization stays READY."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def started(self, conn: AsyncConnection, job: Job) -> None:
        """Record that a worker has begun."""
        await self.change(conn, job, status="PROCESSING")

    async def next_stage(
        self, conn: AsyncConnection, job: Job, stage: int, results: Sequence[TaskResult]
    ) -> Sequence[NewTask]:
        """Check, build, compare, restore."""
        repair = await repairs.find_by_job(conn, job.id)
        record = await repository.find_by_uid(conn, repair.tokenization_id) if repair else None
        kind = results[0].kind
        if repair is None or record is None or kind == PUBLISH:
            return []
        if kind == CHECK:
            return await self._checked(conn, repair, record, payloads.from_any(results, repairs_pb2.CheckFilesResult))
        if kind == RESTORE:
            (restored,) = payloads.from_any(results, repairs_pb2.RestoreFilesResult)
            return await self._restored(conn, job, repair, record, restored)
        if kind in mismatches.ENCODING:
            results = await stage_results.latest_results(conn, job, {kind})
            wrong = await mismatches.find(conn, record.tokenizer_fingerprint, results)
            if wrong or (not repair.outcome.get("all") and await mismatches.is_suspect(conn, record)):
                return await self._all(conn, repair, record)
        working = dataclasses.replace(record, tokenized_path=repair.tokenized_path)
        if kind in _FILES:
            return await self._made(conn, job, repair, working, results)
        tasks = await tokenization_stages.next_tasks(
            conn, job, stage, results, working, tokenizations.tokenizer_of(record)
        )
        return _only(tasks, repair.outcome)

    async def _checked(
        self,
        conn: AsyncConnection,
        repair: records.Repair,
        record: records.Tokenization,
        results: Sequence[repairs_pb2.CheckFilesResult],
    ) -> list[NewTask]:
        bad = [key for result in results for key in result.bad_keys]
        damages = [message for result in results for message in result.messages]
        outcome = {**repair.outcome, "damages": damages[:_MOST_DAMAGES], "bad": bad}
        if -1 in [_ordinal(key) for key in bad]:
            return await self._whole(conn, repair, record, outcome)
        if not repair.outcome.get("checksums_only") or await mismatches.is_suspect(conn, record):
            return await self._plan(conn, repair, record, {**outcome, "all": True})
        return await (self._plan if bad else self._mend)(conn, repair, record, outcome)

    async def _plan(
        self, conn: AsyncConnection, repair: records.Repair, record: records.Tokenization, outcome: dict[str, Any]
    ) -> list[NewTask]:
        """Return the tasks that make files again, all of them with the reference where all are made."""
        await self._note(conn, repair, outcome)
        working = dataclasses.replace(record, tokenized_path=repair.tokenized_path)
        shards = await datasets.shards(conn, record.dataset_id)
        distrusted = await distrusted_engines.distrusted(conn, record.tokenizer_fingerprint)
        tasks = tokenizations.first_tasks(working, shards, distrusted, reference_only=bool(outcome.get("all")))
        return _only(tasks, outcome)

    async def _whole(
        self, conn: AsyncConnection, repair: records.Repair, record: records.Tokenization, outcome: dict[str, Any]
    ) -> list[NewTask]:
        """Return every file is made again, and takes the place of the one before."""
        await _require_unheld(conn, record)
        return await self._plan(conn, repair, record, {**repair.outcome, **outcome, "all": True, "whole": True})

    async def _all(self, conn: AsyncConnection, repair: records.Repair, record: records.Tokenization) -> list[NewTask]:
        """Return an engine is not exact that made bad files again, or made files first: the reference makes all."""
        distrusted = await distrusted_engines.distrusted(conn, record.tokenizer_fingerprint)
        suspect = (
            f"{', '.join(distrusted)} gave other ids than the reference for this tokenizer: all files are checked."
        )
        return await self._plan(conn, repair, record, {**_with_damages(repair.outcome, [suspect]), "all": True})

    async def _made(
        self,
        conn: AsyncConnection,
        job: Job,
        repair: records.Repair,
        working: records.Tokenization,
        results: Sequence[TaskResult],
    ) -> list[NewTask]:
        """Files were made again: they are compared with what they were, and published where they are not the same."""
        found = payloads.from_any(results, tasks_pb2.TokenizeShardResult)
        made = {_ordinal(file.key): file for each in found for file in each.files}
        publication.check_inside(working.tokenized_path, tokenization_stages.keys(made.values()))
        if repair.outcome.get("whole"):
            return await self._publish(conn, job, working)
        record = await repository.require(conn, repair.tokenization_id)
        files, bad = await repository.files(conn, record.id), repair.outcome["bad"]
        expected = {_ordinal(file.key): file for file in files if repair.outcome.get("all") or file.key in bad}
        differing = [place for place in sorted(made | expected) if not _is_same(made.get(place), expected.get(place))]
        if differing and not repair.outcome.get("all"):
            return await self._whole(conn, repair, record, {})
        if differing:
            await _require_unheld(conn, record)
            known = {_ordinal(key) for key in bad}
            damages = [_wrong(expected.get(place), place) for place in differing if place not in known]
            await self._note(conn, repair, {**_with_damages(repair.outcome, damages), "whole": True})
            return await self._publish(conn, job, working)
        moves = [
            catalog_tasks_pb2.StagedFile(staged_key=made[place].key, final_key=file.key, sha256=file.sha256)
            for place, file in expected.items()
            if file.key in bad
        ]
        outcome = {**repair.outcome, "num_remade": len(moves)}
        return await self._mend(conn, repair, record, outcome, moves, made if outcome.get("all") else None)

    async def _restored(
        self,
        conn: AsyncConnection,
        job: Job,
        repair: records.Repair,
        record: records.Tokenization,
        restored: repairs_pb2.RestoreFilesResult,
    ) -> list[NewTask]:
        """Return the manifest was lost, or it was not: what was made of all files is taken with another one."""
        if not restored.manifest_lost:
            return []
        if not repair.outcome.get("all"):
            return await self._whole(conn, repair, record, {})
        await _require_unheld(conn, record)
        await self._note(conn, repair, {**repair.outcome, "whole": True})
        return await self._publish(conn, job, dataclasses.replace(record, tokenized_path=repair.tokenized_path))

    async def _publish(self, conn: AsyncConnection, job: Job, working: records.Tokenization) -> list[NewTask]:
        """Return all files are there that take the place of those before."""
        results = await stage_results.latest_results(conn, job, _FILES)
        task = await tokenizations.publishing(conn, working, payloads.from_any(results, tasks_pb2.TokenizeShardResult))
        task.counted.extend(await tokenization_stages.collect_counts(conn, job))
        return [NewTask(kind=PUBLISH, payload=payloads.to_any(task), weight=1)]

    async def _mend(
        self,
        conn: AsyncConnection,
        repair: records.Repair,
        record: records.Tokenization,
        outcome: dict[str, Any],
        moves: Sequence[catalog_tasks_pb2.StagedFile] = (),
        made: Mapping[int, tasks_pb2.TokenizedFile] | None = None,
    ) -> list[NewTask]:
        """Return the task that puts back what was made again; `made` are all files, by their places, where all were."""
        await self._note(conn, repair, outcome)
        # The manifest has the name and the tokenizer of the one that made the files.
        maker = (await sharing.of_folder(conn, record.tokenized_path))[0]
        files = tasks_pb2.TokenizeShardResult(
            files=_messages(await repository.files(conn, record.id)), statistics=messages.statistics(record)
        )
        for file in files.files:
            if made and made[_ordinal(file.key)].HasField("phase"):
                file.phase = made[_ordinal(file.key)].phase
        task = repairs_pb2.RestoreFilesTask(
            publication=await tokenizations.publishing(conn, maker, [files]),
            manifest_digest=record.manifest_digest,
            files=moves,
            made_all=made is not None,
        )
        task.publication.name = record.shared_from or record.resource
        # That the manifest is lost is found here at the earliest, and then all files are made again.
        return [NewTask(kind=RESTORE, payload=payloads.to_any(task), weight=1, ahead=1)]

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish what was staged."""
        repair = await repairs.find_by_job(conn, job.id)
        # Nobody begins to share its files, nor deletes it, until this commits.
        record = await repository.find_by_uid(conn, repair.tokenization_id, Lock.CHANGE) if repair else None
        if repair is None or record is None:
            return
        await storage_folders.lock(conn, record.tokenized_path)
        if results[0].kind == PUBLISH:
            (made,) = payloads.from_any(results, tasks_pb2.PublishTokenizationResult)
            outcome = await self._replace(conn, job, repair, record, made)
        else:
            (restored,) = payloads.from_any(results, repairs_pb2.RestoreFilesResult)
            await publication.publish(self._storage, record.tokenized_path, restored.staged_files)
            # What the stages before left; the files were moved out of it.
            await asyncio.to_thread(self._storage.delete_tree, repair.tokenized_path)
            outcome = _with_damages(repair.outcome, restored.messages)
        await self.change(
            conn, job, status="DONE", progress=100.0, outcome=outcome, completed_at=sa.func.clock_timestamp()
        )

    async def _replace(
        self,
        conn: AsyncConnection,
        job: Job,
        repair: records.Repair,
        record: records.Tokenization,
        made: tasks_pb2.PublishTokenizationResult,
    ) -> dict[str, Any]:
        """Point all tokenizations of the folder at the rebuilt one; garbage collection deletes the old one."""
        await _require_unheld(conn, record)
        await publication.publish(self._storage, repair.tokenized_path, made.staged_files)
        before = await repository.files(conn, record.id)
        files = await self._new_files(conn, job)
        values = tokenizations.published(made)
        outcome = _with_damages(repair.outcome, await self._lost(conn, job))
        outcome |= {"num_remade": len(files), "changes": _differences(record, before, values, files)}
        for each in await sharing.of_folder(conn, record.tokenized_path):
            await repository.replace_files(conn, each.id, files)
            await repository.update(conn, each.id, tokenized_path=repair.tokenized_path, **values)
        return outcome

    async def _new_files(self, conn: AsyncConnection, job: Job) -> list[records.File]:
        results = await stage_results.latest_results(conn, job, _FILES)
        found = payloads.from_any(results, tasks_pb2.TokenizeShardResult)
        return [
            records.File(file.key, file.num_rows, file.size_bytes, file.sha256) for each in found for file in each.files
        ]

    async def _lost(self, conn: AsyncConnection, job: Job) -> list[str]:
        results = await stage_results.latest_results(conn, job, {RESTORE})
        return [
            text
            for restored in payloads.from_any(results, repairs_pb2.RestoreFilesResult)
            for text in restored.messages
        ]

    async def failed(self, conn: AsyncConnection, job: Job, failure: Failure) -> None:
        """Return why, and what can be repaired all the same."""
        repair = await repairs.find_by_job(conn, job.id)
        record = await repository.find_by_uid(conn, repair.tokenization_id) if repair else None
        if repair and record and repair.outcome.get("all") and failure.reason != "RESOURCE_HELD":
            command = f"polytok tokenization repair {record.short} --checksums-only"
            message = f"{failure.message} Without a comparison of the ids, `{command}` repairs files."
            failure = dataclasses.replace(failure, message=message)
        await super().failed(conn, job, failure)

    async def record(self, conn: AsyncConnection, job: Job, epoch: int, reports: Sequence[bytes]) -> None:
        """Distrust engines, from the moment that one mismatch is found."""
        await mismatches.keep(conn, job.resource, reports)

    async def progressed(self, conn: AsyncConnection, job: Job, percent: float) -> None:
        """Show how much was read and made."""
        await repairs.progress(conn, job.id, states.shown_progress(percent))

    async def _note(self, conn: AsyncConnection, repair: records.Repair, outcome: dict[str, Any]) -> None:
        await repairs.update(conn, repair.tokenization_id, outcome=outcome)

    async def change(self, conn: AsyncConnection, job: Job, **values: Any) -> None:
        """Change the record of a job, if it is still there, and return of it."""
        repair = await repairs.find_by_job(conn, job.id)
        if repair is not None:
            await repairs.update(conn, repair.tokenization_id, **values)


async def _require_unheld(conn: AsyncConnection, record: records.Tokenization) -> None:
    """Refuse to replace files that somebody reads: their bytes are to stay those that the reader began with."""
    for each in await sharing.of_folder(conn, record.tokenized_path):
        if holders := await holds.holders(conn, each.id):
            raise errors.FailedPrecondition(
                f"The files of {each.resource} do not come out the same to the byte, and {', '.join(holders)} read "
                "what is there. Wait until that ends, then repair again.",
                reason="RESOURCE_HELD",
                metadata={"resource": each.resource, "holders": ", ".join(holders)[:1000]},
            )


def _only(tasks: list[NewTask], outcome: Any) -> list[NewTask]:
    """Of the tasks that make files those that make bad ones, unless all are wanted; others as they are."""
    if tasks[0].kind not in _FILES or outcome.get("all"):
        return tasks
    wanted = {_ordinal(key) for key in outcome["bad"]}
    # A plan that has no such file any more gives others, and with them every file is made again.
    return [task for task in tasks if task.ordinal in wanted] or tasks


def _is_same(made: tasks_pb2.TokenizedFile | None, before: records.File | None) -> bool:
    """Return whether a file that was made again is byte for byte the one before."""
    if made is None or before is None:
        return False
    return (made.size_bytes, made.sha256) == (before.size_bytes, before.sha256)


def _wrong(before: records.File | None, ordinal: int) -> str:
    """Return what is wrong with a file that the reference makes otherwise."""
    if before is None:
        return f"The sequences of file {ordinal} are missing."
    return f"{posixpath.basename(before.key)} does not hold what the reference makes of the dataset."


def _with_damages(outcome: Any, messages: Iterable[str]) -> dict[str, Any]:
    return {**outcome, "damages": [*outcome.get("damages", []), *messages][:_MOST_DAMAGES]}


def _differences(
    record: records.Tokenization,
    before: Sequence[records.File],
    values: dict[str, Any],
    files: Sequence[records.File],
) -> list[str]:
    """Return the differences between the rebuilt files and the earlier ones, in sentences."""
    differences = [f"The manifest has another digest, {values['manifest_digest'][:12]}…, and the files another folder."]
    if [file.sha256 for file in before] == [file.sha256 for file in files]:
        return [*differences, "The content of every Arrow file is the same, byte for byte."]
    same = {file.sha256 for file in before}.intersection(file.sha256 for file in files)
    differences.append(
        f"{len(files) - len(same)} of {len(files)} Arrow files have other content than the {len(before)} before."
    )
    old = {field: getattr(record, field) for field in ("num_tokens", "num_sequences")} | dict(record.statistics)
    new = {**values, **values["statistics"]}
    differences += [
        f"{field} was {old.get(field)} and is {new.get(field)}."
        for field in ("num_tokens", "num_sequences", "reference_version", "engine")
        if old.get(field) != new.get(field)
    ]
    return differences
