"""The seam between text and token ids: Arrow strings in, flat arrays out, no Python object a token in between.

An engine adds no special tokens, cuts nothing and pads nothing: that is arithmetic over its result, the same for all
engines. What it must keep is the ids, exactly those of the Hugging Face fast tokenizer.
"""

from typing import Protocol

import pyarrow as pa

from services.tokenizer.ragged import Ragged


class Engine(Protocol):
    """Turns text into token ids."""

    @property
    def name(self) -> str:
        """What the record says ran, such as `reference`."""

    def encode(self, texts: pa.Array) -> Ragged:
        """Returns the ids of each text, one row a text. `texts` holds large strings, none of them null."""
