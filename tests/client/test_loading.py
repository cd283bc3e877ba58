"""Rows of a tokenization that lies in a bucket: copied once, checked, and never mixed up."""

import hashlib
import json
import pathlib

import datasets
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.client import files
from tests.support import messages, s3

ROWS = {"input_ids": [[1, 2, 3], [4], [], [5, 6]]}
NAME = "datasets/docs/tokenizations/gpt2"


class Bucket:
    """A tokenization in a bucket."""

    def __init__(self, name: str, server: s3.Server, folder: pathlib.Path) -> None:
        self.name = name
        self.client = server.client()
        datasets.Dataset.from_dict(ROWS).save_to_disk(folder, num_shards=2)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        for file, data in self.files.items():
            self.put(file, data)
        self.publish(sorted(file for file in self.files if file.endswith(".arrow")))

    def put(self, file: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"tok/{file}", Body=data)

    def publish(self, files: list[str]) -> None:
        listed = [
            {"name": file, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for file in files
            for data in [self.files.get(file, b"")]
        ]
        manifest = json.dumps({"files": listed}).encode()
        self.put("polytok.json", manifest)
        self.digest = hashlib.sha256(manifest).hexdigest()

    @property
    def record(self) -> tokenizations_pb2.Tokenization:
        path = f"s3://{self.name}/tok"
        return tokenizations_pb2.Tokenization(name=NAME, tokenized_path=path, manifest_digest=self.digest)


@pytest.fixture
def stored(bucket: str, s3_server: s3.Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("POLYTOK_CACHE", str(tmp_path / "cache"))
    return Bucket(bucket, s3_server, tmp_path / "made")


def _copies(tmp_path: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "tokenizations").iterdir())


def test_it_is_copied_once(stored: Bucket, tmp_path: pathlib.Path) -> None:
    assert files.load_tokenization(stored.record)["input_ids"][:] == ROWS["input_ids"]
    for file in stored.files:
        stored.client.delete_object(Bucket=stored.name, Key=f"tok/{file}")
    assert files.load_tokenization(stored.record)["input_ids"][:] == ROWS["input_ids"]
    assert _copies(tmp_path) == [stored.digest]


def test_columns_and_format(stored: Bucket) -> None:
    rows = files.load_tokenization(stored.record, files.View(["input_ids"], "numpy"))
    assert rows.column_names == ["input_ids"]
    assert [row.tolist() for row in rows["input_ids"][:]] == ROWS["input_ids"]
    with pytest.raises(errors.InvalidArgument) as caught:
        files.load_tokenization(stored.record, files.View(["input_idx"]))
    assert (caught.value.reason, caught.value.violations[0].field) == ("COLUMN_NOT_FOUND", "columns")
    messages.check_names(caught.value.message, NAME, "'input_idx'", "'input_ids'")
    with pytest.raises(errors.InvalidArgument) as caught:
        files.load_tokenization(stored.record, files.View(format="nympy"))
    assert caught.value.violations[0].field == "format"
    messages.check_names(caught.value.message, "'nympy'", "numpy")


def test_a_damaged_file_is_named_and_nothing_is_kept(stored: Bucket, tmp_path: pathlib.Path) -> None:
    file = next(file for file in stored.files if file.endswith(".arrow"))
    stored.put(file, stored.files[file][:-1] + b"x")
    with pytest.raises(errors.DataLoss, match=f"`polytok tokenization repair {NAME}`") as caught:
        files.load_tokenization(stored.record)
    assert (caught.value.reason, caught.value.metadata) == ("CHECKSUM_MISMATCH", {"file": file})
    assert file in caught.value.message
    assert _copies(tmp_path) == []


@pytest.mark.parametrize("missing", ["polytok.json", "state.json"])
def test_a_deleted_or_recreated_tokenization_is_an_error(stored: Bucket, missing: str) -> None:
    record = stored.record
    stored.client.delete_object(Bucket=stored.name, Key=f"tok/{missing}")
    with pytest.raises(errors.Aborted, match=missing) as caught:
        files.load_tokenization(record)
    assert (caught.value.reason, caught.value.metadata) == ("RESOURCE_CHANGED", {"resource": NAME})
    record.manifest_digest = "0" * 64
    stored.put("polytok.json", b"{}")
    with pytest.raises(errors.Aborted, match=r"polytok\.json") as caught:
        files.load_tokenization(record)
    assert (caught.value.reason, caught.value.metadata) == ("RESOURCE_CHANGED", {"resource": NAME})


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "a/b", "..", ""])
def test_a_manifest_leads_nowhere_else(stored: Bucket, tmp_path: pathlib.Path, name: str) -> None:
    stored.publish([name])
    with pytest.raises(errors.DataLoss) as caught:
        files.load_tokenization(stored.record)
    assert all(named in caught.value.message for named in ("polytok.json", NAME, repr(name)))
    assert _copies(tmp_path) == []
    assert not list(tmp_path.rglob("escaped"))


def test_one_without_a_manifest_is_copied_as_it_is(stored: Bucket) -> None:
    record = stored.record
    record.manifest_digest = ""
    assert files.load_tokenization(record)["input_ids"][:] == ROWS["input_ids"]


def test_a_missing_bucket_is_an_error(stored: Bucket) -> None:
    record = stored.record
    record.tokenized_path = f"s3://{stored.name}-none/tok"
    with pytest.raises(errors.FailedPrecondition, match=f"s3://{stored.name}-none") as caught:
        files.load_tokenization(record)
    assert caught.value.reason == "STORAGE_FAILED"
