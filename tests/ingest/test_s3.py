"""Sources in an S3 bucket."""

import gzip

import pyarrow as pa
import pytest

from polytok import errors
from tests.ingest.harness import IngestHarness
from tests.ingest.test_files import arrow, jsonl, parquet
from tests.support import s3
from tests.support.messages import check_names

TABLE = pa.table({"text": [f"row {number}" for number in range(50)]})
ROWS = TABLE.to_pylist()


@pytest.fixture
def corpus(bucket: str, s3_server: s3.Server) -> str:
    """Return a folder with the same rows in several formats."""
    client = s3_server.client()
    for name, content in {
        "a.jsonl": jsonl(ROWS),
        "b.jsonl.gz": gzip.compress(jsonl(ROWS)),
        "c.parquet": parquet(TABLE),
        "d.arrow": arrow(TABLE, stream=False),
        "deep/e.jsonl": jsonl(ROWS),
        "_hidden.jsonl": b"no json",
    }.items():
        client.put_object(Bucket=bucket, Key=f"corpus/{name}", Body=content)
    return f"s3://{bucket}/corpus"


@pytest.mark.parametrize(
    ("what", "times"),
    [
        ("/deep", 1),
        ("/deep/", 1),
        ("/[a-z]*.jsonl*", 2),
        ("/**/[a-z]*.jsonl", 2),
        ("/?.jsonl", 1),
        ("/c.parquet", 1),
        ("/d.arrow", 1),
    ],
)
def test_files_folders_and_globs(ingest: IngestHarness, corpus: str, what: str, times: int) -> None:
    result = ingest.files(corpus + what)
    assert result.num_rows == times * len(ROWS)
    assert ingest.dataset()[: len(ROWS)]["text"] == TABLE["text"].to_pylist()


def test_added_and_changed_files_are_seen(
    ingest: IngestHarness, corpus: str, bucket: str, s3_server: s3.Server
) -> None:
    assert ingest.files(f"{corpus}/deep").num_rows == len(ROWS)
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="corpus/deep/e.jsonl", Body=jsonl(ROWS * 2))
    client.put_object(Bucket=bucket, Key="corpus/deep/f.jsonl", Body=jsonl(ROWS))
    assert ingest.files(f"{corpus}/deep").num_rows == 3 * len(ROWS)


@pytest.mark.parametrize(
    ("uri", "kind", "name"),
    [
        ("s3://{bucket}/none.jsonl", errors.NotFound, "s3://{bucket}/none.jsonl"),
        ("s3://{bucket}/none/*.jsonl", errors.NotFound, "s3://{bucket}/none/*.jsonl"),
        ("s3://{bucket}-x/a.jsonl", errors.FailedPrecondition, "s3://{bucket}-x"),
        ("s3://key:secret@{bucket}-x/a.jsonl", errors.FailedPrecondition, "name"),
    ],
)
def test_missing_objects_and_buckets(
    ingest: IngestHarness, bucket: str, uri: str, kind: type[errors.PolytokError], name: str
) -> None:
    with pytest.raises(kind) as caught:
        ingest.files(uri.format(bucket=bucket))
    check_names(caught.value.message, name.format(bucket=bucket))
    assert caught.value.reason == "SOURCE_NOT_FOUND"
    assert "secret" not in caught.value.message
