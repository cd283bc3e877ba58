"""Read rows of a tokenization and decode them."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.client import Client, files, resource_names
from polytok.demo import corpus

if TYPE_CHECKING:
    import datasets

ROWS = 3
_TOKENS = 60
"""Minimum length of a row worth showing."""


class Row(NamedTuple):
    """A row and its decoded text."""

    model: str
    number: int
    ids: list[int]
    text: str


def rows(client: Client, tokenizations: Sequence[tokenizations_pb2.Tokenization], text: pathlib.Path) -> list[Row]:
    """Return a few rows of each tokenization, decoded. Raises DataLoss if one is not the start of its document."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    documents = list(corpus.texts(text))
    found = []
    for tokenization in tokenizations:
        folder = pathlib.Path(client.models.get(tokenization.model).repo_id)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        loaded = files.load_tokenization(tokenization)
        for number in range(ROWS):
            place, ids = _row_from(loaded, number * (len(loaded) // ROWS))
            decoded = tokenizer.decode(ids)
            # A truncated document may end within a character.
            if not documents[place].startswith(decoded.rstrip("\N{REPLACEMENT CHARACTER}")):
                raise errors.DataLoss(f"Row {place} of {tokenization.name} is not the start of document {place}.")
            found.append(Row(resource_names.short(tokenization.model), place, ids, decoded))
    return found


def _row_from(loaded: "datasets.Dataset", start: int) -> tuple[int, list[int]]:
    """Return the first row from `start` on that is long enough, else the one at `start`."""
    for place in range(start, len(loaded)):
        ids: list[int] = loaded[place]["input_ids"]
        if len(ids) >= _TOKENS:
            return place, ids
    return start, loaded[start]["input_ids"]
