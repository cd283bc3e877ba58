"""A bit that changes in any file of an extraction is neither published nor trained on."""

import json
import pathlib
import shutil

import pytest
import torch

from polytok import errors
from services.extractor.worker import file_writer
from services.records import publication
from services.trainer.sae.data import extraction
from services.trainer.sae.data.extraction_files import ExtractionFiles
from tests.extractor import worker_harness
from tests.extractor.worker_harness import WorkerHarness
from tests.support import damage, messages

HOOKS = ("blocks.0.hook_mlp_out", "blocks.2.hook_resid_post")
NAMES = {
    "activations.arrow",
    "activations.statistics",
    "polytok.json",
    "dataset_info.json",
    "state.json",
    "statistics.safetensors",
    "blocks.safetensors",
}


def published(place: WorkerHarness) -> pathlib.Path:
    """Extract and publish as workers and the owner do; return the folder."""
    order = place.order(hooks=HOOKS)
    plan = place.plan(order, range_bytes=place.plan(order).size_bytes // 2)
    found = place.publish(order, place.extract(order, plan))
    publication.move(place.storage, found.staged_files)
    return pathlib.Path(place.storage.uri(order.extraction_key))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> WorkerHarness:
    return worker_harness.create_worker_harness(tmp_path_factory.mktemp("place"))


@pytest.fixture
def folder(place: WorkerHarness, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return a published extraction; its blocks are much smaller than its record batches."""
    monkeypatch.setattr(file_writer, "BLOCK_BYTES", 512)
    shutil.copytree(place.storage.uri("x")[:-2], tmp_path / "storage")
    whole = WorkerHarness(damage.Damaging(str(tmp_path / "storage")), place.model, place.digest, place.files)
    return published(whole)


def test_a_bit_flipped_before_publication(place: WorkerHarness, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fresh = damage.Damaging(str(tmp_path / "again"))
    shutil.copytree(place.storage.uri("x")[:-2], tmp_path / "again", dirs_exist_ok=True)
    published(WorkerHarness(fresh, place.model, place.digest, place.files))
    assert damage.kinds(fresh.written) == NAMES
    for number, victim in enumerate(fresh.written):
        root = tmp_path / str(number)
        shutil.copytree(place.storage.uri("x")[:-2], root)
        storage = damage.Damaging(str(root), victim, place=(0.0, 0.5, 1.0)[number % 3])
        with pytest.raises(errors.DataLoss) as caught:
            published(WorkerHarness(storage, place.model, place.digest, place.files))
        # Small files have their final names by then.
        names = storage.victim_key, f"extractions/e/{victim.partition(' ')[0]}"
        assert caught.value.reason == "CHECKSUM_MISMATCH", victim
        assert any(name in caught.value.message for name in names), victim


def read(folder: pathlib.Path, manifest: dict[str, object]) -> list[dict[str, torch.Tensor]]:
    """Return the rows of an extraction, three at a time."""
    rows = extraction.open_extraction(folder, "extractions/e", manifest)
    assert isinstance(rows, ExtractionFiles)
    table = extraction.ExtractionTable(rows, HOOKS)
    return [table.read(first, 3) for first in range(0, len(table), 3)]


def test_a_bit_flipped_afterwards(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    manifest = json.loads((folder / "polytok.json").read_bytes())
    expected = read(folder, manifest)
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for step in range(40):
            damage.flip(path, step / 39)
            try:
                rows = read(folder, manifest)
            except errors.DataLoss as error:
                found.append((path.name, error))
            else:
                # A byte that says nothing, or a file that is for others.
                for one, other in zip(rows, expected, strict=True):
                    assert all(torch.equal(one[hook], other[hook]) for hook in HOOKS)
            path.write_bytes(content)
    assert len(found) > 100
    for name, error in found:
        _check(error, name)


def _check(error: errors.PolytokError, name: str) -> None:
    assert error.reason == "CHECKSUM_MISMATCH"
    messages.check_names(error.metadata["file"], name, "extractions/e")
    messages.check_names(error.message, name, "extractions/e")


def test_only_what_is_read_has_to_be_right(folder: pathlib.Path) -> None:
    manifest = json.loads((folder / "polytok.json").read_bytes())
    table = extraction.ExtractionTable(extraction.open_extraction(folder, "extractions/e", manifest), HOOKS[:1])
    first, last = table.read(0, 1), table.read(len(table) - 1, 1)
    # In the middle of the first hook's numbers of the last file.
    path = folder / manifest["files"][-1]["name"]
    data = path.read_bytes()
    place = data.index(last[HOOKS[0]].numpy().tobytes())
    damage.flip(path, (place + 0.5) / len(data))
    assert torch.equal(table.read(0, 1)[HOOKS[0]], first[HOOKS[0]])
    with pytest.raises(errors.DataLoss) as caught:
        table.read(len(table) - 1, 1)
    _check(caught.value, path.name)


def test_an_extraction_without_digests_is_read_whole(folder: pathlib.Path) -> None:
    manifest = json.loads((folder / "polytok.json").read_bytes())
    del manifest["blocks"]
    assert len(extraction.open_extraction(folder, "extractions/e", manifest)) > 0
    damage.flip(folder / manifest["files"][0]["name"], 0.5)
    with pytest.raises(errors.DataLoss) as caught:
        extraction.open_extraction(folder, "extractions/e", manifest)
    _check(caught.value, manifest["files"][0]["name"])
