"""A long document is encoded in parts, and its ids are those of the whole."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from services.tokenizer.engines import chunking, reference
from services.tokenizer.models import loader
from tests.tokenizer import samples

# Added tokens, marks and spaces of all kinds close to the places where a cut could be made.
TRAPS = [
    "one <s> two<s> three <s>four a<s>b c </s> d <|endoftext|> e <|endoftext|>f [CLS] g",
    "a  b   c \t d \n e\n f\u00a0g h\u2003i",
    "a ▁b c▁ d ▁ e",
    "don't we'll I 'm they 've 1 a 2b 3 c",
    "ﬁ e\u0301 a\u0301 b \u0301 c ß d",
]
LONG = "\n".join([*samples.DOCUMENTS[:3], *TRAPS, *samples.ADVERSARIAL, *TRAPS, *samples.DOCUMENTS[3:5]])


def ids(tokenizer: loader.Tokenizer, text: str) -> list[int]:
    values = reference.Reference(tokenizer.backend).encode(pa.array([text], pa.large_string())).values
    return values.tolist()


@pytest.mark.parametrize("characters", [3, 100, 5000])
def test_parts_give_the_ids_of_the_whole(
    tokenizer: loader.Tokenizer, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    whole = tokenizer.backend.encode(LONG, add_special_tokens=False).ids
    monkeypatch.setattr(chunking, "PART_CHARACTERS", characters)
    parts = list(chunking.Chunker(tokenizer.backend).chunks(LONG))
    assert len(parts) > min(1000, len(LONG) // characters // 2)
    assert ids(tokenizer, LONG) == whole


@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4"])
def test_parts_of_real_text_by_real_tokenizers(
    shared: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokenizer = loader.load(shared / "tokenizers" / name)
    corpus = pq.read_table(shared / "corpus" / "mix32.parquet", columns=["text"])["text"].to_pylist()
    text = "\n".join([*TRAPS, *corpus[::40]])[:80_000]
    whole = tokenizer.backend.encode(text, add_special_tokens=False).ids
    monkeypatch.setattr(chunking, "PART_CHARACTERS", 200)
    assert len(list(chunking.Chunker(tokenizer.backend).chunks(text))) > 50
    assert ids(tokenizer, text) == whole


def test_no_cut_where_a_piece_spans_it() -> None:
    vocab = {"a": 0, "b": 1, "c": 2, "▁": 3, "a▁": 4, "a▁b": 5}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("a", "▁"), ("a▁", "b")]))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    cutter = chunking.Chunker(backend)
    assert cutter._place("ca bc ab", 0) == 5
    assert backend.encode("ca b").tokens == ["▁", "c", "a▁b"]


def test_metaspace_as_a_pre_tokenizer(folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = loader.load(folders["sentencepiece"])
    tokenizer.backend.normalizer = None
    for split in (False, True):
        tokenizer.backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=split)
        whole = tokenizer.backend.encode(LONG, add_special_tokens=False).ids
        monkeypatch.setattr(chunking, "PART_CHARACTERS", 50)
        assert len(list(chunking.Chunker(tokenizer.backend).chunks(LONG))) > 50
        assert ids(tokenizer, LONG) == whole


def test_no_cut_at_normalized_added_tokens(folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "PART_CHARACTERS", 3)
    tokenizer = loader.load(folders["wordpiece"])
    assert len(list(chunking.Chunker(tokenizer.backend).chunks("New York city"))) > 1
    tokenizer.backend.add_tokens([tokenizers.AddedToken("new york", normalized=True)])
    for text in ("in New York city", "in NÉW YORK city"):
        assert ids(tokenizer, text) == tokenizer.backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "change", [{"ignore_merges": True}, {"end_of_word_suffix": "</w>"}, {"vocab": {"a": 0, "b": 1}}]
)
def test_no_cut_with_special_ends(change: dict[str, object]) -> None:
    content = json.loads(tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "▁": 2}, [])).to_str())
    content["normalizer"] = {"type": "Sequence", "normalizers": [chunking._PREPEND, chunking._REPLACE]}
    assert chunking._marks_spaces(content)
    content["model"] |= change
    assert not chunking._marks_spaces(content)


def test_another_kind_of_tokenizer_stays_whole(folders: dict[str, pathlib.Path]) -> None:
    backend = loader.load(folders["byte_level"]).backend
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert list(chunking.Chunker(backend).chunks(LONG * 100)) == [LONG * 100]


def test_a_text_without_a_place_stays_whole(folders: dict[str, pathlib.Path]) -> None:
    text = "文" * (chunking.PART_CHARACTERS + 9)
    assert list(chunking.Chunker(loader.load(folders["byte_level"]).backend).chunks(text)) == [text]
