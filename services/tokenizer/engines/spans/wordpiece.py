"""Cuts for WordPiece as BERT has it: words are found by `BertNormalizer` and `BertPreTokenizer`, and encoded alone.

Why the ids of the spans are the ids of the whole:

1. *Words.* The model sees one word at a time, and a word ends at white space and on both sides of punctuation. So a
   place where a word ends in any case may be cut, if normalisation is the same on either side of it as in the whole.
2. *Cleaning, the spaces around Chinese characters and lower case* look at one character at a time.
3. *Accents* are found after canonical decomposition, which takes each character apart and then puts the combining
   marks after each starter in order. No mark is ever moved over a starter, so decomposition is the same on both sides
   of a place where a starter that is not taken apart ends or begins. ASCII, the punctuation and the Chinese characters
   below are such starters, and Unicode promises that they stay so. A combining mark may begin a span, as it may begin
   a word.
4. A cut is made on both sides of ASCII white space, which gives no ids and is passed over, and on both sides of a
   character that is a word of its own.

Which characters are words of their own is asked of the tokenizer's own normaliser and pre-tokenizer.
"""

from typing import Any

import numpy as np
import tokenizers

from services.tokenizer.engines.spans import cuts, reference_batches

_SPACE = " \t\n\r"
_MARKS = (
    *range(0x21, 0x7F),
    *range(0x2010, 0x2028),
    *range(0x3001, 0x3003),
    *range(0x3008, 0x3012),
    *(0xFF01, 0xFF08, 0xFF09, 0xFF0C, 0xFF1A, 0xFF1B, 0xFF1F),
)
# Of Unicode 1.1 only: the tokenizer treats some later ones as unassigned, and removes them.
_CHINESE = range(0x4E00, 0x9FA6)
_SEPARATORS = "|~^"


def derive(backend: tokenizers.Tokenizer, content: dict[str, Any]) -> cuts.Cuts | None:
    """Return the cuts of a tokenizer, or None if the argument above does not hold for it."""
    normalizer, splitter = content["normalizer"], content["pre_tokenizer"]
    if splitter != {"type": "BertPreTokenizer"} or (normalizer and normalizer["type"] != "BertNormalizer"):
        return None
    # Tokens searched for in the normalised text can be written in ways that only the normaliser knows.
    if any(token["normalized"] or not token["content"] for token in content["added_tokens"]):
        return None
    plain = tokenizers.Tokenizer(backend.model)
    if normalizer:
        plain.normalizer = backend.normalizer
    plain.pre_tokenizer = backend.pre_tokenizer
    needles = [token["content"].encode() for token in content["added_tokens"]]
    encode = reference_batches.ReferenceBatches(plain, _SEPARATORS).encode
    return cuts.Cuts(_classes(plain), cuts.PREFIX_NEVER, needles, cuts.blank(_SPACE), encode)


def _classes(plain: tokenizers.Tokenizer) -> cuts.Classes:
    bounds = np.zeros(cuts.CODES, np.uint32)
    for character in [*_SPACE, *_alone(plain)]:
        bounds[ord(character)] = 1
    return cuts.Classes.of(bounds * np.uint32(2), bounds, np.array([False, True, True, True]))


def _alone(plain: tokenizers.Tokenizer) -> list[str]:
    """Return those of the characters above that are words of their own, and are not changed."""
    characters = [chr(code) for code in (*_MARKS, *_CHINESE)]
    text = "".join(f" a{character}a" for character in characters)
    if plain.normalizer is not None:
        text = plain.normalizer.normalize_str(text)
    words = [word for word, _ in plain.pre_tokenizer.pre_tokenize_str(text)]
    between = {word for before, word, after in zip(words, words[1:], words[2:], strict=False) if before == after == "a"}
    return [character for character in characters if character in between]
