"""The bytes of a text that each token stands for.

The tokenizer itself reports characters: if an emoji becomes four tokens, each is reported as the whole emoji. If the
concatenated pieces spell the text, the exact bytes of each are known.
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import tokenizers

Spans = Sequence[tuple[int, int]]

# The bytes of a piece, given whether it is the first between added tokens, and whether a space is there.
_Spelling = Callable[[str, bool, bool], bytes | None]


class Offsets(NamedTuple):
    """Where tokens start and end, in bytes."""

    spans: Spans
    exact: bool
    """Whether the pieces spell the text; otherwise the spans cover whole characters."""


def find(text: str, encoding: tokenizers.Encoding, pieces: Sequence[str], added: Collection[int]) -> Offsets:
    """Find the bytes of each token; `added` are the ids of tokens that are matched in the original text."""
    characters = _whole_characters(text, encoding)
    data = text.encode()
    for spelling in (_byte_level, _prefixed, _prefixed_if_needed):
        spans = _spell(data, encoding, pieces, characters, added, spelling)
        if spans is not None:
            return Offsets(spans, exact=True)
    return Offsets(characters, exact=False)


def _whole_characters(text: str, encoding: tokenizers.Encoding) -> list[tuple[int, int]]:
    places = list(itertools.accumulate((len(character.encode()) for character in text), initial=0))
    spans = []
    last = 0
    for (start, end), around in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        span = (last, last) if around else (places[start], places[end])
        last = span[1]
        spans.append(span)
    return spans


def _spell(
    data: bytes,
    encoding: tokenizers.Encoding,
    pieces: Sequence[str],
    characters: Spans,
    added: Collection[int],
    spelling: _Spelling,
) -> Spans | None:
    spans: list[tuple[int, int]] = []
    place = 0
    is_first = True
    for token, piece, around, span in zip(encoding.ids, pieces, encoding.special_tokens_mask, characters, strict=True):
        if around:
            spans.append((place, place))
            continue
        # An added token may include the spaces around it, according to the tokenizer.
        alone = span[1] if span[0] == place else -1
        end = alone if token in added else _end(data, place, spelling(piece, is_first, data.startswith(b" ", place)))
        if end < 0:
            return None
        is_first = token in added
        spans.append((place, end))
        place = end
    return spans if place == len(data) else None


def _end(data: bytes, place: int, spelt: bytes | None) -> int:
    """Return where the bytes of a piece end, or -1 if they do not match the text."""
    return place + len(spelt) if spelt is not None and data.startswith(spelt, place) else -1


def _alphabet() -> dict[str, int]:
    """Return the characters that byte-level pieces are written in, as GPT-2 chose them."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_ALPHABET = _alphabet()


def _byte_level(piece: str, is_first: bool, has_space: bool) -> bytes | None:
    try:
        return bytes(_ALPHABET[character] for character in piece)
    except KeyError:
        return None


def _prefixed(piece: str, is_first: bool, has_space: bool) -> bytes | None:
    """Return the piece as SentencePiece spells it: with a space before a text, and after an added token."""
    spelt = _sentencepiece(piece)
    return spelt.removeprefix(b" ") if is_first else spelt


def _prefixed_if_needed(piece: str, is_first: bool, has_space: bool) -> bytes | None:
    """Return the same, where there is no space already."""
    return _prefixed(piece, is_first and not has_space, has_space)


def _sentencepiece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            return piece.encode()
    return piece.replace("▁", " ").encode()
