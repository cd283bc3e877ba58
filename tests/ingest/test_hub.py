"""Repositories: a local folder in the hub's layout, and a hub that is away or refuses."""

import contextlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2
from tests.ingest.harness import IngestHarness
from tests.ingest.test_files import TEXTS, parquet
from tests.support.messages import check_names


def hub(repo_id: object, split: str = "train", config: str = "", revision: str = "") -> datasets_pb2.DatasetSource:
    source = datasets_pb2.HubSource(repo_id=str(repo_id), split=split, config=config, revision=revision)
    return datasets_pb2.DatasetSource(hub=source)


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "repository"
    for name, texts in (("train-0", TEXTS[:5]), ("train-1", TEXTS[5:]), ("test-0", ["test"])):
        path = folder / f"data/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parquet(pa.table({"text": texts, "id": list(range(len(texts)))})))
    (folder / "en").mkdir()
    (folder / "en/train.parquet").write_bytes(parquet(pa.table({"text": ["english"]})))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  default: true\n  data_files:\n  - {split: train, path: data/train-*}\n"
        "  - {split: test, path: data/test-*}\n- config_name: en\n  data_files: en/*.parquet\n---\n"
    )
    return folder


def test_repository_is_read_by_shard(ingest: IngestHarness, repository: pathlib.Path) -> None:
    parts = ingest.plan(hub(repository))
    assert [(part.hub.index, part.hub.count) for part in parts] == [(0, 2), (1, 2)]
    result = ingest.run(hub(repository))
    assert ingest.dataset()[:] == {"text": TEXTS, "id": [0, 1, 2, 3, 4, 0, 1, 2, 3]}
    assert (result.num_rows, [shard.num_rows for shard in result.shards]) == (9, [9])


def test_json_columns_of_datasets_stay_exact(ingest: IngestHarness, tmp_path: pathlib.Path) -> None:
    chats = [
        [{"role": "user", "content": "a", "x": {"b": 1, "a": None}}],
        [{"role": "user", "content": "b"}, {"role": "tool", "x": 1.5}, {"role": "tool", "x": 9007199254740993}],
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    (column,) = ingest.run(hub(tmp_path)).columns
    assert (column.type, column.content) == (
        "list<item: extension<arrow.json>>",
        datasets_pb2.Column.CONTENT_CONVERSATIONS,
    )
    assert list(map(repr, ingest.dataset()["messages"])) == list(map(repr, chats))


@pytest.mark.parametrize(("split", "config", "text"), [("test", "", "test"), ("train", "en", "english")])
def test_split_and_configuration(
    ingest: IngestHarness, repository: pathlib.Path, split: str, config: str, text: str
) -> None:
    ingest.run(hub(repository, split=split, config=config))
    assert ingest.dataset()["text"][:] == [text]


@pytest.mark.parametrize(
    ("split", "config", "names"),
    [("dev", "", ("'dev'", "train", "test")), ("train", "fr", ("'fr'", "all", "en"))],
)
def test_unknown_split_or_configuration(
    ingest: IngestHarness, repository: pathlib.Path, split: str, config: str, names: tuple[str, ...]
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        ingest.plan(hub(repository, split=split, config=config))
    check_names(caught.value.message, repository, *names)
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_INVALID", False)


def test_missing_folder(ingest: IngestHarness, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotFound) as caught:
        ingest.plan(hub(tmp_path / "none"))
    check_names(caught.value.message, tmp_path / "none")
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_NOT_FOUND", False)


def test_folder_without_data_files(ingest: IngestHarness, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(errors.PolytokError) as caught:
        ingest.plan(hub(tmp_path / "bare"))
    check_names(caught.value.message, tmp_path / "bare", "`datasets`")
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_INVALID", False)


def test_damaged_file_of_a_repository(ingest: IngestHarness, repository: pathlib.Path) -> None:
    path = repository / "data/train-1.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    first, second = ingest.plan(hub(repository))
    ingest.read(first)
    before = ingest.stored()
    with pytest.raises(errors.PolytokError) as caught:
        ingest.read(second, ordinal=1)
    check_names(caught.value.message, repository, "`datasets`")
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_INVALID", False)
    assert ingest.stored() == before


PLAN = """
import json, sys
from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import plan_task
source = datasets_pb2.HubSource(repo_id="org/name", split="train", revision=sys.argv[1])
try:
    plan_task.plan(tasks_pb2.PlanIngestTask(source=datasets_pb2.DatasetSource(hub=source)))
except errors.PolytokError as error:
    print(json.dumps([error.reason, error.retryable, error.message]))
"""


def planned(tmp_path: pathlib.Path, revision: str = "", **environment: str) -> tuple[str, bool, str]:
    """Plan in a process of its own, as the hub's library reads its settings when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PLAN, revision],
        env={**kept, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        check=True,
        timeout=120,
    )
    reason, retryable, message = json.loads(done.stdout)
    return reason, retryable, message


def test_offline(tmp_path: pathlib.Path) -> None:
    *answer, message = planned(tmp_path, HF_HUB_OFFLINE="1")
    assert answer == ["HUB_UNAVAILABLE", False]
    check_names(message, "'org/name'", "HF_HUB_OFFLINE")


def test_unreachable_hub(tmp_path: pathlib.Path) -> None:
    with socket.socket() as closed:
        # Bound and not listening: connections are refused.
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        *answer, message = planned(tmp_path, HF_ENDPOINT=endpoint)
    assert answer == ["HUB_UNAVAILABLE", True]
    check_names(message, "'org/name'", "HF_ENDPOINT", "Connection refused")


@contextlib.contextmanager
def answering(status: int, code: str = "") -> Iterator[str]:
    """Yield a hub that answers everything the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "reason", "retryable", "names"),
    [
        (401, "", "HUB_UNAVAILABLE", False, (401, "private", "HF_TOKEN")),
        (403, "GatedRepo", "HUB_UNAVAILABLE", False, (403, "access", "HF_TOKEN")),
        (404, "RevisionNotFound", "SOURCE_NOT_FOUND", False, ("'v9'", "HF_TOKEN")),
        (500, "", "HUB_UNAVAILABLE", True, (500,)),
    ],
)
def test_hub_refuses(
    tmp_path: pathlib.Path, status: int, code: str, reason: str, retryable: bool, names: tuple[object, ...]
) -> None:
    with answering(status, code) as endpoint:
        *answer, message = planned(tmp_path, revision="v9", HF_ENDPOINT=endpoint)
    assert answer == [reason, retryable]
    check_names(message, "'org/name'", *names)
