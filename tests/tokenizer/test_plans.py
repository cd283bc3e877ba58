"""An engine sees only what it was compared about: every document has the reference's ids."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import unicodedata
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from services.tokenizer.engines import (
    Engine,
    boundaries,
    encoding_plan,
    probes,
    proof,
    proof_store,
    selection,
    structure,
)
from services.tokenizer.engines.reference import Reference
from services.tokenizer.models import loader
from services.tokenizer.sequences.ragged import Ragged
from tests.tokenizer.test_packing import rows_of

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
YOUNG = ("\ua7ce", "\U000323b0", "\U0001fa8e", "\U0001f6d8", "\u017f", "\u212a", "\u0c5c")
"""Letters, ideographs and emoji of Unicode 15.1 to 17, and letters that lower case makes ASCII."""
SENTENCES = ("{0}", "a {0} b", "it'{0} we'{0}l a{0}b", " {0}{0}\n{0}", "x1{0}2 !{0}?")


def strings(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def byte_level(kind: str = "gpt2") -> tokenizers.Tokenizer:
    """Return a tokenizer whose merges show wrong boundaries: every two bytes of the sentences are a token."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind != "gpt2":
        split = pre_tokenizers.Split(Regex(CL100K), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    if kind == "nfc":
        backend.normalizer = normalizers.NFC()
    content = json.loads(backend.to_str())
    vocab = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    text = " ".join(sentence.format(character) for sentence in SENTENCES for character in YOUNG)
    written = "".join(piece for piece, _ in pre_tokenizers.ByteLevel(use_regex=False).pre_tokenize_str(text))
    merges = list(dict.fromkeys(itertools.pairwise(written)))
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    content["model"] |= {"vocab": vocab, "merges": merges}
    return tokenizers.Tokenizer.from_str(json.dumps(content))


@pytest.fixture(scope="module")
def loaded(folders: dict[str, pathlib.Path]) -> Callable[[tokenizers.Tokenizer], loader.Tokenizer]:
    """Make a loaded tokenizer of a backend."""
    like = loader.load(folders["byte_level"])

    def load(backend: tokenizers.Tokenizer) -> loader.Tokenizer:
        fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()
        return dataclasses.replace(like, backend=backend, fingerprint=fingerprint)

    return load


def made(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer], backend: tokenizers.Tokenizer, engine: str = "auto"
) -> Engine:
    return selection.EngineSelector(engine).choose(loaded(backend), "docs", strings(["plain text"]))


@pytest.mark.parametrize("engine", ["gigatoken", "fastokens"])
@pytest.mark.parametrize("kind", ["gpt2", "cl100k", "nfc"])
def test_characters_of_recent_unicode(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer], kind: str, engine: str
) -> None:
    backend = byte_level(kind)
    chosen = made(loaded, backend, engine)
    assert chosen.name == engine
    texts = strings(["plain", *(sentence.format(character) for sentence in SENTENCES for character in YOUNG)])
    assert rows_of(chosen.encode(texts)) == rows_of(Reference(backend).encode(texts))
    assert isinstance(chosen, encoding_plan.EncodingPlan)
    assert not set(chosen.refused) & set(range(0x250, 0x500)) - {0x37E}


@pytest.mark.parametrize("engine", ["gigatoken", "fastokens"])
def test_compositions_of_recent_unicode(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer], engine: str
) -> None:
    """Letters of Unicode 13 and 16, alone unlike no other letter."""
    backend = byte_level("nfc")
    pairs = ["\U00011935\U00011930", "\U000105d2\u0307", "\U00016d63\U00016d67\U00016d67", "\U0001611e\U0001611e"]
    texts = strings([*pairs, "e\u0307", *(f"a{pair} b" for pair in pairs)])
    chosen = made(loaded, backend, engine)
    assert rows_of(chosen.encode(texts)) == rows_of(Reference(backend).encode(texts))
    assert isinstance(chosen, encoding_plan.EncodingPlan)
    assert chosen.apart(strings(["e\u0307", "\u1100\u1161\u11a8", "😀", "中"])).tolist() == [False] * 4


class Odd:
    """The reference, but for one character, next to which it makes no token of two."""

    name = "gigatoken"

    def __init__(self, backend: tokenizers.Tokenizer, character: str) -> None:
        self._reference = Reference(backend)
        self._character = character
        self.seen: list[str] = []

    def encode(self, texts: pa.Array) -> Ragged:
        self.seen += texts.to_pylist()
        other = [text.replace(self._character, "!" * len(self._character.encode())) for text in texts.to_pylist()]
        return self._reference.encode(strings(other))


def odd(character: str, found: list[Odd]) -> dict[str, selection.Maker]:
    def make(tokenizer: loader.Tokenizer, content: str, parallel: bool) -> Odd:
        found.append(Odd(tokenizer.backend, character))
        return found[-1]

    return {"gigatoken": make}


def test_differing_characters(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer],
) -> None:
    backend, found = byte_level(), list[Odd]()
    chosen = selection.EngineSelector(makers=odd("ж", found)).choose(loaded(backend), "docs", strings(["plain"]))
    texts = strings(["plain", "жук", "zebra", "ёжик", "été"])
    assert rows_of(chosen.encode(texts)) == rows_of(Reference(backend).encode(texts))
    assert isinstance(chosen, encoding_plan.EncodingPlan)
    assert chosen.refused == [ord("ж")]
    # The first engine made is the one that encodes; it saw no document with the character since it was compared.
    assert found[0].seen[-3:] == ["plain", "zebra", "été"]


def test_characters_are_compared_on_demand(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer],
) -> None:
    found = list[Odd]()
    engines = selection.EngineSelector(makers=odd("龥", found), patience=100_000)
    tokenizer = loaded(byte_level())
    assert engines.choose(tokenizer, "docs", strings(["little"])).name == "reference"
    chosen = engines.choose(tokenizer, "docs", strings(["much " * 30_000]))
    assert isinstance(chosen, encoding_plan.EncodingPlan)
    # A few documents are the reference's: comparing would take longer.
    assert chosen.apart(strings(["a", "ж"])).tolist() == [False, True]
    assert chosen.apart(strings(["a", "ж" * encoding_plan.BLOCK_BYTES])).tolist() == [False, False]
    assert chosen.apart(strings(["ж"])).tolist() == [False]


def test_an_unsuitable_engine_gives_way(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer],
) -> None:
    makers = {**odd("ж", []), "fastokens": selection.MAKERS["fastokens"]}
    engines = selection.EngineSelector(makers=makers)
    tokenizer = loaded(byte_level())
    assert engines.choose(tokenizer, "one", strings(["plain"] * 200 + ["ж"])).name == "gigatoken"
    assert engines.choose(tokenizer, "two", strings(["plain", "ж"])).name == "fastokens"


def test_texts_too_long_for_an_engine(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer],
) -> None:
    backend = byte_level("cl100k")
    texts = strings(["short", "a" * 5000, "x" * 4095, "y" * (1 << 20) + " end"])
    expected = rows_of(Reference(backend).encode(texts))
    for engine, apart in (("gigatoken", [False] * 4), ("fastokens", [False, True, False, True])):
        chosen = made(loaded, backend, engine)
        assert isinstance(chosen, encoding_plan.EncodingPlan)
        assert chosen.apart(texts).tolist() == apart
        assert rows_of(chosen.encode(texts)) == expected


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data.replace(b"true", b"null"), lambda _: b""])
def test_damaged_files_are_ignored(tmp_path: pathlib.Path, damage: Callable[[bytes], bytes]) -> None:
    kept = proof_store.ProofStore(tmp_path)
    kept.put("a" * 64, proof_store.Verdicts(True, {0, 3}, {0x301}))
    (file,) = tmp_path.iterdir()
    assert proof_store.ProofStore(tmp_path).get("a" * 64) == proof_store.Verdicts(True, {0, 3}, {0x301})
    file.write_bytes(damage(file.read_bytes()))
    assert proof_store.ProofStore(tmp_path).get("a" * 64) is None
    # A file under another's name is none either.
    kept.put("a" * 64, proof_store.Verdicts(True))
    file.rename(tmp_path / f"{'b' * 64}.json")
    assert proof_store.ProofStore(tmp_path).get("b" * 64) is None


def test_proofs_are_shared_between_processes(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer], tmp_path: pathlib.Path
) -> None:
    tokenizer, found = loaded(byte_level()), list[Odd]()
    texts = strings(["plain", "жук"])
    selection.EngineSelector(makers=odd("ж", found), folder=tmp_path).choose(tokenizer, "docs", texts).encode(texts)
    assert len(found) > 1
    del found[:]
    again = selection.EngineSelector(makers=odd("ж", found), folder=tmp_path)
    chosen = again.choose(tokenizer, "docs", texts)
    assert isinstance(chosen, encoding_plan.EncodingPlan)
    assert (chosen.refused, chosen.apart(texts).tolist()) == ([ord("ж")], [False, True])
    # Nothing is compared again: one engine was made, and it saw nothing.
    assert [engine.seen for engine in found] == [[]]
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    assert (
        selection.EngineSelector(makers=odd("ж", found), folder=tmp_path).choose(tokenizer, "docs", texts).name
        == "gigatoken"
    )
    assert len(found) > 2


def test_the_folder_need_not_be_writable(
    loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    chosen = selection.EngineSelector(folder=tmp_path / "file").choose(loaded(byte_level()), "docs", strings(["a"]))
    assert chosen.name == "gigatoken"


CHANGES: dict[str, Callable[[dict], None]] = {
    "unknown bytes": lambda content: content["model"]["vocab"].pop("a") and content["model"].update(merges=[]),
    "two of one id": lambda content: content["model"]["vocab"].update(zz=0),
    "a merge twice": lambda content: content["model"]["merges"].append(content["model"]["merges"][0]),
    "prefix": lambda content: content["model"].update(continuing_subword_prefix="##"),
    "bytes in two ways": lambda content: content["model"]["vocab"].update({"\u20ac": 9001, "âĤ¬": 9002}),
    "normalizer": lambda content: content.update(normalizer={"type": "Lowercase"}),
    "pre-tokenizer": lambda content: content.update(pre_tokenizer={"type": "Whitespace"}),
    "no pre-tokenizer": lambda content: content.update(pre_tokenizer=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_unsupported_tokenizers(change: str) -> None:
    content = json.loads(byte_level().to_str())
    CHANGES[change](content)
    with pytest.raises(structure.UnsupportedTokenizer):
        structure.read(content)


def needles(backend: tokenizers.Tokenizer) -> set[str]:
    return set(read(backend).needles)


def read(backend: tokenizers.Tokenizer) -> structure.Structure:
    return structure.read(json.loads(backend.to_str()), splits_special_tokens=backend.encode_special_tokens)


def test_ambiguous_added_tokens() -> None:
    backend = byte_level("nfc")
    backend.add_special_tokens(
        [AddedToken("<end>", normalized=False), AddedToken("<|x|>", lstrip=True, normalized=False)]
    )
    backend.add_tokens([AddedToken("word", single_word=True), AddedToken("  ", normalized=True)])
    assert needles(backend) == {"word"}
    # A mark behind it may become one with its last character; others begin like it and are looked for otherwise.
    backend.add_tokens([AddedToken("ab", normalized=True), AddedToken("<|x|>y", normalized=False)])
    assert needles(backend) == {"word", "ab", "<|x|>", "<|x|>y"}
    assert read(backend).refused == structure.BECOME_ASCII
    backend.encode_special_tokens = True
    assert needles(backend) == {"word", "ab", "<end>", "<|x|>", "<|x|>y"}


def test_documents_with_added_tokens(loaded: Callable[[tokenizers.Tokenizer], loader.Tokenizer]) -> None:
    backend = byte_level("cl100k")
    backend.add_special_tokens([AddedToken("<end>"), AddedToken("<|x|>", lstrip=True, rstrip=True)])
    backend.add_tokens([AddedToken("word", single_word=True), AddedToken("<end>s", rstrip=True)])
    backend.add_special_tokens([AddedToken("\u2028z")])
    texts = strings(
        [
            "<|x|>\u2028z y",
            "\u2028z",
            "a word b",
            "words",
            "x<end>",
            "<end>s  y",
            "a \u3000<|x|>\u2028 b",
            "<|x|>",
            "<en",
            "<end",
            "plain",
            "<|x|><end>",
        ]
    )
    for engine in ("gigatoken", "fastokens"):
        chosen = made(loaded, backend, engine)
        assert chosen.name == engine
        assert rows_of(chosen.encode(texts)) == rows_of(Reference(backend).encode(texts))


def test_boundaries() -> None:
    form = read(byte_level())
    texts = ["ab cd!", "a b", "!?", "a", "b!"]
    shown, expected = boundaries.reveal(form, texts)
    assert rows_of(expected) == rows_of(Reference(shown).encode(strings(texts)))
    assert [len(shown.encode(text).ids) for text in ("ab cd!", "a b", "!?", "a", "b!")] == [3, 2, 1, 1, 2]
    other = tokenizers.Tokenizer.from_str(shown.to_str())
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # Everything in one piece: that of two single bytes is seen too.
    assert all(other.encode(text).ids != shown.encode(text).ids for text in ("ab cd!", "a b", "b!"))


def test_sequences_of_classes_are_complete() -> None:
    texts = list(probes.sequences("abc1"))
    fives = {text[place : place + 5] for text in texts for place in range(len(text) - 4)}
    assert len(fives) == 4**5
    assert {"a", "c1", "b1a"} <= set(texts)


@pytest.mark.parametrize("lengths", [([2, 1], [2, 1]), ([1, 2], [2, 1])])
def test_rows_that_differ(lengths: tuple[list[int], list[int]]) -> None:
    found, expected = (Ragged(np.arange(3, dtype=np.int32), np.cumsum([0, *each])) for each in lengths)
    assert proof.differing_rows(found, expected).tolist() == [lengths[0] != lengths[1]] * 2
    found.values[0] = 7
    assert proof.differing_rows(found, expected)[0]


def is_assigned(block: int) -> bool:
    """Return whether Unicode assigns a character of a block of code points, none of private use."""
    return any(unicodedata.category(character) not in {"Cn", "Co"} for character in probes.characters(block))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4", "deepseek_v3"])
def test_all_code_points_of_real_tokenizers(shared: pathlib.Path, name: str) -> None:
    tokenizer = loader.load(shared / "tokenizers" / name)
    corpus = pq.read_table(shared / "corpus" / "mix32.parquet", columns=["text"])["text"].to_pylist()[::50]
    chosen = selection.EngineSelector().choose(tokenizer, "mix32", strings(corpus))
    assert isinstance(chosen, encoding_plan.EncodingPlan)
    engine = selection.MAKERS[chosen.name](tokenizer, tokenizer.backend.to_str(), True)
    assert engine is not None
    everything = range(probes.CODES // probes.BLOCK)
    texts = {block: strings([f"a {c}b{c} '{c}" for c in probes.characters(block)]) for block in everything}
    expected = {block: Reference(tokenizer.backend).encode(each) for block, each in texts.items()}
    # A plan gives a text to the engine or to the reference: where both agree, its ids are right without a comparison.
    # Most blocks have no character, and comparing one takes as long as comparing any other.
    differing = {
        block for block in everything if proof.differing_rows(engine.encode(texts[block]), expected[block]).any()
    }
    compared = differing.union(filter(is_assigned, everything))
    chosen.compare(compared)
    for block in compared:
        assert not proof.differing_rows(chosen.encode(texts[block]), expected[block]).any(), f"block {block:#x}"
    assert len(chosen.refused) < 6000
