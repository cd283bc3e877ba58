"""Data of a training without a model: sparse mixtures of fixed directions, another draw for every block."""

from collections.abc import Iterator

import numpy as np
import torch

from polytok import errors
from services.trainer.sae import configs
from services.trainer.sae.data.dataset import Block, Position, SpliceTarget

HOOK = "blocks.0.hook_resid_post"
D_IN = 16


class GaussianSource:
    """Block i of a part is drawn from (part, i)."""

    def __init__(self, part: int, hooks: tuple[str, ...] = (HOOK,), poison_at: int | None = None) -> None:
        self.widths = dict.fromkeys(hooks, D_IN)
        self._part = part
        self._block = 0
        self._poison_at = poison_at

    def read(self) -> Block:
        drawn = np.random.default_rng([self._part, self._block])
        self._block += 1
        size = 40 + self._block % 7
        directions = np.random.default_rng(0).normal(size=(24, D_IN))
        active = drawn.random((size, 24)) < 0.1
        values = torch.from_numpy((active * drawn.random((size, 24))) @ directions + 0.5).float()
        if self._block == self._poison_at:
            values[3, 2] = float("nan")
        return {hook: values * (index + 1) for index, hook in enumerate(self.widths)}

    def position(self) -> Position:
        return {"block": self._block}

    def seek(self, position: Position) -> None:
        if position["block"] < 0:
            raise errors.DataLoss("no such block")
        self._block = int(position["block"])


class Gaussian:
    """What `train.train` reads."""

    def __init__(self, hooks: tuple[str, ...] = (HOOK,), poison_at: int | None = None) -> None:
        self.widths = dict.fromkeys(hooks, D_IN)
        self.description = {"source": "gaussian"}
        self.ahead = 2
        self.available_samples = 640
        self._poison_at = poison_at

    def source(self, rank: int, size: int) -> GaussianSource:
        return GaussianSource(1 + rank, tuple(self.widths), self._poison_at)

    def held_out(self) -> Iterator[Block]:
        source = GaussianSource(1000, tuple(self.widths))
        for _ in range(4):
            yield source.read()

    def splice_target(self, hook: str) -> SpliceTarget | None:
        return None


def sae(architecture: configs.Architecture = "topk", **fields: object) -> configs.SaeConfig:
    known: dict[str, object] = {"d_in": D_IN, "d_sae": 32, "k": 4, "l1_coefficient": 0.1, "seed": 3}
    return configs.SaeConfig.from_dict({"architecture": architecture} | known | fields)


def training(*saes: configs.SaeConfig, hook: str = HOOK, **fields: object) -> configs.TrainingPlan:
    planned = tuple(
        configs.PlannedSae(name=f"sae{index}", hook=hook, sae=each, optimizer=configs.OptimizerConfig(lr=1e-3))
        for index, each in enumerate(saes or (sae(),))
    )
    known: dict[str, object] = {
        "total_samples": 32 * 40,
        "batch_size": 32,
        "buffer_samples": 256,
        "threads": 1,
        "log_every": 5,
        "checkpoint_every": 10,
        "normalization_batches": 4,
        "dead_feature_window": 5,
    }
    return configs.TrainingPlan(saes=planned, **known | fields)  # type: ignore[arg-type]
