"""Transfer activations from the model's device to the CPU while the model continues."""

from collections.abc import Callable

import torch
from torch import Tensor

from services.activations.activation_stream import Piece

Look = Callable[[str, Tensor], None]
"""Called with a hook's vectors on the device before they are transferred."""


class DeviceTransfer:
    """Transfers the pieces of a stream in a thread other than the model's.

    On a GPU all of it happens on a side stream: the work of `look`, the change of number format, and the copy into
    pinned memory, while the kernels of the next batches run on the stream of the model's thread. On a CPU nothing is
    copied unnecessarily.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def take(self, piece: Piece, look: Look) -> dict[str, Tensor]:
        """Return hook → [n, width] on the CPU, in this object's number format."""
        with torch.inference_mode():
            if self._side is None:
                return {name: self._looked_at(name, value, look) for name, value in piece.values.items()}
            return self._copied(piece, look, self._side)

    def _looked_at(self, name: str, value: Tensor, look: Look) -> Tensor:
        look(name, value)
        return value.to(self._dtype)

    def _copied(self, piece: Piece, look: Look, side: torch.cuda.Stream) -> dict[str, Tensor]:
        arrived = {}
        with torch.cuda.stream(side):
            if piece.made is not None:
                side.wait_event(piece.made)
            for name, value in piece.values.items():
                # Keeps the allocator from reusing the memory on the model's stream before this one is done.
                value.record_stream(side)
                converted = self._looked_at(name, value, look)
                arrived[name] = torch.empty(value.shape, dtype=self._dtype, pin_memory=True)
                arrived[name].copy_(converted, non_blocking=True)
        side.synchronize()
        return arrived
