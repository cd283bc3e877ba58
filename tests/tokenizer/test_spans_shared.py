"""The engine that cuts texts, with a real vocabulary and real text."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from services.tokenizer.engines import reference
from services.tokenizer.models import loader
from tests.tokenizer.test_spans import TEXTS_OF_ALL_KINDS, encoded, ids, made


@pytest.fixture(scope="module")
def llama(shared: pathlib.Path) -> tokenizers.Tokenizer:
    return loader.load(shared / "tokenizers" / "llama2").backend


def test_texts_of_all_kinds(llama: tokenizers.Tokenizer) -> None:
    assert encoded(made(llama), TEXTS_OF_ALL_KINDS) == ids(llama, TEXTS_OF_ALL_KINDS)


def test_reference_vectors(shared: pathlib.Path, llama: tokenizers.Tokenizer) -> None:
    lines = (shared / "vectors" / "mixed.txt").read_text().split("\n")
    expected = (shared / "vectors" / "mixed.llama2.ids.txt").read_text().split("\n")
    pairs = [(text.replace("\\n", "\n"), row) for text, row in zip(lines, expected, strict=True) if text]
    assert len(pairs) > 100
    found = encoded(made(llama), [text for text, _ in pairs])
    assert found == [[int(token) for token in row.split(",")] for _, row in pairs]


@pytest.mark.parametrize("name", ["llama2", "wordpiece"])
def test_a_real_corpus(shared: pathlib.Path, folders: dict[str, pathlib.Path], name: str) -> None:
    backend = loader.load(folders.get(name, shared / "tokenizers" / name)).backend
    corpus = pq.read_table(shared / "corpus" / "mix32.parquet", columns=["text"])["text"]
    texts = corpus.combine_chunks().take(pa.array(range(0, len(corpus), 15))).cast(pa.large_string())
    expected = reference.Reference(backend).encode(texts)
    engine = made(backend)
    for _ in range(2):
        found = engine.encode(texts)
        assert np.array_equal(found.offsets, expected.offsets)
        assert np.array_equal(found.values, expected.values)
    assert engine._table._spans > 10_000
