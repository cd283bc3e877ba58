"""Verification in a process of its own, which runs while the caller listens."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from google.protobuf import any_pb2

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.jobs.v1 import messages_pb2
from polytok.tokenizer.v1 import answers_pb2, tokenizer_pb2
from services.jobs import failures, subprocess_client
from services.jobs.task_process import TaskProcess, TaskProcessFailed
from services.tokenizer.server.catalog_client import CatalogClient

_AT_ONCE = 2

Response = tokenizer_pb2.VerifyResponse


class VerificationService:
    """Verifies tokenizations, two at a time.

    A verification is not a job: it writes nothing, and the caller waits for it.
    """

    def __init__(self, catalog: CatalogClient, command: Sequence[str], *, service: str, memory_bytes: int = 0) -> None:
        self._catalog = catalog
        self._command = command
        self._service = service
        self._memory_bytes = memory_bytes
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def run(self, name: str, sample: int, *, every_document: bool = False) -> AsyncGenerator[Response]:
        """Yield progress, then the result."""
        before = await self._catalog.tokenization(name)
        if not before.manifest_digest:
            raise errors.FailedPrecondition(
                f"{before.name} was imported from an earlier version without checksums, so it cannot be "
                "verified. Delete it and tokenize again to get checksums.",
                reason="WRONG_STATE",
            )
        dataset = await self._catalog.dataset(before.dataset)
        task = answers_pb2.VerifyTask(
            tokenized_path=before.tokenized_path,
            manifest_digest=before.manifest_digest,
            raw_path=dataset.raw_path,
            sample=sample,
            every_document=every_document,
        )
        async with self._free, contextlib.aclosing(self._work(task)) as responses:
            async for response in responses:
                if response.HasField("result"):
                    await self._check_unchanged(before, response.result)
                    response.result.name = before.name
                yield response

    async def _check_unchanged(
        self, before: tokenizations_pb2.Tokenization, result: tokenizer_pb2.VerifyResult
    ) -> None:
        # Files that are missing because the tokenization was deleted meanwhile are not damaged.
        if result.findings and (await self._catalog.tokenization(before.name)).etag != before.etag:
            raise errors.Aborted(
                f"{before.name} changed while it was being verified. Verify it again.",
                reason="ETAG_MISMATCH",
                retryable=True,
            )

    async def _work(self, task: answers_pb2.VerifyTask) -> AsyncGenerator[Response]:
        payload = any_pb2.Any()
        payload.Pack(task)
        child = TaskProcess(self._command, service=self._service, memory_bytes=self._memory_bytes)
        try:
            await child.start()
            await child.send(messages_pb2.TaskCommand(kind="verify", payload=payload.SerializeToString()))
            while (event := await child.receive()) is not None:
                yield _response(event)
                if event.HasField("result"):
                    return
            raise subprocess_client.process_lost_error(child)
        except TaskProcessFailed as failure:
            raise errors.Unavailable(f"{failure} See the worker's log for details.") from failure
        finally:
            await child.kill()


def _response(event: messages_pb2.TaskEvent) -> Response:
    if event.HasField("error"):
        raise failures.from_task_error(event.error)
    if event.HasField("report"):
        encoded = tokenizer_pb2.VerifyProgress()
        event.report.Unpack(encoded)
        return Response(progress=encoded)
    if event.HasField("progress"):
        progress = tokenizer_pb2.VerifyProgress(done_bytes=event.progress.done, total_bytes=event.progress.total)
        return Response(progress=progress)
    result = tokenizer_pb2.VerifyResult()
    any_pb2.Any.FromString(event.result).Unpack(result)
    return Response(result=result)
