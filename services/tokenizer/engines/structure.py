"""Decide from a tokenizer's own file whether a byte-level engine can be exact for it, before any text is compared.

A third-party engine reads the same `tokenizer.json` as the reference, but not all of it. Only tokenizers are accepted
in which everything that the engines ignore is as they assume; also returned is what a text may not contain.
"""

import collections
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"|\s+(?!\S)|\s+"
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + _END
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cl100k(digits: str, lines: str) -> str:
    return _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]" + lines + _END


def _o200k(suffix: str, digits: str) -> str:
    word = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{word}{_UPPER}*{_LOWER}+{suffix}|{word}{_UPPER}+{_LOWER}*{suffix}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + _END
    )


_EXPRESSIONS = frozenset(
    {
        _GPT2,
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + _END,
        *(_cl100k(digits, lines) for digits in (r"\p{N}", r"\p{N}{1,3}") for lines in ("", "+")),
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        + _END,
        _SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+" + _END,
        *(_o200k(suffix, digits) for suffix in ("", _SUFFIX + "?") for digits in (r"\p{N}", r"\p{N}{1,3}")),
    }
)
"""Expressions that split a text completely: each match is a piece, and there is nothing between two matches."""
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+" + _END,
)
"""Expressions that are applied one after the other."""

BECOME_ASCII = (0x37E, 0x1FEF, 0x212A)
"""All non-ASCII code points whose normalization form C is ASCII: an added token may consist of them."""
_BYTES = frozenset(pre_tokenizers.ByteLevel.alphabet())


class UnsupportedTokenizer(Exception):
    """Raised when an engine cannot be proven exact for a tokenizer; the message says why."""


@dataclass(frozen=True)
class Structure:
    """A tokenizer that byte-level engines may be tried for."""

    normalizer: Mapping[str, Any] | None
    pre_tokenizer: Mapping[str, Any]
    expressions: tuple[str, ...]
    """The expressions that split texts; a single empty one stands for ByteLevel's own."""
    composes: bool
    """Whether texts are converted to normalization form C."""
    needles: tuple[str, ...]
    """Added tokens whose documents no engine sees."""
    visible: tuple[str, ...]
    """Added tokens that an engine sees: they are compared with all kinds of neighbours."""
    refused: tuple[int, ...]
    """Code points that no engine sees."""
    ties: tuple[str, ...]
    """Texts in which two merges that produce the same token compete."""

    @property
    def splitting(self) -> str:
        """The part of it that many tokenizers share, as a string."""
        return json.dumps([self.normalizer, self.pre_tokenizer], sort_keys=True)


def read(content: Mapping[str, Any], *, splits_special_tokens: bool = False) -> Structure:
    """Return the structure of a `tokenizer.json`. Raises UnsupportedTokenizer.

    `splits_special_tokens` says whether special tokens in a text are treated as ordinary text.
    """
    added = content["added_tokens"]
    _check_model(content["model"])
    composes = _composes(content["normalizer"])
    needles = tuple(_needles(added, composes=composes, are_split=splits_special_tokens))
    if any(not token["content"] for token in added):
        raise UnsupportedTokenizer("an added token is empty")
    return Structure(
        content["normalizer"],
        content["pre_tokenizer"],
        _expressions(content["pre_tokenizer"]),
        composes,
        needles,
        tuple(token["content"] for token in added if token["content"] not in needles),
        BECOME_ASCII if composes and any(token["normalized"] for token in added) else (),
        tuple(_ties(content["model"]["merges"])),
    )


def _check_model(model: Mapping[str, Any]) -> None:
    if model["type"] != "BPE" or model["byte_fallback"]:
        raise UnsupportedTokenizer("its model is not byte-level BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedTokenizer(f"its model has {name}")
    vocab, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    if not vocab.keys() >= _BYTES:
        raise UnsupportedTokenizer("its vocabulary lacks single bytes, so text may be unknown to it")
    if len(set(vocab.values())) != len(vocab):
        raise UnsupportedTokenizer("two entries of its vocabulary have the same id")
    # Engines identify entries by their bytes; one that is not written in the byte alphabet is read as UTF-8.
    if not _BYTES.issuperset("".join(vocab)):
        literal = (entry for entry in vocab if not _BYTES.issuperset(entry))
        if any("".join(map(_ALPHABET.__getitem__, entry.encode())) in vocab for entry in literal):
            raise UnsupportedTokenizer("two entries of its vocabulary stand for the same bytes")
    if len(set(merges)) != len(merges):
        raise UnsupportedTokenizer("a merge occurs twice")
    if not _BYTES.issuperset("".join(map("".join, merges))):
        raise UnsupportedTokenizer("a merge is not written in the byte alphabet")


_VALUES = {
    **{chr(byte): byte for byte in (*range(33, 127), *range(161, 173), *range(174, 256))},
    **{
        chr(256 + number): byte
        for number, byte in enumerate((*range(33), *range(127, 161), 173))
    },
}  # fmt: skip
_ALPHABET = {byte: character for character, byte in _VALUES.items()}


def decoded(entry: str) -> bytes:
    """Return the bytes that an entry of a byte-level vocabulary stands for."""
    return bytes(map(_VALUES.__getitem__, entry))


def entries(backend: tokenizers.Tokenizer) -> Iterator[str]:
    """Yield the entries of a byte-level vocabulary that are whole characters, as text."""
    for entry in backend.get_vocab(with_added_tokens=False):
        try:
            yield decoded(entry).decode()
        except (KeyError, UnicodeDecodeError):
            continue


def _composes(normalizer: Mapping[str, Any] | None) -> bool:
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            return False
        case {"type": "NFC"} | {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return True
    raise UnsupportedTokenizer(f"its normalizer is {normalizer['type']}")


def _expressions(splitter: Mapping[str, Any] | None) -> tuple[str, ...]:
    match splitter:
        case {"type": "ByteLevel", "use_regex": True}:
            return ("",)
        case {
            "type": "Sequence",
            "pretokenizers": [*splits, {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False}],
        }:
            found = tuple(map(_expression, splits))
            isolated = all(split["behavior"] == "Isolated" for split in splits)
            if (len(found) == 1 and found[0] in _EXPRESSIONS) or (isolated and found == _DEEPSEEK):
                return found
    raise UnsupportedTokenizer("its pre-tokenizer is not supported")


def _expression(split: Mapping[str, Any]) -> str:
    match split:
        case {"type": "Split", "pattern": {"Regex": str(expression)}, "behavior": behavior, "invert": invert}:
            # For a text that consists of matches, both modes return the matches.
            if (behavior, invert) in {("Isolated", False), ("Removed", True)}:
                return expression
    raise UnsupportedTokenizer("its pre-tokenizer is not supported")


def _needles(added: Sequence[Mapping[str, Any]], *, composes: bool, are_split: bool) -> Iterator[str]:
    """Yield the tokens that an engine may find where the reference does not, or the other way round."""
    overlapping = _overlapping(added)
    strips = {token["normalized"] for token in added if token["lstrip"] or token["rstrip"]}
    for token in added:
        text = token["content"]
        if (
            token["single_word"]
            or (token["special"] and are_split)
            or (token["normalized"] and composes and not _stays(text))
            or text in overlapping
            # A token that takes the surrounding spaces may take those with which another begins or ends.
            or (token["normalized"] in strips and text.strip() != text)
        ):
            yield text


def _stays(text: str) -> bool:
    """Return whether a token survives normalization of a text without BECOME_ASCII.

    The reference searches for such a token in the normalized text, engines before that. ASCII changes only together
    with a following mark, and only letters and these three signs do.
    """
    return text.isascii() and not (text[-1].isalpha() or text[-1] in "<=>")


def _overlapping(added: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the tokens that may share characters of a text with one that is searched for in another way.

    Of those that are searched for together, all engines take the leftmost longest.
    """
    kinds = {token["content"]: (token["normalized"], token["lstrip"], token["rstrip"]) for token in added}
    parts = defaultdict(set)
    for text in kinds:
        for start in range(len(text)):
            parts[text[start:]].add(text)
    found = set()
    for text, kind in kinds.items():
        # Those that end in what this one begins with, and those that are within it.
        others = set().union(*(parts.get(text[:end], ()) for end in range(1, len(text) + 1)))
        others |= {text[i:j] for i, j in itertools.combinations(range(len(text) + 1), 2)}.intersection(kinds)
        for other in others - {text}:
            if kinds[other] != kind or any(kind[1:]):
                found |= {text, other}
    return found


def _ties(merges: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield texts of three symbols of which two neighbours, or the other two, become the same token.

    An engine that ranks merges by the resulting token cannot tell which of these comes first.
    """
    counts = collections.Counter(map("".join, merges))
    made = defaultdict(list)
    for first, second in merges:
        if counts[first + second] > 1:
            made[first + second].append((first, second))
    for pairs in made.values():
        for (a, b), (c, d) in itertools.permutations(pairs, 2):
            if b == c:
                yield from _text(a + b + d)


def _text(symbols: str) -> Iterator[str]:
    try:
        yield decoded(symbols).decode()
    except UnicodeDecodeError:
        return
