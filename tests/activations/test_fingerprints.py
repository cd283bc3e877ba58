"""Which weights a model has, and that others are refused."""

import os
import pathlib

import pytest
import torch

from polytok import errors
from services.activations import fingerprints, models
from tests.activations import tiny_models
from tests.support.messages import words


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tiny_models.save("gpt2", tmp_path / "model")


def fingerprint(folder: pathlib.Path, expected: str = "") -> str:
    return fingerprints.check_fingerprint(str(folder), folder, expected, "trainings/one", "Bring it back.")


def age(folder: pathlib.Path, seconds: float = 3600) -> None:
    """Set times back, so that only the time of the change, which nobody sets, is late."""
    for path in folder.iterdir():
        before = path.stat().st_mtime_ns - int(seconds * 1e9)
        os.utime(path, ns=(before, before))


def flip(path: pathlib.Path, place: int = -1) -> None:
    """Change a byte in place, and neither the size nor the time of the last write."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(place % stat.st_size)
        byte = file.read(1)[0]
        file.seek(place % stat.st_size)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(("name", "place"), [("model.safetensors", -1), ("config.json", 0)])
def test_other_content_is_refused(folder: pathlib.Path, name: str, place: int) -> None:
    age(folder)
    expected = fingerprint(folder)
    assert fingerprint(folder, expected) == expected
    flip(folder / name, place)
    with pytest.raises(errors.FailedPrecondition) as caught:
        fingerprint(folder, expected)
    assert (caught.value.reason, caught.value.retryable) == ("MODEL_INVALID", False)
    assert caught.value.metadata == {"expected": expected, "found": fingerprint(folder)}
    assert {str(folder), "trainings/one"} <= words(caught.value.message)
    assert caught.value.message.endswith("Bring it back.")
    flip(folder / name, place)
    assert fingerprint(folder, expected) == expected


def test_other_files_do_not_count(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = fingerprint(folder)
    (folder / "README.md").write_text("other words")
    assert fingerprint(folder.rename(tmp_path / "moved"), expected) == expected


def test_every_shard_counts(folder: pathlib.Path) -> None:
    models.load(folder).module.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    found = {fingerprint(folder)}
    for shard in shards:
        flip(shard)
        found.add(fingerprint(folder))
    assert len(found) == 1 + len(shards)


def test_a_repository_has_its_commit(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    snapshot = tmp_path / "snapshots" / ("c" * 40)
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    assert fingerprints.check_fingerprint("org/model", snapshot, "", "trainings/one", "") == "c" * 40
    with pytest.raises(errors.FailedPrecondition):
        fingerprints.check_fingerprint("org/model", snapshot, "d" * 40, "trainings/one", "")


def test_loaded_weights_do_not_change(folder: pathlib.Path) -> None:
    model = models.load(folder).module
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x11" * (path.stat().st_size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
