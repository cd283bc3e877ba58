"""Finds the texts that hold any of some strings, without an object for each text."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def holding(texts: pa.Array, needles: Sequence[str]) -> NDArray[np.bool_]:
    """Tells which texts hold at least one of the needles."""
    found = np.zeros(len(texts), np.bool_)
    for needle in needles:
        # An expression that begins with a literal is looked for with memchr, at gigabytes a second; Arrow's search for
        # plain substrings steps through every byte.
        expression = "".join(f"\\x{{{ord(character):x}}}" for character in needle)
        counts = pc.count_substring_regex(texts, expression)
        found |= counts.to_numpy(zero_copy_only=False) > 0
    return found
