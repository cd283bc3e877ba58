"""Engines give the ids of the Hugging Face fast tokenizer."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from services.tokenizer.engines import reference
from services.tokenizer.models import loader
from tests.tokenizer import samples
from tests.tokenizer.test_packing import rows_of

CORPUS_DOCUMENTS = 300


def test_reference_equals_transformers(folder: pathlib.Path, tokenizer: loader.Tokenizer) -> None:
    texts = [*samples.ADVERSARIAL, *samples.DOCUMENTS]
    rows = reference.Reference(tokenizer.backend).encode(pa.array(texts, pa.large_string()))
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    assert rows_of(rows) == plain(texts, add_special_tokens=False)["input_ids"]


def test_no_texts_give_no_rows(tokenizer: loader.Tokenizer) -> None:
    rows = reference.Reference(tokenizer.backend).encode(pa.array([], pa.large_string()))
    assert (rows.num_rows, len(rows.values)) == (0, 0)


@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4"])
def test_reference_equals_transformers_on_real_tokenizers(shared: pathlib.Path, name: str) -> None:
    folder = shared / "tokenizers" / name
    corpus = pq.read_table(shared / "corpus" / "mix32.parquet", columns=["text"])["text"].to_pylist()
    texts = [*samples.ADVERSARIAL, *corpus[:: len(corpus) // CORPUS_DOCUMENTS]]
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    rows = reference.Reference(loader.load(folder).backend).encode(pa.array(texts, pa.large_string()))
    assert rows_of(rows) == plain(texts, add_special_tokens=False)["input_ids"]


def unescaped(line: str) -> str:
    # The vectors write a line feed as \\n, and a space at the end of a line, which editors remove, as \\s.
    text = line.replace("\\n", "\n")
    return f"{text[:-2]} " if text.endswith("\\s") else text


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
@pytest.mark.parametrize("vector", ["small", "mixed", "utf8"])
def test_reference_vectors(shared: pathlib.Path, name: str, vector: str) -> None:
    folder = shared / "vectors"
    text = (folder / f"{vector}.txt").read_bytes().decode()
    ids = (folder / f"{vector}.{name}.ids.txt").read_text().split("\n")
    texts = [text] if vector == "utf8" else [unescaped(line) for line in text.removesuffix("\n").split("\n")]
    expected = [[int(token) for token in line.split(", ")] for line in ids[: len(texts)]]
    rows = reference.Reference(loader.load(shared / "tokenizers" / name).backend).encode(
        pa.array(texts, pa.large_string())
    )
    assert rows_of(rows) == expected
