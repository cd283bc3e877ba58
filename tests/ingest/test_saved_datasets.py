"""Folders written by `save_to_disk`."""

import json
import pathlib

import datasets
import pytest

from polytok.catalog.v1.datasets_pb2 import FileSource
from tests.ingest.harness import IngestHarness
from tests.ingest.refusals import refused
from tests.support.messages import check_names


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"row {row}" for row in range(30)], "label": list(range(30))})


@pytest.mark.parametrize("wanted", [FileSource.FORMAT_UNSPECIFIED, FileSource.FORMAT_ARROW])
def test_its_rows_are_read_in_order(
    ingest: IngestHarness, source: pathlib.Path, rows: datasets.Dataset, wanted: FileSource.Format.ValueType
) -> None:
    rows.save_to_disk(source / "saved", num_shards=12)
    # A file that is not part of it.
    (source / "saved" / "cache-1.arrow").write_bytes((source / "saved" / "data-00000-of-00012.arrow").read_bytes())
    result = ingest.files(source / "saved", format=wanted)
    assert ingest.dataset().to_list() == rows.to_list()
    assert len(result.shards) == 1


def test_a_selection_of_rows(ingest: IngestHarness, source: pathlib.Path, rows: datasets.Dataset) -> None:
    rows.select([5, 3]).save_to_disk(source / "saved")
    ingest.files(source / "saved")
    assert ingest.dataset()["label"][:] == [5, 3]
    # Versions of `datasets` before 2.0 saved the indices and the original rows.
    state = json.loads((source / "saved" / "state.json").read_text())
    (source / "saved" / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "i.arrow"}]}))
    check_names(refused(ingest, source / "saved").message, "flatten_indices")


def test_splits_are_listed(ingest: IngestHarness, source: pathlib.Path, rows: datasets.Dataset) -> None:
    datasets.DatasetDict(validation=rows.select([1]), train=rows).save_to_disk(source / "saved")
    error = refused(ingest, source / "saved")
    check_names(error.message, "validation", "train", f"{source}/saved/validation")
    ingest.files(source / "saved" / "train")
    assert ingest.dataset().num_rows == 30


def test_several_saved_datasets(ingest: IngestHarness, source: pathlib.Path, rows: datasets.Dataset) -> None:
    for name in ("one", "two"):
        rows.save_to_disk(source / "all" / name)
    check_names(refused(ingest, source).message, "all/one", "all/two", f"{source}/all/one")
    check_names(refused(ingest, source / "all").message, f"{source}/all/one")


@pytest.mark.parametrize("damage", ["missing", "no json", "no files", "outside"])
def test_a_damaged_folder(ingest: IngestHarness, source: pathlib.Path, rows: datasets.Dataset, damage: str) -> None:
    saved = source / "saved"
    rows.save_to_disk(saved)
    state = json.loads((saved / "state.json").read_text())
    match damage:
        case "missing":
            (saved / "data-00000-of-00001.arrow").unlink()
        case "no json":
            (saved / "state.json").write_text("{")
        case "no files":
            (saved / "state.json").write_text(json.dumps(state | {"_data_files": []}))
        case "outside":
            (source / "other.arrow").write_bytes((saved / "data-00000-of-00001.arrow").read_bytes())
            (saved / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../other.arrow"}]}))
    check_names(refused(ingest, saved).message, f"{source}/saved", "state.json")
