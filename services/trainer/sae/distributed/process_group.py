"""The processes of one training, as torchrun starts them, and what they exchange besides gradients.

Where they share batches, steps average their gradients (`reduction`), so the weights are the same everywhere; the rest
of the work of each is its share (`partition`). The exchanged documents are JSON, never pickled.
"""

import datetime
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed

_distributed = torch.distributed
_PATIENCE = datetime.timedelta(hours=2)
"""How long processes wait for each other: the others wait while the first evaluates. If one dies, torchrun ends the
others, so that none waits in vain.
"""


class ProcessGroup(NamedTuple):
    """The processes of a training, and which of them this one is."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    """Device that this process computes on."""
    collectives: str = "cpu"
    """Device of collectives: the processor for gloo, this process's GPU for nccl."""

    @property
    def first(self) -> bool:
        """Whether this process reports, and writes what all share."""
        return self.rank == 0

    def gather(self, document: Any) -> list[Any]:
        """Return every process's document to all of them, in order of rank. Every process must call it."""
        if self.size == 1:
            return [document]
        data = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8).to(self.collectives)
        lengths = self._gathered(torch.tensor([len(data)], dtype=torch.int64, device=self.collectives))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.collectives)
        padded[: len(data)] = data
        gathered = zip(self._gathered(padded), lengths, strict=True)
        return [json.loads(bytes(each[: int(length)].tolist())) for each, length in gathered]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes, on the tensor's device. Every process must call it."""
        if self.size == 1:
            return tensor
        summed = tensor.to(self.collectives, copy=True)
        _distributed.all_reduce(summed)
        return summed.to(tensor.device)

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        _distributed.all_gather(found, tensor)
        return found


@contextmanager
def join_process_group(device: str, *, gradients: bool = True) -> Generator[ProcessGroup]:
    """Join the processes that torchrun started with this one; alone, the group has one member.

    A `device` of cuda becomes this process's own GPU. nccl is needed to share `gradients`, gloo suffices for the rest.
    torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_…) identifies the process:
    https://docs.pytorch.org/docs/stable/elastic/run.html.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and size > 1 else device
    if size == 1 or _distributed.is_initialized():
        rank = _distributed.get_rank() if _distributed.is_initialized() else 0
        yield ProcessGroup(rank, _distributed.get_world_size() if _distributed.is_initialized() else 1, own)
        return
    if own.startswith("cuda"):
        torch.cuda.set_device(own)
    nccl = gradients and own.startswith("cuda")
    _distributed.init_process_group("nccl" if nccl else "gloo", timeout=_PATIENCE)
    try:
        yield ProcessGroup(_distributed.get_rank(), size, own, own if nccl else "cpu")
    finally:
        _distributed.destroy_process_group()
