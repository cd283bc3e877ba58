"""A source whose activations say which token they are, in blocks of uneven lengths."""

import torch

from services.trainer.sae.data.dataset import Block, Position

WIDTHS = {"a": 3, "b": 2}


class Numbered:
    """Token i has the activation (i, i + 0.25, …) at every hook; blocks have 1 to 7 tokens."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.widths = WIDTHS
        self._fail_at = fail_at
        self._block = 0
        self._token = 0

    def read(self) -> Block:
        length = 1 + self._block * 5 % 7
        numbers = torch.arange(self._token, self._token + length, dtype=torch.float32)
        if self._fail_at is not None and self._token + length > self._fail_at:
            raise OSError("the shard is gone")
        self._block, self._token = self._block + 1, self._token + length
        return {hook: numbers[:, None] + 0.25 * torch.arange(width) for hook, width in WIDTHS.items()}

    def position(self) -> Position:
        return {"block": self._block, "token": self._token}

    def seek(self, position: Position) -> None:
        self._block, self._token = int(position["block"]), int(position["token"])
