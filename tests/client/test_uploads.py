"""Rows that a caller has in memory become a dataset like any other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import datasets
import pyarrow as pa
import pytest

import polytok
from polytok import errors
from polytok.client import row_upload as uploading
from tests.client import samples

LABELS = datasets.ClassLabel(names=["short", "long"])
FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": LABELS, "tags": datasets.List(datasets.Value("string"))}
)
ROWS = [
    {"text": text, "label": len(text) % 2, "tags": text.split()[: place % 3]}
    for place, text in enumerate(samples.TEXTS)
]


def made_of(record: Any) -> datasets.Dataset:
    return datasets.load_from_disk(record.raw_path)


def test_a_dataset_in_its_own_order(client: polytok.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "_MESSAGE_BYTES", 2000)  # so that there are several
    given = datasets.Dataset.from_list(ROWS, features=FEATURES).shuffle(seed=7).select(range(3, 33))
    name = samples.unique("memory")
    made = client.datasets.create(name, rows=given, metadata={"from": "a test"})
    assert made.name == f"datasets/{name}"
    ready = client.datasets.wait(name, timeout=120)
    assert (ready.num_samples, ready.source.upload.num_rows) == (30, 30)
    found = made_of(ready)
    assert found.features == FEATURES
    assert found.to_list() == given.to_list()
    # The same rows again make no second one; others do not pass for them.
    assert client.datasets.create(name, rows=given).uid == made.uid
    with pytest.raises(errors.AlreadyExists, match="sha256"):
        client.datasets.create(name, rows=given.select(range(29, -1, -1)))


def test_a_table_is_tokenized(client: polytok.Client, ready: tuple[str, str]) -> None:
    _, model = ready
    name = samples.unique("memory")
    table = pa.table({"text": pa.array([*samples.TEXTS, "x"]).dictionary_encode(), "n": range(len(samples.TEXTS) + 1)})
    client.datasets.create(name, rows=table)
    record = client.datasets.wait(name, timeout=120)
    assert made_of(record)["text"][:] == table["text"].to_pylist()
    client.tokenizations.create(name, model, max_length=16)
    client.tokenizations.wait(name, model, timeout=120)
    other, _ = ready
    client.tokenizations.create(other, model, variant="sixteen", max_length=16)
    client.tokenizations.wait(other, model, variant="sixteen", timeout=120)
    assert client.load(name, model)["input_ids"][:-1] == client.load(other, model, variant="sixteen")["input_ids"][:]
    client.tokenizations.delete(other, model, variant="sixteen")


def batches() -> Iterator[pa.RecordBatch]:
    for start in range(0, len(ROWS), 7):
        yield pa.RecordBatch.from_pylist(ROWS[start : start + 7])


async def test_iterators_of_both_kinds(async_client: polytok.AsyncClient) -> None:
    async def later() -> AsyncIterator[pa.RecordBatch]:
        for batch in batches():
            yield batch

    uids = set()
    name = samples.unique("memory")
    for rows in (batches(), later(), list(batches())):
        uids.add((await async_client.datasets.create(name, rows=rows)).uid)
    assert len(uids) == 1
    record = await async_client.datasets.wait(name, timeout=120)
    assert made_of(record).to_list() == ROWS


def test_rows_that_fail_on_the_way_leave_nothing(client: polytok.Client) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield from batches()
        raise ZeroDivisionError("the caller's own")

    name = samples.unique("memory")
    with pytest.raises(ZeroDivisionError, match="the caller's own"):
        client.datasets.create(name, rows=failing())
    other = pa.RecordBatch.from_pylist([{"other": 1}])
    with pytest.raises(errors.InvalidArgument, match=r"row 40.*other: int64"):
        client.datasets.create(name, rows=[*batches(), other])
    with pytest.raises(errors.NotFound):
        client.datasets.get(name)


async def test_rows_that_fail_on_the_way_leave_nothing_in_asyncio(async_client: polytok.AsyncClient) -> None:
    async def failing() -> AsyncIterator[pa.RecordBatch]:
        for batch in batches():
            yield batch
        raise ZeroDivisionError("the caller's own")

    name = samples.unique("memory")
    with pytest.raises(ZeroDivisionError, match="the caller's own"):
        await async_client.datasets.create(name, rows=failing())
    with pytest.raises(errors.InvalidArgument, match=r"0.*dict.*pyarrow\.RecordBatch"):
        await async_client.datasets.create(name, rows=iter(ROWS))  # type: ignore[arg-type]
    with pytest.raises(errors.NotFound):
        await async_client.datasets.get(name)


@pytest.mark.parametrize(
    ("rows", "more", "reason", "named"),
    [
        ([], {}, "SOURCE_EMPTY", "rows"),
        (pa.table({"text": pa.array([], pa.string())}), {}, "SOURCE_EMPTY", "rows"),
        ("docs.jsonl", {}, "INVALID_FIELD", r"\bstr\b.*files"),
        ({"text": []}, {}, "INVALID_FIELD", r"\bdict\b"),
        (7, {}, "INVALID_FIELD", r"\bint\b"),
        ([ROWS[0]], {}, "INVALID_FIELD", r"pyarrow\.RecordBatch\.from_pylist"),
        (list(batches()), {"files": "docs.jsonl"}, "INVALID_FIELD", "files, hub"),
        (list(batches()), {"text_rows": "line"}, "INVALID_FIELD", "files, hub"),
    ],
)
def test_what_are_no_rows(client: polytok.Client, rows: Any, more: Any, reason: str, named: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=named) as caught:
        client.datasets.create(samples.unique("memory"), rows=rows, **more)
    assert caught.value.reason == reason


def test_a_row_may_be_large_and_not_too_large(client: polytok.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    name = samples.unique("memory")
    large = pa.table({"text": ["a", "b" * (5 << 20), "c"]})
    client.datasets.create(name, rows=large)
    assert client.datasets.wait(name, timeout=120).num_samples == 3
    monkeypatch.setattr(uploading, "_ROW_BYTES", 4 << 20)
    with pytest.raises(errors.InvalidArgument, match=r"Row 1\b.*\b5 MiB.*\b4 MiB"):
        client.datasets.create(samples.unique("memory"), rows=large)


async def test_asynchronous_rows_need_the_asynchronous_client(client: polytok.Client) -> None:
    async def rows() -> AsyncIterator[pa.RecordBatch]:
        for batch in batches():
            yield batch

    with pytest.raises(errors.InvalidArgument, match=r"polytok\.AsyncClient"):
        client.datasets.create(samples.unique("memory"), rows=rows())


def test_who_has_no_rows_needs_no_arrow() -> None:
    code = "import sys, polytok; polytok.Client('127.0.0.1:1').datasets; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
