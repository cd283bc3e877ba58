"""Which tokens' activations are taken: one value, from whoever asks for them to whoever uses what comes of it.

An autoencoder is for the tokens that it was trained on. So the same selection decides what is extracted or streamed,
where an autoencoder stands in for the model's own activations when it is evaluated, and what its export says.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from polytok.extractor.v1 import extractions_pb2


@dataclass(frozen=True, kw_only=True)
class TokenSelection:
    """What is left out; the model sees it all the same, but for what is behind the context. Padding is never taken."""

    context_size: int = 0
    """Tokens after which a sequence ends for the model too; 0 leaves sequences as they are."""
    excluded_token_ids: tuple[int, ...] = ()
    excluded_positions: tuple[int, ...] = ()
    """Places in a sequence, padding not counted, from 0."""

    def kept(self, ids: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell of which tokens activations are taken, by their ids and places; arrays of one shape."""
        keep = np.ones(ids.shape, np.bool_)
        for values, left_out in ((ids, self.excluded_token_ids), (positions, self.excluded_positions)):
            if left_out:
                keep &= ~np.isin(values, np.array(left_out, np.int64))
        return keep

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        lists = {name: tuple(value) for name, value in fields.items() if name != "context_size"}
        return cls(context_size=fields.get("context_size", 0), **lists)

    @classmethod
    def from_message(cls, message: extractions_pb2.TokenSelection) -> Self:
        """Read a message."""
        return cls(
            context_size=message.context_size,
            excluded_token_ids=tuple(message.excluded_token_ids),
            excluded_positions=tuple(message.excluded_positions),
        )


EVERY_TOKEN = TokenSelection()
"""Takes the activations of all tokens of whole sequences."""
