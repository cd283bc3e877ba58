"""Where a text may be cut, as tables that the kernel reads: classes of characters, and pairs of classes.

Whether a cut between two characters is exact depends on these two alone. To keep the table of pairs small, characters
that behave alike on the left of a cut share a class, and so do those that behave alike on the right.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.sequences.ragged import Ragged

CODES = 1 << 21
"""As many as four bytes of UTF-8 can express, so that no bytes can lead out of the tables."""
_MOST = 2048
"""Maximum number of characters with pairs of their own; more would make tables larger than the processor's caches."""


@dataclass(frozen=True)
class Classes:
    """Which pairs of characters may be separated."""

    left: NDArray[np.uint32]
    """For each code point, its row of `pairs` times the number of columns."""
    right: NDArray[np.uint32]
    """For each code point, its column."""
    pairs: NDArray[np.bool_]
    """Row by row: whether a cut is exact there."""
    ascii_pairs: NDArray[np.bool_]
    """The same for the 128 ASCII characters alone, row by row: one lookup instead of three."""

    @classmethod
    def of(cls, left: NDArray[np.uint32], right: NDArray[np.uint32], pairs: NDArray[np.bool_]) -> "Classes":
        """Derive the remaining fields from the others."""
        return cls(left, right, pairs, pairs[left[:128, None] + right[None, :128]].reshape(-1))


@dataclass(frozen=True)
class Cuts:
    """Everything that the engine knows of a tokenizer."""

    classes: Classes
    prefix: int
    """When a space is prepended to a text: one of PREFIX_…."""
    needles: Sequence[bytes]
    """A text with one of these is not cut at all: it may contain an added token."""
    blank: NDArray[np.bool_]
    """For each byte, whether it is an ASCII character that is skipped at the beginning of a span: it has no ids."""
    encode: Callable[[list[str]], Ragged]
    """Encodes spans of text with the reference."""
    merge: Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], Ragged] | None = None
    """Encodes spans given by their first byte and length, up to `merge_most` bytes; longer ones get no ids."""
    merge_most: int = 0
    """Maximum number of bytes of a span for `merge`."""


PREFIX_NEVER, PREFIX_ALWAYS, PREFIX_MISSING = range(3)


def blank(characters: str) -> NDArray[np.bool_]:
    """Return a table of bytes in which those of some characters are set."""
    found = np.zeros(256, np.bool_)
    found[[ord(character) for character in characters]] = True
    return found


def classes(joined: Iterable[tuple[str, str]], alike: str = "") -> Classes:
    """Return the classes for texts that may be cut anywhere but within a pair of `joined`.

    The characters of `alike` are equivalent.
    """
    pairs = [(_code(a, alike), _code(b, alike)) for a, b in joined]
    lefts, rights = _numbered(a for a, _ in pairs), _numbered(b for _, b in pairs)
    # Row and column 0 are for the characters that are in no pair.
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
    """Assign numbers from 1 to code points; those beyond the maximum share the last, and with it all their pairs."""
    return {code: min(number, _MOST) for number, code in enumerate(sorted(set(codes)), 1)}


def _spread(numbers: dict[int, int], values: NDArray[np.integer], alike: str) -> NDArray[np.uint32]:
    found = np.full(CODES, values[0], np.uint32) if values[0] else np.zeros(CODES, np.uint32)
    for code, number in numbers.items():
        found[code] = values[number]
    for character in alike:
        found[ord(character)] = found[ord(alike[0])]
    return found
