"""The worker's child: a process of its own that does the tasks."""

import asyncio
import os
import pathlib
import sys
import uuid
from collections.abc import AsyncIterator

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok.catalog.v1 import tokenizations_pb2
from polytok.jobs.v1 import messages_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.jobs.task_process import TaskProcess
from services.runtime.storage import Storage
from services.tokenizer.models import loader
from services.tokenizer.settings import TokenizerSettings
from tests.support.messages import words
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters

COMMAND = [sys.executable, "-m", "services.tokenizer.worker.child"]


@pytest.fixture
async def child(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskProcess]:
    """Yield a child that works on the test's storage with one thread."""
    monkeypatch.setenv("POLYTOK_STORAGE_ROOT", storage.uri("root").removesuffix("/root"))
    monkeypatch.setenv("POLYTOK_TOKENIZER_THREADS", "1")
    found = TaskProcess(COMMAND, service="tokenizer-child")
    await found.start()
    yield found
    await found.stop()


async def done(child: TaskProcess, kind: str, payload: Message, epoch: int = 1) -> messages_pb2.TaskEvent:
    packed = any_pb2.Any()
    packed.Pack(payload)
    task = messages_pb2.TaskCommand(
        task_id=str(uuid.UUID(int=7 << 96)), epoch=epoch, kind=kind, payload=packed.SerializeToString()
    )
    await child.send(task)
    while True:
        event = await child.receive()
        assert event is not None, child.end()
        if event.WhichOneof("event") != "progress":
            return event


def unpacked(event: messages_pb2.TaskEvent, result: Message) -> None:
    assert event.WhichOneof("event") == "result", event
    assert any_pb2.Any.FromString(event.result).Unpack(result)


async def test_from_model_to_published_folder(
    child: TaskProcess, storage: Storage, folders: dict[str, pathlib.Path]
) -> None:
    folder = folders["byte_level"]
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
    inspected = tasks_pb2.InspectModelResult()
    inspect = tasks_pb2.InspectModelTask(tokenizer=reference, repo_id=str(folder))
    unpacked(await done(child, "model.inspect", inspect), inspected)
    assert inspected.tokenizer_fingerprint == loader.load(folder).fingerprint
    reference.fingerprint = inspected.tokenizer_fingerprint
    parameters = Parameters(text_column="text", max_length=inspected.context_length)
    tokenized = tasks_pb2.TokenizeShardResult()
    tokenize = tasks_pb2.TokenizeShardTask(
        shard=task_runner.text_shard(storage, samples.DOCUMENTS[:10]),
        tokenizer=reference,
        parameters=parameters,
        tokenized_key=task_runner.TOKENIZED,
        count=1,
    )
    unpacked(await done(child, "tokenize.shard", tokenize), tokenized)
    published = tasks_pb2.PublishTokenizationResult()
    publish = tasks_pb2.PublishTokenizationTask(
        name="datasets/docs/tokenizations/small",
        tokenized_key=task_runner.TOKENIZED,
        shards=[tokenized],
        tokenizer=reference,
        parameters=parameters,
        vocab_size=inspected.vocab_size,
    )
    unpacked(await done(child, "tokenize.publish", publish), published)
    found = task_runner.opened(storage, published)
    backend = loader.load(folder).backend
    assert found["input_ids"][:] == [backend.encode(text).ids[:512] for text in samples.DOCUMENTS[:10]]


async def test_failed_tasks_do_not_end_the_child(
    child: TaskProcess, storage: Storage, folders: dict[str, pathlib.Path]
) -> None:
    bad = tasks_pb2.InspectModelTask(tokenizer=tasks_pb2.TokenizerReference(repo_id="/no/model"), repo_id="/no/model")
    failed = (await done(child, "model.inspect", bad)).error
    assert (failed.reason, failed.retryable) == ("TOKENIZER_INVALID", False)
    assert {"/no/model", "folder"} <= words(failed.message)
    failed = (await done(child, "tokenize.shard", bad)).error
    assert (failed.reason, failed.retryable) == ("MESSAGE_INVALID", False)
    assert "versions" in words(failed.message)
    folder = str(folders["wordpiece"])
    good = tasks_pb2.InspectModelTask(tokenizer=tasks_pb2.TokenizerReference(repo_id=folder), repo_id=folder)
    assert (await done(child, "model.inspect", good)).WhichOneof("event") == "result"


async def test_libraries_and_threads_of_the_child(child: TaskProcess) -> None:
    maps = await asyncio.to_thread(pathlib.Path(f"/proc/{child.pid}/maps").read_text)
    assert "tokenizers" in maps
    assert "libtorch" not in maps
    environment = (await asyncio.to_thread(pathlib.Path(f"/proc/{child.pid}/status").read_text)).splitlines()
    threads = next(int(line.split()[1]) for line in environment if line.startswith("Threads:"))
    # The main thread, the one that reads tasks, and the few of Arrow and the engine.
    assert threads < 8


@pytest.mark.long
async def test_memory_stays_bounded(child: TaskProcess, storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    folder = folders["byte_level"]
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder), fingerprint=loader.load(folder).fingerprint)
    text = "\n".join(samples.DOCUMENTS)
    # As large as an ingested row may be, and many rows besides.
    giant = (text * (1 + (32 << 20) // len(text)))[: (32 << 20) - 1024]
    shard = task_runner.text_shard(storage, [giant], *[[text] * 4] * 3)
    tokenize = tasks_pb2.TokenizeShardTask(
        shard=shard,
        tokenizer=reference,
        parameters=Parameters(max_length=512, packing=tokenizations_pb2.Packing()),
        tokenized_key=task_runner.TOKENIZED,
        count=1,
    )
    assert (await done(child, "tokenize.shard", tokenize)).WhichOneof("event") == "result"
    status = await asyncio.to_thread(pathlib.Path(f"/proc/{child.pid}/status").read_text)
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    assert peak < 1 << 30


@pytest.mark.parametrize(
    ("threads", "expected", "parallel"),
    [(1, "1", "false"), (3, "3", "true"), (0, str(len(os.sched_getaffinity(0))), None)],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, threads: int, expected: str, parallel: str | None) -> None:
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "before")
    TokenizerSettings(threads=threads).apply()
    assert os.environ["RAYON_NUM_THREADS"] == expected
    assert parallel is None or os.environ["TOKENIZERS_PARALLELISM"] == parallel
