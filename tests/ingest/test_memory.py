"""Memory stays bounded for sources much larger than it: measured in a process that does nothing else."""

import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.runtime.storage import Storage
from tests.support.messages import check_names

MEBIBYTE = 1 << 20
BOUND = 1024 * MEBIBYTE

READ = """
import json, re, sys, time
from pathlib import Path
from polytok import errors
from polytok.catalog.v1 import tasks_pb2
from services.catalog.ingest import plan_task, read_task
from services.runtime.storage import Storage
from tests.ingest.harness import files
storage = Storage(sys.argv[1])
parts = plan_task.plan(tasks_pb2.PlanIngestTask(source=files(sys.argv[2]))).parts
started = time.monotonic()
task = tasks_pb2.ReadPartTask(part=parts[0], raw_key="raw", shard_bytes=64 << 20)
error, shards = "", []
try:
    shards = read_task.read(storage, task, "t-e1", lambda done, total: None).shards
except errors.InvalidArgument as refusal:
    error = refusal.message
# Not getrusage, whose figure begins with that of the process which started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({
    "rows": sum(shard.num_rows for shard in shards),
    "seconds": time.monotonic() - started,
    "peak": peak,
    "error": error,
}))
"""


def texts(count: int, size: int) -> Iterator[str]:
    word = "é🙂漢 text "
    for number in range(count):
        yield f"{number:012d} " + word * (size // len(word.encode()))


def write_jsonl(path: pathlib.Path, count: int, size: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts(count, size))


def write_json(path: pathlib.Path, count: int, size: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write('{"data": [')
        for number, text in enumerate(texts(count, size)):
            file.write(("," if number else "") + json.dumps({"text": text}, ensure_ascii=False, indent=1))
        file.write("]}")


def write_csv(path: pathlib.Path, count: int, size: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("text\n")
        file.writelines(f'"{text}"\n' for text in texts(count, size))


def write_text(path: pathlib.Path, count: int, size: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{text}\n" for text in texts(count, size))


SCHEMA = pa.schema([("text", pa.string())])


def batches(count: int, size: int, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    rows = texts(count, size)
    while chunk := list(itertools.islice(rows, max(1, batch_bytes // size))):
        yield pa.record_batch([chunk], schema=SCHEMA)


def write_parquet(path: pathlib.Path, count: int, size: int) -> None:
    # Row groups as large as the writer makes them.
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False, compression="none") as writer:
        for batch in batches(count, size, MEBIBYTE):
            writer.write_batch(batch, row_group_size=count)


def write_arrow(path: pathlib.Path, count: int, size: int) -> None:
    # Record batches close to the largest that are read.
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in batches(count, size, 150 * MEBIBYTE):
            writer.write_batch(batch)


WRITERS: dict[str, Callable[[pathlib.Path, int, int], None]] = {
    "jsonl": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "txt": write_text,
    "parquet": write_parquet,
    "arrow": write_arrow,
}


def measured(storage: Storage, path: pathlib.Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", READ, storage.uri("x").removesuffix("/x"), str(path)],
        capture_output=True,
        check=True,
        timeout=600,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    size = path.stat().st_size
    print(
        f"{path.name}: {size / 1e6:.0f} MB at {size / 1e6 / figures['seconds']:.0f} MB/s,"
        f" peak {figures['peak'] / MEBIBYTE:.0f} MiB"
    )
    return figures


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("ending", "count", "size"),
    [
        *((ending, 400_000, 3_000) for ending in WRITERS),
        *((ending, 180, 7_000_000) for ending in WRITERS if ending != "parquet"),
    ],
)
def test_file_larger_than_the_bound(storage: Storage, source: pathlib.Path, ending: str, count: int, size: int) -> None:
    path = source / f"large.{ending}"
    WRITERS[ending](path, count, size)
    assert path.stat().st_size > BOUND
    figures = measured(storage, path)
    assert figures["rows"] == count
    assert figures["peak"] < BOUND


def test_objects_that_take_too_much_memory(storage: Storage, source: pathlib.Path) -> None:
    # The bound is on what the process allocates, which in one that freed much before says nothing.
    path = source / "a.jsonl"
    path.write_text('{"messages": [' + "{}," * 10_000_000 + "{}]}\n")
    figures = measured(storage, path)
    check_names(figures["error"], path, 1, "512 MiB")
    assert figures["peak"] < BOUND
