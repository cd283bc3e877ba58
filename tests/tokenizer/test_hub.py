"""Repositories: folders of this machine, and a hub that answers, refuses, fails or is not there."""

import hashlib
import http.server
import json
import pathlib
import socket
import threading
from collections.abc import Iterator

import huggingface_hub.constants
import pytest

from polytok import errors
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime import hub
from services.tokenizer.models import loader
from services.tokenizer.worker.tasks import inspect_task
from tests.support.messages import words

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """A server that speaks as much of the hub's protocol as a download needs."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = {COMMIT: files}
        self.head = COMMIT
        """The commit of the default branch."""
        self.status = 200
        self.code = ""
        self.requested: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requested.append(path)
        commit = next((each for each in self.server.commits if each in path), self.server.head)
        held = self.server.commits[commit]
        if self.server.status != 200:
            self._answer(self.server.status, b"{}", {"X-Error-Code": self.server.code} if self.server.code else {})
        elif "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in held.items()]
            self._answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/"):
            info = {"id": "team/model", "sha": commit, "siblings": [{"rfilename": name} for name in held]}
            self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        else:
            data = held[path.partition(f"/resolve/{commit}/")[2]]
            self._answer(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def served(folders: dict[str, pathlib.Path]) -> Iterator[Hub]:
    """Yield a hub with one repository: a tokenizer, and what nobody asked for."""
    files = {path.name: path.read_bytes() for path in folders["sentencepiece"].iterdir()}
    files |= {"model.safetensors": b"weights", "tokenizer_code.py": b"raise SystemExit", "config.json": b"{}"}
    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return a download cache of the test's own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_repository_is_fetched_and_loads(served: Hub, folders: dict[str, pathlib.Path]) -> None:
    folder = hub.folder("team/model", "main", endpoint=served.url)
    assert loader.load(folder).fingerprint == loader.load(folders["sentencepiece"]).fingerprint
    # Neither weights nor code come with it.
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob("*.py"))
    assert (folder / "config.json").is_file()


def test_a_cached_repository_without_the_hub(served: Hub) -> None:
    folder = hub.folder("team/model", endpoint=served.url)
    served.status = 500
    assert hub.folder("team/model", endpoint=served.url) == folder


def test_a_branch_that_moves(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
    files = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    tokenizers = loader.TokenizerCache(1)
    reference = tasks_pb2.TokenizerReference(repo_id="team/model")
    task = tasks_pb2.InspectModelTask(tokenizer=reference, repo_id="team/model")
    found = inspect_task.inspect(task, tokenizers)
    assert (found.commit, found.tokenizer_commit) == (COMMIT, COMMIT)
    moved = "f" * 40
    template = {"additional_chat_templates/rag.jinja": b"{{ documents }}", "chat_template.jinja": b"{{ messages }}"}
    served.commits[moved] = served.commits[COMMIT] | template
    served.head = moved
    later = inspect_task.inspect(task, tokenizers)
    assert (later.commit, later.tokenizer_fingerprint) == (moved, found.tokenizer_fingerprint)
    # What was registered before the branch moved is read as it was.
    reference.revision, reference.fingerprint = found.commit, found.tokenizer_fingerprint
    assert tokenizers.get(reference).pretrained.chat_template is None
    reference.revision, reference.chat_template_fingerprint = later.commit, later.chat_template_fingerprint
    assert tokenizers.get(reference).pretrained.chat_template == {
        "default": "{{ messages }}",
        "rag": "{{ documents }}",
    }
    apart = tasks_pb2.InspectModelTask(tokenizer=tasks_pb2.TokenizerReference(repo_id="team/tokenizer"))
    apart.repo_id, apart.revision = "team/model", COMMIT
    assert (
        inspect_task.inspect(apart, tokenizers).commit,
        inspect_task.inspect(apart, tokenizers).tokenizer_commit,
    ) == (
        COMMIT,
        moved,
    )


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable", "named"),
    [
        (401, "RepoNotFound", errors.PermissionDenied, False, {"401", "HF_TOKEN"}),
        (403, "GatedRepo", errors.PermissionDenied, False, {"403", "gated", "HF_TOKEN"}),
        (404, "RepoNotFound", errors.PermissionDenied, False, {"404"}),
        (404, "RevisionNotFound", errors.NotFound, False, {"revision"}),
        (500, "", errors.Unavailable, True, {"500"}),
    ],
)
def test_a_hub_that_refuses(
    served: Hub, status: int, code: str, kind: type[errors.PolytokError], retryable: bool, named: set[str]
) -> None:
    served.status, served.code = status, code
    with pytest.raises(kind) as caught:
        hub.folder("team/model", "v2", endpoint=served.url)
    assert (caught.value.reason, caught.value.retryable) == ("HUB_UNAVAILABLE", retryable)
    assert {"team/model", "v2", *named} <= words(caught.value.message)


def test_a_hub_that_is_not_there() -> None:
    with socket.socket() as held:
        # Bound and not listening: every connection is refused.
        held.bind(("127.0.0.1", 0))
        with pytest.raises(errors.Unavailable) as caught:
            hub.folder("team/model", endpoint=f"http://127.0.0.1:{held.getsockname()[1]}")
    assert (caught.value.reason, caught.value.retryable) == ("HUB_UNAVAILABLE", True)
    assert "team/model" in words(caught.value.message)


@pytest.mark.parametrize(
    ("repo_id", "keyword"),
    [
        ("/nowhere/at/all", "folder"),
        ("../gpt2", "absolute"),
        ("~/gpt2", "absolute"),
        ("a/b/c", "repository"),
        ("a b", "repository"),
        ("", "repository"),
    ],
)
def test_malformed_repositories(repo_id: str, keyword: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        hub.folder(repo_id)
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert {*repo_id.split(), keyword} <= {*caught.value.message.split(), *words(caught.value.message)}


def test_a_file_instead_of_a_folder(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(errors.InvalidArgument) as caught:
        hub.folder(str(path))
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert {str(path), "folder"} <= words(caught.value.message)
