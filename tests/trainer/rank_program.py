"""One of several processes of a training on a saved model: `-m tests.trainer.rank_program JOB.json`."""

import pathlib
import sys
from collections.abc import Callable

import datasets

from services.activations import activation_stream
from services.activations import models as loading
from services.trainer.sae.data import live
from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.distributed import rank_main
from tests.trainer import models


def opener(job: rank_main.RankJob) -> Callable[[str], ActivationDataset]:
    """Return a function that opens the model and the tokens in the folders that the job names."""

    def open_data(device: str) -> ActivationDataset:
        model = loading.load(pathlib.Path(job.read["model"]), dtype="float32", device=device, compile=False)
        settings = activation_stream.StreamSettings((models.HOOK,), 0, models.SELECTION)
        return live.LiveDataset(model, datasets.load_from_disk(job.read["tokens"]), settings, seed=0, held_out_rows=4)

    return open_data


if __name__ == "__main__":
    sys.exit(rank_main.main(opener))
