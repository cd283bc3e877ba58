"""Checkpoints come back as written; a damaged or half-written one never takes the place of a good one."""

import hashlib
import json
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch

from polytok import errors
from services.runtime.storage import flush_ahead
from services.trainer.sae import tensor_file
from services.trainer.sae.checkpoints import Checkpoints
from services.trainer.sae.data.dataset import CheckpointState
from tests.support import damage, messages


def states(number: float) -> dict[str, CheckpointState]:
    values = torch.full((50, 40), number)
    return {
        "sae-one": CheckpointState(
            {"weights": values, "same": values[:10], "counts": torch.arange(5)}, {"step": number}
        ),
        "data": CheckpointState({"held": torch.full((30, 2), number, dtype=torch.bfloat16)}, {"position": {"row": 3}}),
    }


@pytest.fixture
def checkpoints(tmp_path: pathlib.Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_they_come_back_as_written(checkpoints: Checkpoints) -> None:
    written = checkpoints.save(40, states(1.5), {"seed": 3, "scale": 0.1 + 0.2})
    assert checkpoints.list() == [written]
    assert written.step == 40
    assert written.size_bytes > 50 * 40 * 4
    loaded = checkpoints.latest()
    assert loaded is not None
    assert (loaded.step, loaded.values, loaded.damaged) == (40, {"seed": 3, "scale": 0.1 + 0.2}, [])
    for name, state in states(1.5).items():
        assert loaded.states[name].values == state.values
        assert loaded.states[name].tensors.keys() == state.tensors.keys()
        for key, tensor in state.tensors.items():
            assert loaded.states[name].tensors[key].dtype == tensor.dtype
            assert torch.equal(loaded.states[name].tensors[key], tensor)


def test_the_last_few_are_kept(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3, 20):
        checkpoints.save(step, states(step), {})
    assert [each.step for each in checkpoints.list()] == [3, 20]


def test_there_may_be_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    assert checkpoints.list() == []


@pytest.mark.parametrize("file", ["sae-one.safetensors", "data.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_skipped_and_reported(
    checkpoints: Checkpoints, tmp_path: pathlib.Path, file: str, damage: str
) -> None:
    checkpoints.save(1, states(1), {"n": 1})
    checkpoints.save(2, states(2), {"n": 2})
    path = tmp_path / "checkpoints" / "step-000000000002" / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "remove":
        path.unlink()
    loaded = checkpoints.latest()
    assert loaded is not None
    assert (loaded.step, loaded.values) == (1, {"n": 1})
    assert len(loaded.damaged) == 1
    assert f"step-000000000002/{file}" in loaded.damaged[0]


def test_a_damaged_checkpoint_displaces_no_good_one(checkpoints: Checkpoints, tmp_path: pathlib.Path) -> None:
    for step in (1, 2):
        checkpoints.save(step, states(step), {})
    damage.flip(tmp_path / "checkpoints" / "step-000000000002" / "data.safetensors", 0.5)
    checkpoints.latest()
    checkpoints.save(3, states(3), {})
    assert [each.step for each in checkpoints.list()] == [1, 3]


@pytest.mark.parametrize("place", [0.0, 0.004, 0.5, 1.0])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_flipped_bit_in_any_place(
    checkpoints: Checkpoints, tmp_path: pathlib.Path, place: float, wanted: bool
) -> None:
    checkpoints.save(1, states(1), {})
    for path in sorted((tmp_path / "checkpoints" / "step-000000000001").iterdir()):
        content = path.read_bytes()
        damage.flip(path, place)
        with pytest.raises(errors.DataLoss) as caught:
            checkpoints.latest(wanted=lambda _: wanted)
        messages.check_names(caught.value.message, f"step-000000000001/{path.name}")
        path.write_bytes(content)
    assert checkpoints.latest() is not None


def test_checksums_are_of_memory(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    write = flush_ahead.BackgroundFlushFile.write

    def damaging(self: flush_ahead.BackgroundFlushFile, data: memoryview) -> int:
        return write(self, bytes(data[:-1]) + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(flush_ahead.BackgroundFlushFile, "write", damaging)
    checkpoints.save(1, states(1), {})
    with pytest.raises(errors.DataLoss) as caught:
        checkpoints.latest()
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    messages.check_names(caught.value.message, "step-000000000001/sae-one.safetensors", "sha256")


def test_files_are_safetensors(tmp_path: pathlib.Path) -> None:
    written = {
        "halves": torch.arange(3, dtype=torch.bfloat16),
        "number": torch.tensor(2.5, dtype=torch.float64),
        "none": torch.empty(0, 4),
        "turned": torch.arange(6, dtype=torch.int32).reshape(2, 3).T,
        "flags": torch.tensor([True, False, True]),
    }
    tensor_file.write(tmp_path / "ours", written)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in written.items()}, tmp_path / "theirs")
    data = (tmp_path / "theirs").read_bytes()
    theirs = tensor_file.WrittenFile(len(data), hashlib.sha256(data).hexdigest())
    for found in (safetensors.torch.load_file(tmp_path / "ours"), tensor_file.read(tmp_path / "theirs", theirs)):
        assert found.keys() == written.keys()
        for name, tensor in written.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_all_damaged_is_an_error(checkpoints: Checkpoints, tmp_path: pathlib.Path) -> None:
    checkpoints.save(1, states(1), {})
    (tmp_path / "checkpoints" / "step-000000000001" / "data.safetensors").write_bytes(b"x" * 10)
    with pytest.raises(errors.DataLoss) as caught:
        checkpoints.latest()
    assert (caught.value.reason, caught.value.retryable) == ("CHECKSUM_MISMATCH", False)
    messages.check_names(caught.value.message, "step-000000000001/data.safetensors")


def test_a_manifest_leads_to_no_other_folder(checkpoints: Checkpoints, tmp_path: pathlib.Path) -> None:
    checkpoints.save(1, states(1), {})
    path = tmp_path / "checkpoints" / "step-000000000001" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["data"]["file"] = "../../outside.safetensors"
    path.write_text(json.dumps(content))
    with pytest.raises(errors.DataLoss) as caught:
        checkpoints.latest()
    messages.check_names(caught.value.message, "step-000000000001/manifest.json")


def test_partial_checkpoints_are_removed(checkpoints: Checkpoints, tmp_path: pathlib.Path) -> None:
    part = tmp_path / "checkpoints" / "step-000000000005.part"
    part.mkdir(parents=True)
    (part / "data.safetensors").write_bytes(b"half")
    assert checkpoints.list() == []
    checkpoints.save(6, states(6), {})
    assert not part.exists()
    assert [each.step for each in checkpoints.list()] == [6]


def test_a_full_disk_keeps_earlier_checkpoints(checkpoints: Checkpoints, tmp_path: pathlib.Path) -> None:
    checkpoints.save(1, states(1), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(errors.ResourceExhausted) as raised:
            checkpoints.save(2, states(2), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.reason == "DISK_FULL"
    messages.check_names(raised.value.message, "step 2", tmp_path / "checkpoints", "step 1")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000001"]
    loaded = checkpoints.latest()
    assert loaded is not None
    assert loaded.step == 1


def test_killed_while_writing(tmp_path: pathlib.Path) -> None:
    """A process killed at any moment leaves only whole checkpoints."""
    script = textwrap.dedent("""
        import itertools, pathlib, sys, torch
        from services.trainer.sae.checkpoints import Checkpoints
        from services.trainer.sae.data.dataset import CheckpointState
        checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), keep=2)
        for step in itertools.count(1):
            state = CheckpointState({"held": torch.full((1 << 18,), float(step))}, {})
            checkpoints.save(step, {"data": state}, {"step": step})
            print(step, flush=True)
    """)
    folder = tmp_path / "checkpoints"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(5)]
    process.kill()
    reported += [int(line) for line in process.stdout.read().split()]
    process.stdout.close()
    process.wait()
    loaded = Checkpoints(folder).latest()
    assert loaded is not None
    assert loaded.damaged == []
    assert loaded.step >= reported[-1]
    assert loaded.states["data"].tensors["held"][0] == loaded.step == loaded.values["step"]
