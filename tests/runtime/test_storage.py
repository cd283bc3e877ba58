"""Storage shows files whole or not at all, with the right checksum, and never leaves its root."""

import contextlib
import errno
import hashlib
import itertools
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pytest

from polytok import errors
from services.runtime.storage import Entry, Storage, keys
from services.runtime.storage.cache import Cache


@pytest.fixture(params=["local", "file", "memory", "s3"])
def any_storage(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Storage]:
    if request.param == "s3":
        root = f"s3://{request.getfixturevalue('bucket')}/team/polytok"
    else:
        root = {
            "local": str(tmp_path / "storage"),
            "file": f"file://{tmp_path}/storage",
            "memory": f"memory://{uuid.uuid4().hex}",
        }[request.param]
    yield Storage(root)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def test_a_file_comes_back_with_its_size_and_checksum(any_storage: Storage) -> None:
    data = os.urandom(3 << 20)
    with any_storage.create("a/b/c.bin") as staged:
        assert not any_storage.exists("a/b/c.bin")
        assert staged.write(data[:1000]) == 1000
        staged.write(memoryview(data)[1000:])
        assert staged.tell() == len(data)
    assert staged.size == len(data) == any_storage.size("a/b/c.bin")
    assert staged.sha256 == hashlib.sha256(data).hexdigest() == any_storage.sha256("a/b/c.bin")
    assert any_storage.read_bytes("a/b/c.bin") == data
    assert any_storage.list("a") == ["a/b/c.bin"]


def test_a_large_file_written_in_pieces_of_all_sizes(any_storage: Storage) -> None:
    data = os.urandom(1 << 20) * 20
    sizes = itertools.cycle([1, 9 << 20, 1000, 3 << 20])
    with any_storage.create("a/large") as staged:
        while staged.tell() < len(data):
            staged.write(memoryview(data)[staged.tell() : staged.tell() + next(sizes)])
    assert any_storage.read_bytes("a/large") == data
    assert staged.sha256 == hashlib.sha256(data).hexdigest()


def test_an_unrequested_checksum_is_left_out(any_storage: Storage) -> None:
    with any_storage.create("a/b") as staged:
        staged.leave_checksum_out()
        staged.write(b"data")
    assert (staged.sha256, staged.size, any_storage.read_bytes("a/b")) == ("", 4, b"data")


def test_an_error_leaves_nothing(any_storage: Storage) -> None:
    any_storage.write_bytes("a/old", b"old")
    with contextlib.suppress(ZeroDivisionError), any_storage.create("a/old") as staged:
        staged.write(b"new")
        raise ZeroDivisionError
    assert any_storage.list("a") == ["a/old"]
    assert any_storage.read_bytes("a/old") == b"old"


def test_pyarrow_writes_to_it(any_storage: Storage) -> None:
    table = pa.table({"text": ["a", "b"] * 1000})
    with any_storage.create("t.arrow") as staged, pa.ipc.new_stream(staged, table.schema) as writer:
        writer.write_table(table)
    with any_storage.open("t.arrow") as file:
        assert pa.ipc.open_stream(file).read_all() == table
    assert staged.sha256 == any_storage.sha256("t.arrow")


def test_move_replaces(any_storage: Storage) -> None:
    any_storage.write_bytes("a/staged", b"new")
    any_storage.write_bytes("b/c/final", b"old")
    any_storage.move("a/staged", "b/c/final")
    assert any_storage.read_bytes("b/c/final") == b"new"
    assert any_storage.list("a") == []


def test_what_is_absent(any_storage: Storage) -> None:
    assert not any_storage.exists("a/none")
    assert any_storage.list("none") == []
    any_storage.delete("a/none")
    any_storage.delete_tree("a")
    for read in (any_storage.open, any_storage.read_bytes, any_storage.size, any_storage.sha256):
        with pytest.raises(errors.NotFound, match="'a/none'"):
            read("a/none")
    with pytest.raises(errors.NotFound):
        any_storage.move("a/none", "b/none")


def test_delete_removes_one_and_delete_tree_all_below(any_storage: Storage) -> None:
    for key in ("a/1", "a/2", "a/b/3", "ab/4"):
        any_storage.write_bytes(key, b"x")
    any_storage.delete("a/1")
    assert any_storage.list("a") == ["a/2", "a/b/3"]
    any_storage.delete_tree("a")
    assert any_storage.list("a") == []
    # A neighbour whose name only begins alike stays.
    assert any_storage.exists("ab/4")


def test_verify(any_storage: Storage) -> None:
    digest = any_storage.write_bytes("a", b"x")
    any_storage.verify("a", digest)
    with pytest.raises(errors.DataLoss, match=digest) as caught:
        any_storage.verify("a", "0" * 64)
    assert caught.value.reason == "CHECKSUM_MISMATCH"


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "", "a//b", "a/", ".", "a/./b", "a\0b", "a\\..\\b", "a\nb", "\ud800"]
)
def test_a_key_cannot_leave_the_root(any_storage: Storage, key: str) -> None:
    calls = [
        any_storage.uri,
        any_storage.local_path,
        any_storage.open,
        any_storage.exists,
        any_storage.size,
        any_storage.list,
        any_storage.delete,
        any_storage.delete_tree,
        lambda bad: any_storage.write_bytes(bad, b""),
        lambda bad: any_storage.move(bad, "b"),
        lambda bad: any_storage.move("b", bad),
    ]
    for call in calls:
        with pytest.raises(errors.InvalidArgument) as caught:
            call(key)
        assert caught.value.reason == "PATH_OUTSIDE_ROOT"


@pytest.mark.parametrize("key", ["a/*", "a?", "[ab]"])
def test_a_pattern_is_no_key(any_storage: Storage, key: str) -> None:
    any_storage.write_bytes("a/b", b"x")
    with pytest.raises(errors.InvalidArgument) as caught:
        any_storage.delete_tree(key)
    assert caught.value.reason == "INVALID_FIELD"
    assert repr(key) in caught.value.message
    assert any_storage.exists("a/b")


def test_a_link_out_of_the_root_is_not_followed(storage: Storage, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root = tmp_path / "storage"
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    calls = [
        lambda: storage.read_bytes("folder/secret"),
        lambda: storage.read_bytes("file"),
        lambda: storage.write_bytes("folder/new", b""),
        lambda: storage.list("folder"),
        lambda: storage.delete("folder/secret"),
        lambda: storage.delete_tree("folder/secret"),
        lambda: storage.move("folder/secret", "x"),
    ]
    for call in calls:
        with pytest.raises(errors.DataLoss, match=r"'(folder|file)'") as caught:
            call()
        assert caught.value.reason == "PATH_OUTSIDE_ROOT"
    with (
        pytest.raises(errors.DataLoss, match=r"symbolic link.* Begin again\.") as caught,
        storage.verified("file", hashlib.sha256(b"secret").hexdigest(), 6, "Begin again."),
    ):
        pass
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    assert not storage.exists("file")
    assert not storage.exists("folder/secret")
    # It names a place, and does not look at it.
    assert storage.uri("folder/secret") == str(root / "folder/secret")
    # Removing the links themselves is fine, and touches nothing behind them.
    storage.delete("file")
    storage.delete_tree("folder")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("target", ["outside", "inside", "dangling", "loop"])
def test_writing_replaces_a_link(storage: Storage, tmp_path: pathlib.Path, target: str) -> None:
    storage.write_bytes("other", b"kept")
    (tmp_path / "secret").write_bytes(b"kept")
    root = tmp_path / "storage"
    targets = {"outside": tmp_path / "secret", "inside": root / "other", "dangling": root / "none", "loop": root / "a"}
    storage.write_bytes("staged", b"new")
    for key in ("a", "b"):
        (root / key).symlink_to(targets[target])
        assert storage.entry(key) is Entry.LINK
    storage.write_bytes("a", b"new")
    storage.move("staged", "b")
    for key in ("a", "b"):
        assert (storage.entry(key), storage.read_bytes(key)) == (Entry.FILE, b"new")
    assert (storage.read_bytes("other"), (tmp_path / "secret").read_bytes()) == (b"kept", b"kept")
    assert not storage.exists("none")


def test_what_is_at_a_key(storage: Storage, tmp_path: pathlib.Path) -> None:
    storage.write_bytes("folder/file", b"x")
    os.mkfifo(tmp_path / "storage" / "pipe")
    found = [storage.entry(key) for key in ("folder", "folder/file", "pipe", "none", "none/x", "folder/file/x")]
    assert found == [Entry.FOLDER, Entry.FILE, Entry.SPECIAL, Entry.NONE, Entry.NONE, Entry.NONE]
    for read in (storage.open, storage.read_bytes):
        for key in ("folder", "folder/file/x"):
            with pytest.raises(errors.NotFound):
                read(key)
    (tmp_path / "storage" / "link").symlink_to("folder")
    for key in ("folder/file", "link", "none"):
        storage.clear(key)
    assert storage.read_bytes("link/file") == b"x"
    storage.clear("folder")
    assert storage.list("folder") == []
    assert Storage("memory://empty").entry("a") is None


def test_link_within_root_is_not_listed(storage: Storage, tmp_path: pathlib.Path) -> None:
    storage.write_bytes("real/file", b"x")
    (tmp_path / "storage" / "link").symlink_to("real")
    assert storage.read_bytes("link/file") == b"x"
    (tmp_path / "storage" / "real" / "loop").symlink_to("../real")
    assert storage.list("real") == ["real/file", "real/loop"]


def test_the_root_itself_may_be_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "storage").symlink_to(tmp_path / "disk")
    storage = Storage(str(tmp_path / "storage"))
    storage.write_bytes("a", b"x")
    assert storage.uri("a") == str(tmp_path / "storage" / "a")
    assert (tmp_path / "disk" / "a").read_bytes() == b"x"


def test_uri_and_local_path(tmp_path: pathlib.Path) -> None:
    assert Storage(str(tmp_path)).local_path("a/b") == tmp_path / "a" / "b"
    remote = Storage("memory://bucket/prefix")
    assert remote.uri("a") == "memory:///bucket/prefix/a"
    assert remote.local_path("a") is None


def test_a_name_of_255_bytes_and_one_too_long(storage: Storage) -> None:
    storage.write_bytes("x" * 255, b"x")
    with pytest.raises(errors.InvalidArgument, match="x" * 200):
        storage.write_bytes("x" * 256, b"x")


@pytest.mark.parametrize(
    ("number", "kind", "reason", "retryable"),
    [
        (errno.ENOSPC, errors.ResourceExhausted, "DISK_FULL", True),
        (errno.EDQUOT, errors.ResourceExhausted, "DISK_FULL", True),
        (errno.EACCES, errors.Unavailable, "STORAGE_FAILED", False),
        (errno.EIO, errors.Unavailable, "STORAGE_FAILED", True),
    ],
)
def test_system_errors_are_mapped(number: int, kind: type[errors.PolytokError], reason: str, retryable: bool) -> None:
    with pytest.raises(kind, match=os.strerror(number)) as caught, keys.translated("writing", "a/b"):
        raise OSError(number, os.strerror(number))
    assert caught.value.reason == reason
    assert caught.value.retryable == retryable
    assert caught.value.metadata == {"key": "a/b"}


def test_a_full_disk_leaves_nothing(storage: Storage) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(errors.ResourceExhausted) as caught:
            storage.write_bytes("a/big", bytes(3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.reason == "DISK_FULL"
    # The folder, and how much of its disk is free.
    assert re.search(rf"{re.escape(storage.uri('a').removesuffix('/a'))}\W+\d", caught.value.message)
    assert storage.list("a") == []


def test_a_killed_writer_publishes_nothing(storage: Storage, tmp_path: pathlib.Path) -> None:
    script = """
        import os, signal, sys
        from services.runtime.storage import Storage
        with Storage(sys.argv[1]).create("a/file") as staged:
            staged.write(b"half")
            staged.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "storage")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not storage.exists("a/file")
    # The garbage collector finds what is left.
    [left] = storage.list("a")
    assert left.endswith(".part")


def test_writers_of_one_key_do_not_mix(storage: Storage) -> None:
    with storage.create("a") as first, storage.create("a") as second:
        first.write(b"first")
        second.write(b"second")
    assert storage.read_bytes("a") == b"first"
    assert storage.sha256("a") == first.sha256


def test_a_write_after_the_end_is_refused(storage: Storage) -> None:
    with storage.create("a") as staged:
        staged.write(b"x")
    with pytest.raises(ValueError, match="with"):
        staged.write(b"y")
    assert storage.read_bytes("a") == b"x"


def test_verified_read_detects_damage(any_storage: Storage) -> None:
    digest = any_storage.write_bytes("a", b"what was written")
    with any_storage.verified("a", digest, 16, "Do it again.") as file:
        assert file.read(4) == b"what"
    any_storage.write_bytes("a", b"what was Written")

    def fail() -> None:
        with any_storage.verified("a", digest, 16, "Do it again.") as file:
            file.read(4)
            raise ValueError("because of what was read")

    with pytest.raises(errors.DataLoss, match=r"^a .* Do it again\.$") as caught:
        fail()
    assert (caught.value.reason, caught.value.retryable) == ("CHECKSUM_MISMATCH", False)
    assert any_storage.read_checked("a", hashlib.sha256(b"what was Written").hexdigest(), "") == b"what was Written"
    with pytest.raises(errors.DataLoss, match="Do it again"):
        any_storage.read_checked("a", digest, "Do it again.")


def test_damaged_cache_copy_is_dropped(tmp_path: pathlib.Path) -> None:
    storage = Storage(f"memory://{tmp_path.name}", Cache(str(tmp_path / "cache"), 1 << 20))
    digest = storage.write_bytes("a", b"data")
    with storage.verified("a", digest, 4, "Add it again.") as file:
        file.drain()
    copy = tmp_path / "cache" / digest[:2] / digest
    copy.write_bytes(b"Data")
    with pytest.raises(errors.DataLoss) as caught, storage.verified("a", digest, 4, "Add it again."):
        pass
    assert caught.value.retryable
    with storage.verified("a", digest, 4, "Add it again.") as file:
        assert file.read() == b"data"
    # Where the file itself is damaged, trying again is of no use.
    copy.unlink()
    storage.write_bytes("a", b"Data")
    with pytest.raises(errors.DataLoss) as caught, storage.verified("a", digest, 4, "Add it again."):
        pass
    assert not caught.value.retryable
