"""Protocols of the sources of activations."""

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
    """Token ids of shape (sequences, length), int64."""
    attention_mask: torch.Tensor
    """Same shape; 0 is padding, after the tokens."""
    kept: torch.Tensor
    """Same shape, boolean: tokens whose activations are trained on. False for padding."""


Position = dict[str, Any]
"""The position of a source, as JSON."""


@dataclasses.dataclass
class CheckpointState:
    """The state of a component, for resuming: tensors, and the rest as JSON."""

    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, name: str, state: "CheckpointState") -> None:
        """Add another state under a name; its tensors are shared, not copied."""
        self.tensors |= {f"{name}.{key}": tensor for key, tensor in state.tensors.items()}
        self.values[name] = state.values

    def part(self, name: str) -> "CheckpointState":
        """Return the state that was added under a name; raises KeyError if there is none."""
        prefix = f"{name}."
        found = {key.removeprefix(prefix): each for key, each in self.tensors.items() if key.startswith(prefix)}
        return CheckpointState(found, self.values[name])


class ActivationIterator(Protocol):
    """Yields activations block by block, without end, in an order that its seed decides.

    After the last token it starts over in another order. Two sources with equal arguments yield equal blocks. After
    `seek` to a position, a source continues exactly like the one that returned the position.
    """

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each hook."""

    def read(self) -> Block:
        """Return the next block of at least one token."""

    def position(self) -> Position:
        """Return the position of the next `read`."""

    def seek(self, position: Position) -> None:
        """Move to a position; raises `errors.DataLoss` for one that this source cannot have returned."""


class ActivationDataset(Protocol):
    """What a training reads: activations to train on, and held-out sequences that are never trained on."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each hook."""

    @property
    def ahead(self) -> int:
        """Number of batches to prefetch while a step computes; does not change the batches."""

    @property
    def available_samples(self) -> int:
        """Number of activations of each hook available for training, each counted once, without the held-out ones."""

    @property
    def description(self) -> dict[str, Any]:
        """A description for the record, as JSON: which rows are held out, and how they were chosen."""

    def source(self, rank: int, size: int) -> ActivationIterator:
        """Return the activations of the `rank`-th of `size` disjoint parts of the sequences."""

    def held_out(self) -> Iterator[Block]:
        """Return the activations of the held-out sequences, the same at every call."""

    def splice_target(self, hook: str) -> "SpliceTarget | None":
        """Return the model to evaluate a hook's autoencoder in, or None without such a model."""


class SpliceTarget(NamedTuple):
    """A model, a hook in it, and sequences for it."""

    model: LoadedModel
    hook: Hook
    sequences: Callable[[], Iterator[TokenSequences]]
    """Returns the held-out sequences."""
