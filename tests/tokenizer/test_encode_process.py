"""The process behind TokenizerService, as the worker uses it."""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from polytok import errors
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2, tokenizer_pb2
from services.jobs.subprocess_client import SubprocessClient
from services.tokenizer.models import loader
from tests.support import processes
from tests.support.messages import words
from tests.support.servers import await_condition

COMMAND = (sys.executable, "-m", "services.tokenizer.server.encode_process")


@pytest.fixture
async def answering() -> AsyncIterator[SubprocessClient]:
    asked = SubprocessClient(COMMAND, service="test", about="The tokenizer")
    yield asked
    await asked.close()


def question(folder: pathlib.Path, text: str = "The quick brown fox") -> answers_pb2.EncodeTask:
    return answers_pb2.EncodeTask(tokenizer=tasks_pb2.TokenizerReference(repo_id=str(folder)), text=text)


async def ids(answering: SubprocessClient, asked: answers_pb2.EncodeTask) -> list[int]:
    answer = await answering.ask("encode", asked, tokenizer_pb2.Encoding)
    return [token.id for token in answer.tokens]


async def test_it_starts_when_it_is_asked(answering: SubprocessClient, folders: dict[str, pathlib.Path]) -> None:
    assert answering.pid == 0
    backend = loader.load(folders["byte_level"]).backend
    texts = [f"{number} ships" for number in range(20)]
    found = await asyncio.gather(*(ids(answering, question(folders["byte_level"], text)) for text in texts))
    assert found == [backend.encode(text).ids for text in texts]


async def test_inspection(
    answering: SubprocessClient, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    folder = shutil.copytree(folders["sentencepiece"], tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    loaded = loader.load(folder)
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
    found = await answering.ask("inspect", reference, tokenizer_pb2.InspectResponse)
    assert (found.fingerprint, found.vocab_size) == (loaded.fingerprint, loaded.vocab_size)
    assert (found.type, found.added_tokens, found.model_max_length) == ("BPE", 3, 256)
    assert {token.role: token.id for token in found.special_tokens} == {"bos_token": 1, "eos_token": 2, "unk_token": 0}
    content = json.loads((folder / "tokenizer.json").read_text())
    assert json.loads(found.normalizer) == content["normalizer"]
    assert json.loads(found.post_processor) == content["post_processor"]
    assert found.pre_tokenizer == ""
    assert found.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [("{{ a }}", "{{ a }}"), ([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}], "d")],
)
async def test_a_template_in_the_configuration(
    answering: SubprocessClient,
    folders: dict[str, pathlib.Path],
    tmp_path: pathlib.Path,
    template: object,
    expected: str,
) -> None:
    folder = shutil.copytree(folders["byte_level"], tmp_path / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
    assert (await answering.ask("inspect", reference, tokenizer_pb2.InspectResponse)).chat_template == expected


async def test_a_tokenizer_that_cannot_be_loaded(answering: SubprocessClient, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await ids(answering, question(tmp_path))
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert {str(tmp_path), "tokenizer.json"} <= words(caught.value.message)


async def test_a_tokenizer_that_changed(answering: SubprocessClient, folders: dict[str, pathlib.Path]) -> None:
    asked = question(folders["byte_level"])
    asked.tokenizer.fingerprint = "0" * 64
    with pytest.raises(errors.InvalidArgument) as caught:
        await ids(answering, asked)
    assert caught.value.reason == "TOKENIZER_INVALID"
    found = loader.load(folders["byte_level"]).fingerprint
    assert {asked.tokenizer.repo_id, found[:12], "0" * 12} <= words(caught.value.message)


async def test_a_caller_that_hangs_up(answering: SubprocessClient, folders: dict[str, pathlib.Path]) -> None:
    expected = loader.load(folders["byte_level"]).backend.encode("short").ids
    long = asyncio.create_task(ids(answering, question(folders["byte_level"], "long " * 100_000)))
    await asyncio.to_thread(await_condition, lambda: answering.pid != 0, "the process runs")
    long.cancel()
    assert await ids(answering, question(folders["byte_level"], "short")) == expected
    assert long.cancelled()


async def test_a_process_that_dies_is_replaced(answering: SubprocessClient, folders: dict[str, pathlib.Path]) -> None:
    asked = question(folders["byte_level"])
    expected = await ids(answering, asked)
    first = answering.pid
    os.kill(first, signal.SIGSTOP)
    waiting = asyncio.create_task(ids(answering, asked))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(errors.Unavailable) as caught:
        await waiting
    assert (caught.value.reason, caught.value.retryable) == ("WORKER_LOST", True)
    assert "SIGKILL" in words(caught.value.message)
    assert await ids(answering, asked) == expected
    assert answering.pid != first


async def test_it_ends_when_idle(folders: dict[str, pathlib.Path]) -> None:
    answering = SubprocessClient(COMMAND, service="test", about="The tokenizer", idle_seconds=0)
    try:
        expected = await ids(answering, question(folders["byte_level"]))
        await asyncio.to_thread(await_condition, lambda: answering.pid == 0, "the process has ended")
        assert await ids(answering, question(folders["byte_level"])) == expected
    finally:
        await answering.close()


async def test_closing_ends_it(folders: dict[str, pathlib.Path]) -> None:
    answering = SubprocessClient(COMMAND, service="test", about="The tokenizer")
    await ids(answering, question(folders["byte_level"]))
    pid = answering.pid
    waiting = asyncio.create_task(ids(answering, question(folders["byte_level"], "long " * 100_000)))
    await asyncio.sleep(0)
    await answering.close()
    assert not processes.is_alive(pid)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_too_many_requests(answering: SubprocessClient, folders: dict[str, pathlib.Path]) -> None:
    asked = [asyncio.create_task(ids(answering, question(folders["byte_level"]))) for _ in range(200)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    refused = [each for each in done if isinstance(each, errors.Unavailable)]
    assert len(refused) == 200 - 64
    assert all(each.retryable for each in refused)
