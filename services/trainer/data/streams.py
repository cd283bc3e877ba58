"""What a source of activations is to the buffer that reads it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

Block = dict[str, torch.Tensor]
"""Activations of some tokens by hook, each of shape (tokens, width of the hook); row i is the same token everywhere."""

Position = dict[str, Any]
"""Where a source stands, as JSON."""


@dataclasses.dataclass
class State:
    """What something needs in order to go on later: tensors, and the rest as JSON."""

    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, name: str, state: "State") -> None:
        """Takes in another state under a name; its tensors are shared, not copied."""
        self.tensors |= {f"{name}.{key}": tensor for key, tensor in state.tensors.items()}
        self.values[name] = state.values

    def part(self, name: str) -> "State":
        """Gives back what was added under a name; raises KeyError where nothing was."""
        prefix = f"{name}."
        found = {key.removeprefix(prefix): each for key, each in self.tensors.items() if key.startswith(prefix)}
        return State(found, self.values[name])


class Source(Protocol):
    """Gives activations block by block, without end, in an order that its seed decides.

    After the last token it begins anew in another order. Two sources of equal arguments give equal blocks, and one
    that was sent to a position goes on exactly as the one that told it.
    """

    widths: Mapping[str, int]
    """Width of each hook."""

    def read(self) -> Block:
        """Gives the next block, of one token or more."""

    def position(self) -> Position:
        """Tells where the next `read` begins."""

    def seek(self, position: Position) -> None:
        """Goes to a position; raises `errors.DataLoss` for one that this source cannot have told."""


class HeldOut(Protocol):
    """Activations that no source of the training gives."""

    def __iter__(self) -> Iterator[Block]:
        """Gives them block by block, the same at every call."""
