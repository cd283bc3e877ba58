"""Cut long documents so that the concatenated ids of the parts are those of the whole.

The Hugging Face tokenizer needs about 150 bytes per byte of text while it encodes a document, so a document of tens of
megabytes is encoded in parts. A cut is made only where no token can span it whatever else the document holds: at a
single space between two letters, with a tokenizer that is known to end a token there. A tokenizer of another kind, or
a text without such places, is not cut.

Added tokens are searched for first, some in the original text and some in the normalized one, so there is none near a
cut. Where a token could be written in ways that only the normalizer knows, nothing is cut.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import tokenizers

PART_CHARACTERS = 1 << 19
"""Minimum length of a part."""

# Latin, Greek and Cyrillic letters, on which all versions of Unicode agree.
_LETTER = "[A-Za-zÀ-ÖØ-öø-ʯΑ-ΡΣ-ώЀ-ҁҊ-ԯ]"
_SPACE_BETWEEN_LETTERS = re.compile(f"(?<={_LETTER}) (?={_LETTER})")

# Byte-level pre-tokenizers whose expression never has a letter and a space after it in one match: cl100k (Llama 3,
# Phi-4), Qwen 2 and o200k. That of GPT-2 is built into ByteLevel.
_EXPRESSIONS = frozenset(
    {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
_MARK = "\u2581"
"""SentencePiece's replacement for a space."""
_PREPEND = {"type": "Prepend", "prepend": _MARK}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}


class Chunker:
    """Cuts texts for one tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        content = json.loads(backend.to_str())
        self._keeps_space = _splits_before_spaces(content)
        self._drops_space = not self._keeps_space and _marks_spaces(content)
        self._added = [_needle(token) if self._drops_space else token["content"] for token in content["added_tokens"]]
        if not all(self._added) or (self._keeps_space and _rewrites_added_tokens(content)):
            self._keeps_space = self._drops_space = False
        self._reach = max((len(token["content"]) for token in content["added_tokens"]), default=0) + 1
        # A piece such as `a▁` spans the place after an `a`.
        self._spanned = frozenset(
            piece[place - 1]
            for piece in (content["model"]["vocab"] if self._drops_space else ())
            for place in range(1, len(piece))
            if piece[place] == _MARK
        )

    def chunks(self, text: str) -> Iterator[str]:
        """Yield the parts of a text, each to be encoded as a document without special tokens."""
        start = 0
        while (self._keeps_space or self._drops_space) and len(text) - start > PART_CHARACTERS:
            place = self._place(text, start + PART_CHARACTERS)
            if place is None:
                break
            yield text[start:place]
            # SentencePiece puts a mark before every document: it replaces the space that is left out here.
            start = place + self._drops_space
        yield text[start:]

    def _place(self, text: str, least: int) -> int | None:
        for found in _SPACE_BETWEEN_LETTERS.finditer(text, least):
            place = found.start()
            # An added token is searched for in the text first; there must be none nearby.
            near = text[max(0, place - self._reach) : place + self._reach + 1]
            if text[place - 1] not in self._spanned and not any(token in near for token in self._added):
                return place
        return None


def _needle(token: dict[str, Any]) -> str:
    """Return what a text must contain to contain an added token, if normalizing changes nothing but spaces."""
    text = str(token["content"])
    return max(text.replace(" ", _MARK).split(_MARK), key=len) if token["normalized"] else text


def _rewrites_added_tokens(content: dict[str, Any]) -> bool:
    """Return whether added tokens are searched for in a text whose letters, marks or spaces were changed."""
    return content["normalizer"] is not None and any(token["normalized"] for token in content["added_tokens"])


def _splits_before_spaces(content: dict[str, Any]) -> bool:
    """Return whether the pre-tokenizer ends a word at a space after a letter, whatever surrounds it."""
    match content:
        case {"pre_tokenizer": {"type": "BertPreTokenizer"}, "normalizer": None | {"type": "BertNormalizer"}}:
            return True
        case {"normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}}:
            return True
        case {
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated" | "Removed"},
                    {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
                ],
            },
        }:
            return expression in _EXPRESSIONS
    return False


def _marks_spaces(content: dict[str, Any]) -> bool:
    """Return whether the tokenizer is BPE over a text in which marks replace spaces and one is prepended."""
    model = content["model"]
    # A part's first, last or only symbol must be the same as elsewhere, and the mark must be a known piece: unknown
    # symbols may be fused across the cut.
    if model["type"] != "BPE" or _MARK not in model["vocab"]:
        return False
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")):
        return False
    match content:
        case {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": list(steps)}}:
            return steps == [_PREPEND, _REPLACE]
        case {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first" | "always", "replacement": str(mark)},
        }:
            return mark == _MARK
    return False
