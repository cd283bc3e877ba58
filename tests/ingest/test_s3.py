"""Sources in an S3 bucket."""

import gzip

import pyarrow as pa
import pytest

from polytok import errors
from tests.ingest.ingests import Ingest
from tests.ingest.test_files import arrow, jsonl, parquet
from tests.support import s3

TABLE = pa.table({"text": [f"row {number}" for number in range(50)]})
ROWS = TABLE.to_pylist()


@pytest.fixture
def corpus(bucket: str, s3_server: s3.Server) -> str:
    """A folder with the same rows in several formats."""
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
def test_files_folders_and_globs(ingest: Ingest, corpus: str, what: str, times: int) -> None:
    result = ingest.files(corpus + what)
    assert result.num_rows == times * len(ROWS)
    assert ingest.dataset()[: len(ROWS)]["text"] == TABLE["text"].to_pylist()


def test_files_that_come_and_change_are_seen(ingest: Ingest, corpus: str, bucket: str, s3_server: s3.Server) -> None:
    assert ingest.files(f"{corpus}/deep").num_rows == len(ROWS)
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="corpus/deep/e.jsonl", Body=jsonl(ROWS * 2))
    client.put_object(Bucket=bucket, Key="corpus/deep/f.jsonl", Body=jsonl(ROWS))
    assert ingest.files(f"{corpus}/deep").num_rows == 3 * len(ROWS)


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("s3://{bucket}/none.jsonl", errors.NotFound, "s3://{bucket}/none.jsonl does not exist"),
        ("s3://{bucket}/none/*.jsonl", errors.NotFound, "s3://{bucket}/none/*.jsonl matches no file"),
        ("s3://{bucket}-x/a.jsonl", errors.FailedPrecondition, "There is no bucket s3://{bucket}-x. Create it, or"),
        ("s3://key:secret@{bucket}-x/a.jsonl", errors.FailedPrecondition, "is no name that a bucket can have"),
    ],
)
def test_what_is_not_there(
    ingest: Ingest, bucket: str, uri: str, kind: type[errors.PolytokError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        ingest.files(uri.format(bucket=bucket))
    assert message.format(bucket=bucket) in caught.value.message
    assert caught.value.reason == "SOURCE_NOT_FOUND"
    assert "secret" not in caught.value.message
