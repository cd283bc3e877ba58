"""Train two real tokenizers: byte-level BPE like GPT-2, SentencePiece BPE like Llama 2."""

import collections
import json
from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 8192
"""Size of each vocabulary, including special tokens."""

_CHARACTERS = 300
"""Number of characters in the SentencePiece vocabulary; rarer ones fall back to bytes."""


def byte_level(texts: Iterable[str]) -> Tokenizer:
    """Train a tokenizer like GPT-2's: no normalizer, every byte in the alphabet, `<|endoftext|>` as the last id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer


def sentencepiece(texts: Iterable[str]) -> Tokenizer:
    """Train a tokenizer like Llama 2's: `▁` for spaces, bytes for unknown characters, `<s>` at the start.

    SentencePiece learns merges within words, digits and lines, but applies them to the whole text. So the tokenizer
    that learns the merges is not the one that is returned.
    """
    lines = [line for text in texts for line in text.splitlines()]
    learner = Tokenizer(models.BPE())
    learner.normalizer = _spaces_as_marks()
    # A mark belongs to the next word; a run of further marks is a word of its own.
    words = Regex(r"▁+(?=▁)|▁?\p{L}+|▁?\p{N}|▁?[^▁\p{L}\p{N}]+|▁")
    learner.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    bytes_and_special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = _most_frequent_characters(lines)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(bytes_and_special),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(lines, trainer)

    merges = _merges(learner)
    merged = [left + right for left, right in merges]
    characters = [piece for piece, _ in sorted(learner.get_vocab().items(), key=_by_id) if len(piece) == 1]
    pieces = dict.fromkeys([*bytes_and_special, *merged, *characters])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    unknown = bytes_and_special[0]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = _spaces_as_marks()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer


def _spaces_as_marks() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def _most_frequent_characters(lines: Iterable[str]) -> list[str]:
    """Return the alphabet. The trainer's own choice among equally frequent characters is not deterministic."""
    counts: collections.Counter[str] = collections.Counter("▁")
    for line in lines:
        counts.update(line.replace(" ", "▁"))
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return ranked[:_CHARACTERS]


def _by_id(item: tuple[str, int]) -> int:
    return item[1]


def _merges(tokenizer: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    """Return the merges of a trained BPE model, best first; only its serialized form contains them."""
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
