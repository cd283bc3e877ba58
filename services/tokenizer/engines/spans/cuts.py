"""Where a text may be cut, as tables that the kernel reads: classes of characters, and pairs of classes.

A cut between two characters is a matter of these two alone. So that the table of pairs is small, characters that are
alike on the left of a cut share a class, and so do those that are alike on the right of one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.sequences.ragged import Ragged

CODES = 1 << 21
"""As many as four bytes of UTF-8 can say, so that no bytes whatever lead out of the tables."""
_MOST = 2048
"""Characters with pairs of their own; more would make tables that no cache of a processor holds."""


@dataclass(frozen=True)
class Classes:
    """Which pairs of characters may be parted."""

    left: NDArray[np.uint32]
    """For each code point its row of `pairs`, times the number of columns."""
    right: NDArray[np.uint32]
    """For each code point its column."""
    pairs: NDArray[np.bool_]
    """Row by row: whether a cut is exact there."""
    ascii_pairs: NDArray[np.bool_]
    """The same for the 128 characters of ASCII by themselves, row by row: one look instead of three."""

    @classmethod
    def of(cls, left: NDArray[np.uint32], right: NDArray[np.uint32], pairs: NDArray[np.bool_]) -> "Classes":
        """Fill in what follows from the others."""
        return cls(left, right, pairs, pairs[left[:128, None] + right[None, :128]].reshape(-1))


@dataclass(frozen=True)
class Cuts:
    """All that the engine has to know of a tokenizer."""

    classes: Classes
    prefix: int
    """When a space is put before a text: one of PREFIX_…."""
    needles: Sequence[bytes]
    """A text with one of these is not cut at all: it may hold an added token."""
    blank: NDArray[np.bool_]
    """For each byte whether it is an ASCII character that is passed over where a span would begin: it has no ids."""
    encode: Callable[[list[str]], Ragged]
    """Encodes spans of text, as they are, with the reference."""
    merge: Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], Ragged] | None = None
    """The same for spans that begin at some bytes and have so many, up to `merge_most`; longer ones get no ids."""
    merge_most: int = 0
    """Bytes of a span that `merge` takes."""


PREFIX_NEVER, PREFIX_ALWAYS, PREFIX_MISSING = range(3)


def blank(characters: str) -> NDArray[np.bool_]:
    """Return a table of bytes in which those of some characters are set."""
    found = np.zeros(256, np.bool_)
    found[[ord(character) for character in characters]] = True
    return found


def classes(joined: Iterable[tuple[str, str]], alike: str = "") -> Classes:
    """Return the classes for texts that may be cut wherever no pair of `joined` is.

    The characters of `alike` are one and the same.
    """
    pairs = [(_code(a, alike), _code(b, alike)) for a, b in joined]
    lefts, rights = _numbered(a for a, _ in pairs), _numbered(b for _, b in pairs)
    # Row and column 0 are of the characters that are in no pair.
    parted = np.ones((max(lefts.values(), default=0) + 1, max(rights.values(), default=0) + 1), np.bool_)
    for a, b in pairs:
        parted[lefts[a], rights[b]] = False
    parted, rows = np.unique(parted, axis=0, return_inverse=True)
    parted, columns = np.unique(parted, axis=1, return_inverse=True)
    left = _spread(lefts, rows.reshape(-1) * parted.shape[1], alike)
    right = _spread(rights, columns.reshape(-1), alike)
    return Classes.of(left, right, np.ascontiguousarray(parted).reshape(-1))


def _code(character: str, alike: str) -> int:
    return ord(alike[0] if character in alike else character)


def _numbered(codes: Iterable[int]) -> dict[int, int]:
    """Numbers code points from 1; those beyond the most share the last number, and with it all their pairs."""
    return {code: min(number, _MOST) for number, code in enumerate(sorted(set(codes)), 1)}


def _spread(numbers: dict[int, int], values: NDArray[np.integer], alike: str) -> NDArray[np.uint32]:
    found = np.full(CODES, values[0], np.uint32) if values[0] else np.zeros(CODES, np.uint32)
    for code, number in numbers.items():
        found[code] = values[number]
    for character in alike:
        found[ord(character)] = found[ord(alike[0])]
    return found
