"""The hash of a text is that of the package xxhash."""

import pyarrow as pa
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tokenizer.text import text_hashes
from tests.tokenizer import samples


def by_package(texts: list[str]) -> list[list[int]]:
    return [[xxhash.xxh64_intdigest(text.encode(), seed=seed) for text in texts] for seed in text_hashes.SEEDS]


def test_material() -> None:
    texts = [*samples.ADVERSARIAL, *samples.DOCUMENTS]
    found = text_hashes.hash_texts(pa.array(texts, pa.large_string()))
    assert [half.tolist() for half in found] == by_package(texts)


@settings(deadline=None)
@given(texts=st.lists(st.text(max_size=100), max_size=8), first=st.integers(0, 8))
def test_any_texts_of_part_of_an_array(texts: list[str], first: int) -> None:
    found = text_hashes.hash_texts(pa.array(texts, pa.large_string())[first:])
    assert [half.tolist() for half in found] == by_package(texts[first:])
