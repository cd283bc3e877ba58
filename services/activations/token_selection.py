"""The tokens whose activations are used: one value for extraction, training, evaluation and export.

An autoencoder is for the tokens that it was trained on. So the same selection decides what is extracted or streamed,
where an autoencoder is spliced in when it is evaluated, and what its export records.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from polytok.extractor.v1 import extractions_pb2


@dataclass(frozen=True, kw_only=True)
class TokenSelection:
    """Which tokens to leave out; the model still sees them, except those beyond the context.

    Padding is never selected.
    """

    context_size: int = 0
    """Maximum number of tokens of a sequence, for the model too; 0 means no limit."""
    excluded_token_ids: tuple[int, ...] = ()
    excluded_positions: tuple[int, ...] = ()
    """Positions in a sequence, from 0, not counting padding."""

    def kept(self, ids: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which tokens are selected, given their ids and positions; arrays of one shape."""
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
        """Read the output of `to_dict`."""
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
"""Selects all tokens of whole sequences."""
