"""The work of each process of a training: a part of every batch, or some autoencoders on whole batches.

Spread over autoencoders, every process runs the model itself. The processes exchange nothing in a step, and each
autoencoder sees the very activations that it would see in one process. On GPUs the forward passes take the time of
one. Processes that share the cores of a machine compete for them, which pays off with an extraction only.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from services.trainer.sae import configs
from services.trainer.sae.data.dataset import ActivationDataset, ActivationIterator, Block, Position, SpliceTarget

_Value = TypeVar("_Value")


class Share(NamedTuple):
    """The work of one process."""

    saes: tuple[int, ...]
    """Indices in the plan of the autoencoders that it trains."""
    part: int = 0
    parts: int = 1
    """(rank, size) of its part of the sequences, and of every batch."""
    keeper: int = 0
    """Whether the process writes its data to a checkpoint: the first of those that read the same."""

    @property
    def whole(self) -> bool:
        """Whether it trains its autoencoders on whole batches."""
        return self.parts == 1


def get_share(training: configs.TrainingPlan, rank: int) -> Share:
    """Return the share of a process of a plan."""
    if training.spread == "data" or training.processes == 1:
        return Share(tuple(range(len(training.saes))), rank, training.processes, rank)
    dealt = partition_saes(training)
    read = [list_hooks(training, saes) for saes in dealt]
    return Share(dealt[rank], keeper=read.index(read[rank]))


def list_hooks(training: configs.TrainingPlan, saes: tuple[int, ...]) -> tuple[str, ...]:
    """Return the hooks of some autoencoders, in the order of the plan."""
    own = {training.saes[place].hook for place in saes}
    return tuple(hook for hook in training.hooks if hook in own)


def partition_saes(training: configs.TrainingPlan) -> list[tuple[int, ...]]:
    """Distribute the autoencoders over the processes of a plan, minimising the largest number of weights.

    Those of a hook stay together, so that few processes hold activations of the same hook.
    """
    order = sorted(
        range(len(training.saes)), key=lambda place: (training.hooks.index(training.saes[place].hook), place)
    )
    ends = _cut([training.saes[place] for place in order], training.processes)
    return [tuple(sorted(order[start:end])) for start, end in itertools.pairwise((0, *ends))]


def _cut(saes: list[configs.PlannedSae], pieces: int) -> tuple[int, ...]:
    """Return where to cut autoencoders into a number of non-empty pieces: the end of each.

    The largest sum of weights is minimal; among such cuts, one that splits few hooks.
    """
    sums = tuple(itertools.accumulate((each.sae.d_in * each.sae.d_sae for each in saes), initial=0))

    @functools.cache
    def best(end: int, pieces: int) -> tuple[int, int, tuple[int, ...]]:
        if pieces == 1:
            return sums[end], 0, (end,)
        found = []
        for start in range(pieces - 1, end):
            largest, parted, ends = best(start, pieces - 1)
            parted += saes[start - 1].hook == saes[start].hook
            found.append((max(largest, sums[end] - sums[start]), parted, (*ends, end)))
        return min(found)

    return best(len(saes), pieces)[2]


def select_hooks(opened: ActivationDataset, wanted: tuple[str, ...]) -> ActivationDataset:
    """Return the data of some of its hooks, in the same batches as with all of them."""
    return opened if set(opened.widths) == set(wanted) else _Selected(opened, wanted)


class _Selected:
    """All hooks are read and some dropped, because they decide together which tokens share a forward pass."""

    def __init__(self, opened: ActivationDataset, wanted: tuple[str, ...]) -> None:
        self._data = opened
        self._wanted = wanted

    @property
    def widths(self) -> Mapping[str, int]:
        return _selected(self._data.widths, self._wanted)

    @property
    def ahead(self) -> int:
        return self._data.ahead

    @property
    def available_samples(self) -> int:
        return self._data.available_samples

    @property
    def description(self) -> dict[str, Any]:
        return self._data.description

    def source(self, rank: int, size: int) -> ActivationIterator:
        return _SelectedSource(self._data.source(rank, size), self._wanted)

    def held_out(self) -> Iterator[Block]:
        for block in self._data.held_out():
            yield _selected(block, self._wanted)

    def splice_target(self, hook: str) -> SpliceTarget | None:
        return self._data.splice_target(hook)


class _SelectedSource:
    def __init__(self, source: ActivationIterator, wanted: tuple[str, ...]) -> None:
        self._source = source
        self._wanted = wanted

    @property
    def widths(self) -> Mapping[str, int]:
        return _selected(self._source.widths, self._wanted)

    def read(self) -> Block:
        return _selected(self._source.read(), self._wanted)

    def position(self) -> Position:
        return self._source.position()

    def seek(self, position: Position) -> None:
        self._source.seek(position)


def _selected(values: Mapping[str, _Value], wanted: tuple[str, ...]) -> dict[str, _Value]:
    return {hook: values[hook] for hook in wanted}
