"""Cuts for BPE as SentencePiece has it: marks (U+2581) stand for spaces, and the model sees the text as one word.

Why the ids of the spans are the ids of the whole:

1. *The model's input.* Without an added token's text in it, a text is normalised in one piece: perhaps a mark is put
   in front, every space becomes a mark, and nothing else changes. The engine puts a space in front instead, which is
   the same. Normalisation looks at one character at a time, so it is the same for spans.
2. *Symbols.* BPE first makes a symbol of each character: its piece if the vocabulary has it, else a symbol for each of
   its bytes. All byte pieces must be there that a character without a piece may need, so that nothing is ever
   unknown: unknown characters are fused with those before them, over any cut, or vanish.
3. *Merges.* Only neighbours named by a merge (x, y) are ever joined. A symbol's piece is its text, but for symbols of
   bytes, and tokenizers whose merges name any of those are refused. So what joins two symbols over
   the place between the characters a and b is a merge with x ending in a and y beginning with b. Where there is none
   (most pairs: all 61,249 merges of Llama 2 have but 3,279), nothing ever joins them. Joins on either
   side are made in the order of rank and place, which the other side does not change.

As a pre-tokenizer, `Metaspace` may also split before every mark. Then each mark begins a word of its own, words are
encoded alone, and a cut before a mark is exact whatever the merges are.
"""

from typing import Any

import tokenizers

from services.tokenizer.engines.spans import bpe_merge, cuts, reference_batches

_MARK = "\u2581"
_ALIKE = _MARK + " "
_PREPEND = {"type": "Prepend", "prepend": _MARK}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
_SEPARATORS = "\n\0\r\t\x7f"
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# After the normaliser there is no space left to split at.
_NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def derive(backend: tokenizers.Tokenizer, content: dict[str, Any]) -> cuts.Cuts | None:
    """Return the cuts of a tokenizer, or None if the argument above does not hold for it."""
    shape = _shape(content)
    vocab = backend.get_vocab(with_added_tokens=False)
    if shape is None or not _is_plain(content["model"], vocab):
        return None
    needles = _needles(content["added_tokens"])
    if needles is None:
        return None
    prefix, splits = shape
    joined = _joined(content["model"], splits=splits)
    seams = {character for pair in joined for character in pair}
    plain = tokenizers.Tokenizer(backend.model)
    plain.normalizer = tokenizers.normalizers.Replace(" ", _MARK)
    encode = reference_batches.ReferenceBatches(
        plain, [character for character in _SEPARATORS if character not in seams]
    ).encode
    merges = bpe_merge.Merges.of(vocab, content["model"]["merges"], _ALIKE)
    merge = merges.encode if merges else None
    return cuts.Cuts(cuts.classes(joined, _ALIKE), prefix, needles, cuts.blank(""), encode, merge, bpe_merge.MOST_BYTES)


def _shape(content: dict[str, Any]) -> tuple[int, bool] | None:
    """Return when a mark is prepended, and whether texts are split before marks."""
    normalizer, splitter = content["normalizer"], content["pre_tokenizer"]
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    if steps in ([_PREPEND, _REPLACE], [_REPLACE]):
        prefix = cuts.PREFIX_ALWAYS if _PREPEND in steps else cuts.PREFIX_NEVER
        return (prefix, False) if splitter in (None, _NO_SPLIT) else None
    if normalizer is None and splitter and splitter["type"] == "Metaspace" and splitter["replacement"] == _MARK:
        never = splitter["prepend_scheme"] == "never"
        return cuts.PREFIX_NEVER if never else cuts.PREFIX_MISSING, bool(splitter["split"])
    return None


def _is_plain(model: dict[str, Any], vocab: dict[str, int]) -> bool:
    """Return whether the model's symbols are what the argument assumes."""
    return (
        not any(model[name] for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))
        and bool(model["byte_fallback"])
        and vocab.keys() >= {f"<0x{byte:02X}>" for byte in range(256) if byte >= 0x80 or chr(byte) not in vocab}
        # The content shows only one of two pieces with the same id.
        and len(set(vocab.values())) == len(vocab)
        and not any(part in _BYTES for pair in model["merges"] for part in pair)
    )


def _joined(model: dict[str, Any], *, splits: bool) -> set[tuple[str, str]]:
    """Return the pairs of characters between which no cut is made."""
    joined = {(a[-1], b[0]) for a, b in model["merges"]}
    return {pair for pair in joined if pair[1] != _MARK} if splits else joined


def _needles(added: list[dict[str, Any]]) -> list[bytes] | None:
    """Return what a text must contain to contain an added token; None if that is unknown."""
    found = []
    for token in added:
        text = token["content"]
        if token["normalized"]:
            # It is searched for in the normalised text, in which only spaces were changed.
            text = max(text.replace(" ", _MARK).split(_MARK), key=len)
        if not text:
            return None
        found.append(text.encode())
    return found
