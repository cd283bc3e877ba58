"""A tokenizer that reveals where another one splits texts: each piece of the reference has an id of its own.

With the ids of a real vocabulary, two ways to split a text can look alike as long as no merge spans the difference;
then a document comes along in which one does. Here every piece of some texts is an entry of the vocabulary that is
matched whole (`ignore_merges`), and anything else becomes its single bytes, of which adjacent pieces are merged: an
engine returns the same ids if and only if it makes the same pieces.
"""

import collections
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from services.tokenizer.engines.structure import Structure
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ragged


def reveal(structure: Structure, texts: Sequence[str]) -> tuple[tokenizers.Tokenizer, Ragged]:
    """Return the tokenizer that reveals the pieces of some texts, and the ids of those pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab: collections.defaultdict[str, int] = collections.defaultdict(itertools.count(len(alphabet)).__next__)
    vocab.update({character: number for number, character in enumerate(alphabet)})
    plain = _made(structure, vocab, [])
    normalize = plain.normalizer.normalize_str if plain.normalizer else str
    split = plain.pre_tokenizer.pre_tokenize_str
    rows = [[vocab[piece] for piece, _ in split(normalize(text))] for text in texts]
    offsets = ragged.offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    ids = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(offsets[-1]))
    singles = ids < len(alphabet)
    neighbours = np.stack([ids[:-1], ids[1:]], axis=1)[singles[:-1] & singles[1:]]
    merges = [(alphabet[first], alphabet[second]) for first, second in np.unique(neighbours, axis=0).tolist()]
    for first, second in merges:
        assert vocab[first + second] >= 0  # now it has one
    return _made(structure, vocab, merges), Ragged(ids, offsets)


def _made(structure: Structure, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": structure.normalizer,
        "pre_tokenizer": structure.pre_tokenizer,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(content))
