"""A tokenizer that shows where another one takes texts apart: each piece that the reference makes has an id of its own.

By the ids of a real vocabulary two ways to take a text apart can look alike, as long as no merge spans the difference;
then a document comes along in which one does. Here every piece of some texts is an entry of the vocabulary that is
taken whole (`ignore_merges`), and what is not such a piece becomes its single bytes, of which those that are pieces
next to each other are merged: an engine gives the same ids if and only if it makes the same pieces.
"""

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from services.tokenizer.engines.structure import Structure


def reveal(structure: Structure, texts: Sequence[str]) -> tokenizers.Tokenizer:
    """Returns the tokenizer that shows the pieces of some texts."""
    vocab = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    whole: dict[str, Any] = {
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
            "merges": [],
        },
    }
    plain = tokenizers.Tokenizer.from_str(json.dumps(whole))
    normalize = plain.normalizer.normalize_str if plain.normalizer else str
    split = plain.pre_tokenizer.pre_tokenize_str
    merges: dict[tuple[str, str], None] = {}
    for text in texts:
        last = ""
        for piece, _ in split(normalize(text)):
            vocab.setdefault(piece, len(vocab))
            if len(piece) == len(last) == 1:
                merges[last, piece] = None
            last = piece
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    whole["model"]["merges"] = list(merges)
    return tokenizers.Tokenizer.from_str(json.dumps(whole))
