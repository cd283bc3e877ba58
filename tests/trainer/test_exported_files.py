"""An exported autoencoder that does not reach the disk as it was to be written is not published."""

import pathlib

import pytest
import torch

from polytok import errors
from services.runtime.storage import Storage
from services.trainer.sae import export, tensor_file
from services.trainer.worker import workspace
from tests.support import damage, messages


@pytest.mark.parametrize("root", ["folder", "memory"])
def test_a_flipped_bit(tmp_path: pathlib.Path, root: str) -> None:
    storage = Storage(str(tmp_path / "storage") if root == "folder" else f"memory://{tmp_path.name}")
    with workspace.open_workspace(storage, "trainings/t/a-e1") as work:
        folder = work.folder / workspace.EXPORTS / "sae"
        folder.mkdir(parents=True)
        checksums = {
            name: tensor_file.write(folder / name, {"values": torch.arange(1000.0)}).sha256 for name in export.FILES
        }
        files = list(work.exported("sae", checksums))
        assert {file.name: file.sha256 for file in files} == {f"sae/{name}": each for name, each in checksums.items()}
        for name in export.FILES:
            content = (folder / name).read_bytes()
            damage.flip(folder / name, 0.7)
            with pytest.raises(errors.DataLoss) as caught:
                list(work.exported("sae", checksums))
            assert caught.value.metadata["file"] == f"trainings/t/a-e1/saes/sae/{name}"
            messages.check_names(caught.value.message, f"trainings/t/a-e1/saes/sae/{name}")
            # The next attempt writes it again.
            assert caught.value.retryable
            (folder / name).write_bytes(content)
