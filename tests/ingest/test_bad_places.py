"""Sources that are not there, may not be read or do not fit together: what the error names, and no file left behind."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from polytok import errors
from polytok.catalog.v1 import tasks_pb2
from polytok.catalog.v1.datasets_pb2 import FileSource
from tests.ingest import harness
from tests.ingest.harness import IngestHarness
from tests.ingest.refusals import refused
from tests.support.messages import check_names


@pytest.mark.parametrize(
    ("uri", "reason", "names"),
    [
        ("/nowhere/a.jsonl", "SOURCE_NOT_FOUND", ("/nowhere/a.jsonl",)),
        ("file:///nowhere/a.jsonl", "SOURCE_NOT_FOUND", ("/nowhere/a.jsonl",)),
        ("memory://nowhere/a.jsonl", "SOURCE_NOT_FOUND", ("memory://nowhere/a.jsonl",)),
        ("/nowhere/*.jsonl", "SOURCE_NOT_FOUND", ("/nowhere/*.jsonl", "pattern")),
        ("a.jsonl", "INVALID_FIELD", ("a.jsonl", "relative")),
        ("~/a.jsonl", "INVALID_FIELD", ("~/a.jsonl", "relative")),
        ("/tmp/a\0b", "INVALID_FIELD", (r"/tmp/a\0b", "NUL")),
        ("ftp://u:secret@host/a.csv?sig=secret", "INVALID_FIELD", ("ftp://host/a.csv", "'ftp'", "s3", "https")),
        ("nonsense://x", "INVALID_FIELD", ("nonsense://x", "'nonsense'", "s3", "https")),
        ("hf://datasets/o/n/a.csv", "INVALID_FIELD", ("hf://datasets/o/n/a.csv", "hub")),
        ("zip://a.csv::/tmp/x.zip", "INVALID_FIELD", ("zip://a.csv::/tmp/x.zip", "'::'")),
        ("/dev/zero", "SOURCE_REFUSED", ("/dev/zero",)),
    ],
)
def test_unreadable_places(ingest: IngestHarness, uri: str, reason: str, names: tuple[str, ...]) -> None:
    error = refused(ingest, uri, reason=reason)
    check_names(error.message, *names)
    assert "secret" not in error.message
    expected = ["source.files.uris"] if reason == "INVALID_FIELD" else []
    assert [violation.field for violation in error.violations] == expected
    assert ingest.stored() == []


def test_files_outside_of_the_roots(
    ingest: IngestHarness, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.txt"
    allowed.mkdir()
    secret.write_text("root:x")
    (allowed / "docs.txt").symlink_to(secret)
    monkeypatch.setenv("POLYTOK_SOURCE_ALLOWLIST", f"{allowed},s3://corpora")
    for uri in (secret, allowed / "docs.txt", allowed):
        error = refused(ingest, uri, reason="SOURCE_REFUSED")
        check_names(error.message, "POLYTOK_SOURCE_ALLOWLIST", allowed, "s3://corpora")
    part = tasks_pb2.IngestPart(file=tasks_pb2.FilePart(uri=str(allowed / "docs.txt"), format=FileSource.FORMAT_TEXT))
    with pytest.raises(errors.PermissionDenied) as caught:
        ingest.read(part)
    assert caught.value.reason == "SOURCE_REFUSED"
    check_names(caught.value.message, "POLYTOK_SOURCE_ALLOWLIST", allowed, "s3://corpora")
    assert ingest.stored() == []


def test_overlong_name(ingest: IngestHarness) -> None:
    refused(ingest, "/tmp/" + "x" * 300, reason="SOURCE_NOT_FOUND")


def test_missing_file_system_package(ingest: IngestHarness) -> None:
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        error = refused(ingest, "s3://key:secret@bucket/a.csv", reason="SOURCE_NOT_FOUND")
        check_names(error.message, "s3://bucket/a.csv", "s3fs")
        assert "secret" not in error.message
    else:
        pytest.skip("s3fs is installed")


def test_folder_without_data(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "README.md").write_text("x")
    error = refused(ingest, source, reason="SOURCE_NOT_FOUND")
    check_names(error.message, source, ".arrow", ".csv", ".ndjson", ".tsv", f"{source}/*")
    error = refused(ingest, source, reason="SOURCE_NOT_FOUND", format=FileSource.FORMAT_CSV)
    check_names(error.message, source, "csv", f"{source}/*")
    assert ".arrow" not in error.message


def test_mixed_formats(ingest: IngestHarness, source: pathlib.Path) -> None:
    (source / "a.jsonl").write_text('{"text": "x"}\n')
    (source / "b.csv").write_text("text\nx\n")
    check_names(refused(ingest, source).message, source / "a.jsonl", "jsonl", source / "b.csv", "csv")


@pytest.fixture
def unprivileged() -> Iterator[pathlib.Path]:
    """Yield a folder that anybody may enter, and a test that runs as nobody, as root may read everything."""
    with tempfile.TemporaryDirectory(prefix="polytok-test-") as folder:
        path = pathlib.Path(folder)
        path.chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            yield path
        finally:
            os.seteuid(user)


def plan_and_read(ingest: IngestHarness, path: pathlib.Path) -> None:
    for part in ingest.plan(harness.files(path)):
        ingest.read(part)


@pytest.mark.parametrize("closed", ["a.txt", "folder"])
def test_file_without_permission(ingest: IngestHarness, unprivileged: pathlib.Path, closed: str) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    (unprivileged / "folder").mkdir()
    name = "folder/a.txt" if closed == "folder" else "a.txt"
    (unprivileged / name).write_text("x\n")
    (unprivileged / closed).chmod(0)
    os.seteuid(user)
    with pytest.raises(errors.PolytokError) as caught:
        plan_and_read(ingest, unprivileged / name)
    os.seteuid(os.getuid())
    (unprivileged / closed).chmod(0o700)
    check_names(caught.value.message, unprivileged / name, "user")
    assert (caught.value.reason, caught.value.retryable) == ("SOURCE_NOT_FOUND", False)


def test_failing_disk_is_retryable(ingest: IngestHarness, tmp_path: pathlib.Path) -> None:
    # What was a file when it was found, and is none now, is one of the ways in which reading fails.
    path = tmp_path / "a.txt"
    path.mkdir()
    file = tasks_pb2.FilePart(uri=str(path), format=FileSource.FORMAT_TEXT)
    part = tasks_pb2.IngestPart(file=file)
    with pytest.raises(errors.Unavailable) as caught:
        ingest.read(part)
    check_names(caught.value.message, path, "Is a directory")
    assert (caught.value.reason, caught.value.retryable) == ("STORAGE_FAILED", True)
    assert ingest.stored() == []
