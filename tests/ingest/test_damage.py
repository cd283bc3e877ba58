"""A bit that changes in any file that reading a dataset in writes on the way never becomes a row of it."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import limits, read_task
from services.catalog.ingest.sources import uploaded_files
from services.catalog.server.service import upload_files
from services.records import publication
from tests.ingest import harness
from tests.support import damage
from tests.support.messages import check_names


def written(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files of which one has whole numbers, one others, and one both."""
    pq.write_table(pa.table({"text": ["a", "b"], "value": [1, 2]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["c"], "value": [1.5]}), folder / "b.parquet")
    rows = [{"text": f"row {value}", "value": value} for value in (3, 4, 5.5)]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [folder / "a.parquet", folder / "b.parquet", folder / "c.jsonl"]


def read_in(storage: damage.Damaging, *paths: pathlib.Path) -> list[dict[str, Any]]:
    """Read files in, a row a shard, and publish them as the catalog does."""
    ingest = harness.IngestHarness(storage)
    result = ingest.files(*paths, shard_bytes=1)
    publication.move(storage, result.staged_files)
    return list(ingest.dataset())


@pytest.mark.parametrize("form", ["widened where all are published", "widened where one is read"])
def test_a_flipped_bit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    # A block of lines is a line.
    monkeypatch.setattr(limits, "BLOCK_BYTES", 30)
    first, second, third = written(tmp_path)
    paths = [third] if "one" in form else [first, second]
    whole = damage.Damaging(str(tmp_path / "whole"))
    expected = read_in(whole, *paths)
    # The shards that were too narrow, and those that took their place.
    assert sum(name.startswith("part-") for name in whole.written) == (6 if "one" in form else 5)
    assert damage.kinds(whole.written) == {"part.arrow", "dataset_info.json", "state.json"}
    assert [row["value"] for row in expected] == ([3, 4, 5.5] if "one" in form else [1, 2, 1.5])
    for number, victim in enumerate(whole.written):
        storage = damage.Damaging(str(tmp_path / str(number)), victim, place=(0.0, 0.5, 1.0)[number % 3])
        with pytest.raises(errors.DataLoss) as caught:
            read_in(storage, *paths)
        names = storage.victim_key, f"{harness.RAW}/{victim.partition(' ')[0]}"
        assert any(name in caught.value.message for name in names), victim
        assert not caught.value.retryable


def test_a_flipped_bit_in_an_upload(tmp_path: pathlib.Path) -> None:
    batch = pa.record_batch({"text": ["a", "b"] * 100})
    storage = damage.Damaging(str(tmp_path / "storage"))
    sent = upload_files.UploadWriter(storage, "datasets/d/upload", batch.schema.serialize().to_pybytes(), 1 << 20)
    sent.add(batch.serialize().to_pybytes())
    source = sent.finish(datasets_pb2.UploadEnd(num_rows=200, num_batches=1))
    (part,) = uploaded_files.parts(source, "datasets/d/upload")
    task = tasks_pb2.ReadPartTask(part=tasks_pb2.IngestPart(upload=part), raw_key=harness.RAW, shard_bytes=1 << 20)
    assert read_task.read(storage, task, "t-e1", harness.no_report).shards[0].num_rows == 200
    path = storage.local_path(part.key)
    assert path is not None
    content = path.read_bytes()
    for place in (0.0, 0.1, 0.5, 1.0):
        damage.flip(path, place)
        with pytest.raises(errors.DataLoss) as caught:
            read_task.read(storage, task, "t-e2", harness.no_report)
        assert caught.value.reason == "CHECKSUM_MISMATCH"
        check_names(caught.value.message, part.key)
        path.write_bytes(content)
