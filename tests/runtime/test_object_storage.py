"""Storage on S3: what a bucket shows of it, what is kept here, and what a user reads when it cannot be reached."""

import contextlib
import hashlib
import http.client
import http.server
import os
import pathlib
import threading
import urllib.request
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pytest

from polytok import errors
from services.embedded import ports
from services.runtime.settings import StorageSettings
from services.runtime.storage import Storage, open_storage
from services.runtime.storage.cache import Cache
from tests.support import s3

MIB = 1 << 20


@pytest.fixture
def root(bucket: str) -> str:
    return f"s3://{bucket}/team/polytok"


def _fresh(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Change the environment, and forget what was opened in the one before."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _every_call(storage: Storage) -> Iterator[errors.PolytokError]:
    """Yield the errors of all that can be done with a storage."""
    for call in (
        lambda: storage.write_bytes("a/b", b"x"),
        lambda: storage.read_bytes("a/b"),
        lambda: storage.list("a"),
        lambda: storage.exists("a/b"),
        lambda: storage.size("a/b"),
        lambda: storage.delete("a/b"),
        lambda: storage.delete_tree("a"),
        lambda: storage.move("a/b", "a/c"),
    ):
        with pytest.raises(errors.PolytokError) as caught:
            call()
        assert "not-a-secret" not in f"{caught.value}{caught.value.__cause__}"
        yield caught.value


def test_a_file_of_many_parts_appears_whole(root: str, bucket: str, s3_server: s3.Server) -> None:
    storage = Storage(root)
    data = os.urandom(5 * MIB) * 8
    with storage.create("a/large.bin") as staged:
        for start in range(0, len(data), MIB):
            staged.write(data[start : start + MIB])
        assert not storage.exists("a/large.bin")
        assert storage.list("a") == []
    assert staged.sha256 == hashlib.sha256(data).hexdigest() == storage.sha256("a/large.bin")
    assert storage.uri("a/large.bin") == f"{root}/a/large.bin"
    found = s3_server.client().get_object(Bucket=bucket, Key="team/polytok/a/large.bin")["Body"].read()
    assert found == data
    with storage.open("a/large.bin") as file:
        file.seek(20 * MIB - 5)
        assert file.read(10) == data[20 * MIB - 5 : 20 * MIB + 5]


@pytest.mark.parametrize("size", [10, 40 * MIB])
def test_interrupted_write_leaves_nothing(root: str, bucket: str, s3_server: s3.Server, size: int) -> None:
    storage = Storage(root)
    with contextlib.suppress(ZeroDivisionError), storage.create("a/b") as staged:
        staged.write(bytes(size))
        raise ZeroDivisionError
    client = s3_server.client()
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_another_process_is_seen_at_once(root: str, bucket: str, s3_server: s3.Server) -> None:
    storage, client = Storage(root), s3_server.client()
    assert storage.list("a") == []
    assert not storage.exists("a/b")
    client.put_object(Bucket=bucket, Key="team/polytok/a/b", Body=b"1")
    assert (storage.list("a"), storage.exists("a/b"), storage.size("a/b")) == (["a/b"], True, 1)
    client.put_object(Bucket=bucket, Key="team/polytok/a/b", Body=b"22")
    assert (storage.size("a/b"), storage.read_bytes("a/b")) == (2, b"22")
    client.delete_object(Bucket=bucket, Key="team/polytok/a/b")
    assert (storage.list("a"), storage.exists("a/b")) == ([], False)


def test_a_tree_is_deleted_and_its_neighbours_are_not(root: str, bucket: str, s3_server: s3.Server) -> None:
    storage = Storage(root)
    for key in ("a/b/c", "a/b/d/e", "a/bb/c", "a/b.txt"):
        storage.write_bytes(key, b"x")
    s3_server.client().put_object(Bucket=bucket, Key="team/polytok/a/b/", Body=b"")
    assert storage.list("a/b") == ["a/b/c", "a/b/d/e"]
    storage.delete_tree("a/b")
    assert storage.list("a") == ["a/b.txt", "a/bb/c"]
    storage.delete_tree("a/b.txt")
    assert storage.list("a") == ["a/bb/c"]


def test_missing_bucket_is_reported(bucket: str, s3_server: s3.Server) -> None:
    missing = f"{bucket}-x"
    for error in _every_call(Storage(f"s3://{missing}/root")):
        assert isinstance(error, errors.FailedPrecondition)
        assert f"s3://{missing}" in error.message
        assert (error.reason, error.retryable) == ("STORAGE_FAILED", False)
    assert missing not in [each["Name"] for each in s3_server.client().list_buckets()["Buckets"]]


def test_no_credentials(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _fresh(monkeypatch, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    for error in _every_call(Storage(root)):
        assert isinstance(error, errors.FailedPrecondition)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            assert name in error.message


def test_credentials_that_are_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.running(INITIAL_NO_AUTH_ACTION_COUNT="0") as server:
        _fresh(monkeypatch, **server.environment)
        for error in _every_call(Storage("s3://bucket/polytok")):
            assert isinstance(error, errors.PermissionDenied)
            assert "s3://bucket" in error.message
            assert not error.retryable
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.long
def test_a_store_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    _fresh(monkeypatch, AWS_ENDPOINT_URL=f"http://127.0.0.1:{ports.free_port()}")
    storage = Storage(f"s3://{bucket}/root")
    for call in (lambda: storage.exists("a"), lambda: storage.write_bytes("a", b"x")):
        with pytest.raises(errors.Unavailable, match=f"s3://{bucket}") as caught:
            call()
        assert caught.value.retryable


class _Fickle(http.server.BaseHTTPRequestHandler):
    """Answer every other request with 503, and forward the rest."""

    server_port = 0
    count = 0
    lock = threading.Lock()
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.lock:
            type(self).count += 1
            busy = self.count % 2 == 1
        if busy:
            self._answer(503, b"<Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>", {})
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server_port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
        self._answer(answer.status, content, kept)
        connection.close()

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if "Content-Length" not in headers or self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815  the names that the server looks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.long
def test_busy_store_is_retried(bucket: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Handler", (_Fickle,), {"server_port": int(s3_server.url.rpartition(":")[2]), "count": 0})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        try:
            _fresh(monkeypatch, AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.server_address[1]}")
            storage = Storage(f"s3://{bucket}/root")
            sha256 = storage.write_bytes("a/b", b"data")
            storage.move("a/b", "a/c")
            storage.verify("a/c", sha256)
            assert storage.list("a") == ["a/c"]
        finally:
            proxy.shutdown()
            serving.join()
    assert handler.count > 6


def test_a_copy_is_kept_and_read_from_then_on(root: str, tmp_path: pathlib.Path) -> None:
    storage = Storage(root, Cache(str(tmp_path / "cache"), 1 << 30))
    table = pa.table({"text": ["a", "b"] * 1000})
    with storage.create("t.arrow") as staged, pa.ipc.new_stream(staged, table.schema) as writer:
        writer.write_table(table)
    for _ in range(2):
        with storage.open_checked("t.arrow", staged.sha256) as file:
            assert pa.ipc.open_stream(file).read_all() == table
        storage.delete("t.arrow")
    (copy,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert copy.name == staged.sha256


def test_unexpected_bytes_are_not_cached(root: str, tmp_path: pathlib.Path) -> None:
    storage = Storage(root, Cache(str(tmp_path / "cache"), 1 << 30))
    storage.write_bytes("a", b"not what was written")
    with storage.open_checked("a", "0" * 64) as file:
        assert file.read() == b"not what was written"
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_the_copies_that_were_not_used_for_longest_go(root: str, tmp_path: pathlib.Path) -> None:
    storage = Storage(root, Cache(str(tmp_path / "cache"), 2500))
    digests = [storage.write_bytes(name, name.encode() * 1000) for name in "abc"]
    for place, (name, digest) in enumerate(zip("abac", [*digests[:2], digests[0], digests[2]], strict=True)):
        storage.open_checked(name, digest).close()
        path = tmp_path / "cache" / digest[:2] / digest
        os.utime(path, (1000 + place, 1000 + place))
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left == {digests[0], digests[2]}


def test_a_cache_that_cannot_be_written_does_no_harm(root: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    storage = Storage(root, Cache(str(tmp_path / "cache"), 1 << 30))
    digest = storage.write_bytes("a", b"data")
    with storage.open_checked("a", digest) as file:
        assert file.read() == b"data"


def test_settings_name_storage_and_cache(root: str, tmp_path: pathlib.Path) -> None:
    storage = open_storage(StorageSettings(root=root, cache=str(tmp_path / "cache")))
    digest = storage.write_bytes("a", b"data")
    storage.open_checked("a", digest).close()
    assert (tmp_path / "cache" / digest[:2] / digest).read_bytes() == b"data"
    bare = open_storage(StorageSettings(root=root, cache=str(tmp_path / "none"), cache_bytes=0))
    bare.open_checked("a", digest).close()
    assert not (tmp_path / "none").exists()


def test_keys_stay_below_the_prefix(root: str, bucket: str, s3_server: s3.Server) -> None:
    s3_server.client().put_object(Bucket=bucket, Key="team/secret", Body=b"x")
    storage = Storage(root)
    for key in ("../secret", "/secret", "a/../../secret", "a//b", "*"):
        for call in (storage.read_bytes, storage.delete, storage.delete_tree, storage.list):
            with pytest.raises(errors.InvalidArgument):
                call(key)
    assert urllib.request.urlopen(s3_server.url).status == 200
    assert s3_server.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 1
