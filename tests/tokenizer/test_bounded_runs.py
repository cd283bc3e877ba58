"""Texts in runs of bounded size: nothing is lost at their edges, whatever the bounds are."""

import pathlib

import pyarrow as pa
import pytest

from services.runtime.storage import Storage
from services.tokenizer.engines import reference
from services.tokenizer.models import loader
from services.tokenizer.sequences import bounded_runs
from services.tokenizer.text import columns, shard_reader
from tests.tokenizer import samples, task_runner
from tests.tokenizer.test_packing import rows_of


@pytest.mark.parametrize(
    ("texts", "most_bytes", "most_rows", "expected"),
    [
        ([], 10, 10, []),
        (["", "", ""], 10, 10, [(0, 3)]),
        (["aaaa", "bbbb", "cc", "dd"], 10, 10, [(0, 3), (3, 4)]),
        (["é" * 5, "b", "c" * 11, "", "d"], 10, 10, [(0, 1), (1, 2), (2, 3), (3, 5)]),
        (["a", "b", "c"], 10, 2, [(0, 2), (2, 3)]),
    ],
)
def test_runs(texts: list[str], most_bytes: int, most_rows: int, expected: list[tuple[int, int]]) -> None:
    # A slice: its offsets do not begin at 0.
    array = pa.array(["before", *texts], pa.large_string())[1:]
    assert list(bounded_runs.runs(bounded_runs.ends_of(array), most_bytes, most_rows)) == expected


@pytest.mark.parametrize("most", [1, 100, 5000])
def test_the_reference_encodes_runs(
    folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(reference, "_RUN_BYTES", most)
    backend = loader.load(folders["byte_level"]).backend
    texts = [*samples.ADVERSARIAL, *samples.DOCUMENTS[:5]]
    rows = reference.Reference(backend).encode(pa.array(texts, pa.large_string()))
    assert rows_of(rows) == [backend.encode(text, add_special_tokens=False).ids for text in texts]


def test_batches_of_all_sizes(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 1000)
    batches = [*([f"{number:0100}"] for number in range(30)), ["x" * 400] * 9, ["last"]]
    shard = task_runner.text_shard(storage, *batches)
    with shard_reader.open_verified(storage, shard) as file:
        pieces = list(shard_reader.pieces(file, shard, columns.TextColumn("text")))
    assert [text for piece in pieces for text in piece.texts.to_pylist()] == [text for b in batches for text in b]
    assert len(pieces) < 12
    assert max(piece.text_bytes for piece in pieces) <= 1000
    positions = [piece.position for piece in pieces]
    assert positions == sorted(positions)
    assert positions[0] > 0
    assert positions[-1] <= shard.size_bytes
