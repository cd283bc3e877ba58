"""What a source of activations is to the buffer that reads it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch

from services.activations.hooks import Hook
from services.activations.models import LoadedModel

Block = dict[str, torch.Tensor]
"""Activations of some tokens by hook, each of shape (tokens, width of the hook); row i is the same token everywhere."""


class TokenSequences(NamedTuple):
    """Some sequences of tokens, padded to one length."""

    input_ids: torch.Tensor
    """Shape (sequences, length), int64."""
    attention_mask: torch.Tensor
    """Same shape; 0 is padding, behind the tokens."""
    kept: torch.Tensor
    """Same shape, boolean: tokens whose activations are trained on. False wherever there is padding."""


Position = dict[str, Any]
"""Where a source stands, as JSON."""


@dataclasses.dataclass
class CheckpointState:
    """What something needs in order to go on later: tensors, and the rest as JSON."""

    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, name: str, state: "CheckpointState") -> None:
        """Take in another state under a name; its tensors are shared, not copied."""
        self.tensors |= {f"{name}.{key}": tensor for key, tensor in state.tensors.items()}
        self.values[name] = state.values

    def part(self, name: str) -> "CheckpointState":
        """Return back what was added under a name; raises KeyError where nothing was."""
        prefix = f"{name}."
        found = {key.removeprefix(prefix): each for key, each in self.tensors.items() if key.startswith(prefix)}
        return CheckpointState(found, self.values[name])


class ActivationIterator(Protocol):
    """Gives activations block by block, without end, in an order that its seed decides.

    After the last token it begins anew in another order. Two sources of equal arguments give equal blocks, and one
    that was sent to a position goes on exactly as the one that told it.
    """

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each hook."""

    def read(self) -> Block:
        """Return the next block, of one token or more."""

    def position(self) -> Position:
        """Return where the next `read` begins."""

    def seek(self, position: Position) -> None:
        """Go to a position; raises `errors.DataLoss` for one that this source cannot have told."""


class ActivationDataset(Protocol):
    """What a training reads: activations to train on, and held-out sequences that it never trains on."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each hook."""

    @property
    def ahead(self) -> int:
        """How many batches are best made ready while a step computes; changes nothing about what they are."""

    @property
    def available_samples(self) -> int:
        """Activations of each hook that there are to train on, each counted once: none that is held out."""

    @property
    def description(self) -> dict[str, Any]:
        """What a record keeps of it, as JSON: which rows are held out, and how they were chosen."""

    def source(self, rank: int, size: int) -> ActivationIterator:
        """Return the activations of the `rank`-th of `size` disjoint parts of the sequences."""

    def held_out(self) -> Iterator[Block]:
        """Return activations of the held-out sequences, the same at every call."""

    def splice_target(self, hook: str) -> "SpliceTarget | None":
        """Return what an autoencoder of the hook is evaluated in the model with; None where there is no such model."""


class SpliceTarget(NamedTuple):
    """A model, a place in it, and sequences for it."""

    model: LoadedModel
    hook: Hook
    sequences: Callable[[], Iterator[TokenSequences]]
    """Gives the held-out sequences."""
