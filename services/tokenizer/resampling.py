"""Encodes a random sample of a dataset's documents again, with the reference, and compares with a tokenization.

Where a document is one sequence, documents are chosen at random. A row of packed or overflowing documents depends on
all before it in its shard, so there the first documents of random shards are taken.
"""

import json
import posixpath
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import json_format

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2, tokenizer_pb2
from services.runtime.storage import Storage
from services.tokenizer import columns, forms, loading
from services.tokenizer.engines.reference import Reference
from services.tokenizer.ragged import Ids, Ragged

Finding = tokenizer_pb2.VerifyFinding

_MOST_SHARDS = 16
_FEW = 64
_ORDINAL = re.compile(r"shard-(\d+)-of-\d+-")
# What changes neither which documents there are nor their order.
_KNOWN = frozenset(
    {
        "text_column",
        "column_choice",
        "max_length",
        "truncation",
        "add_special_tokens",
        "packing",
        "overflow",
        "stride",
        "padding",
    }
)


class Sample:
    """The documents and the sequences of one tokenization."""

    def __init__(self, manifest: dict[str, Any], storage: Storage, folder: str, raw: str) -> None:
        self._storage = storage
        self._folder = folder
        self._raw = raw
        self._parameters = _parameters(manifest)
        told = manifest["tokenizer"]
        self._reference = tasks_pb2.TokenizerReference(
            repo_id=told["repo_id"], revision=told["revision"], fingerprint=told["fingerprint"]
        )

    def check(
        self, files: Sequence[dict[str, Any]], tokenizers: loading.Tokenizers, size: int
    ) -> tuple[list[Finding], int]:
        """Compares; gives what differs and how many documents were encoded."""
        tokenizer = tokenizers.get(self._reference)
        sources = self._sources()
        chosen = random.sample(files, min(len(files), _MOST_SHARDS, size))
        findings: list[Finding] = []
        count = 0
        for file, places in _shares(chosen, size) if self._is_one_each else ((file, None) for file in chosen):
            source = sources[int(_ORDINAL.match(file["name"]).group(1))]  # type: ignore[union-attr]
            documents = self._beginning(source) if places is None else self._documents(source, places)
            wanted = -(-size // len(chosen)) if places is None else len(places)
            found, encoded = self._compare(file, source, documents, places, wanted, tokenizer)
            findings += found
            count += encoded
        return findings, count

    @property
    def _is_one_each(self) -> bool:
        return not self._parameters.HasField("packing") and not self._parameters.overflow

    def _sources(self) -> list[str]:
        """The dataset's files, in the order of the shards that were made of them."""
        listed = json.loads(self._storage.read_bytes(f"{self._raw}/state.json"))["_data_files"]
        return [f"{self._raw}/{each['filename']}" for each in listed]

    def _compare(
        self,
        file: dict[str, Any],
        source: str,
        documents: Iterator[pa.Array],
        places: Sequence[int] | None,
        wanted: int,
        tokenizer: loading.Tokenizer,
    ) -> tuple[list[Finding], int]:
        """Compares the sequences of documents with those at the places; without places with the first ones."""
        reference = Reference(tokenizer.backend)
        sequencer = forms.sequencer(self._parameters, tokenizer)
        expected: list[Ids] = []
        count = 0
        for texts in documents:
            count += len(texts)
            expected += [row for rows in sequencer.add(reference.encode(texts)) for row in _split(rows.ids)]
            # A sequence may take more documents than were asked for.
            if count >= wanted and expected:
                break
        places = range(len(expected)) if places is None else places
        found = dict(self._rows(file["name"], set(places)))
        findings = []
        for place, row in zip(places, expected, strict=False):
            difference = _difference(row, found.get(place))
            if difference:
                message = f"{file['name']}, row {place}: {difference}. It was made of {posixpath.basename(source)}."
                findings.append(Finding(kind=Finding.KIND_WRONG_IDS, file=file["name"], row=place, message=message))
        return findings, count

    def _documents(self, source: str, places: Sequence[int]) -> Iterator[pa.Array]:
        """The texts in these rows of a file, which are in order."""
        first = 0
        rows = np.array(places)
        for texts in self._texts(source):
            inside = rows[(rows >= first) & (rows < first + len(texts))] - first
            if len(inside):
                yield texts.take(pa.array(inside))
            first += len(texts)
            if first > rows[-1]:
                return

    def _beginning(self, source: str) -> Iterator[pa.Array]:
        """All texts of a file, a few at a time."""
        for texts in self._texts(source):
            for start in range(0, len(texts), _FEW):
                yield texts[start : start + _FEW]

    def _texts(self, source: str) -> Iterator[pa.Array]:
        where = posixpath.basename(source)
        first = 0
        with self._storage.open(source) as file, pa.ipc.open_stream(file) as stream:
            name = columns.choose(stream.schema, self._parameters.text_column, where)
            for batch in stream:
                yield columns.texts(batch.column(name), name, where, first)
                first += batch.num_rows

    def _rows(self, name: str, wanted: set[int]) -> Iterator[tuple[int, Ids]]:
        """The sequences in these rows of a file, without padding."""
        first = 0
        with self._storage.open(f"{self._folder}/{name}") as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                for place in sorted(wanted.intersection(range(first, first + batch.num_rows))):
                    ids, mask = (
                        np.asarray(batch.column(column)[place - first].values)
                        for column in ("input_ids", "attention_mask")
                    )
                    yield place, ids[mask == 1]
                first += batch.num_rows


def _parameters(manifest: dict[str, Any]) -> tokenizations_pb2.TokenizationParameters:
    unknown = sorted(manifest["parameters"].keys() - _KNOWN)
    if unknown:
        raise errors.FailedPrecondition(
            f"Documents of a tokenization with {', '.join(unknown)} cannot be found again one by one. Verify it "
            "without a sample: its checksums are compared all the same.",
            reason="WRONG_STATE",
        )
    return json_format.ParseDict(manifest["parameters"], tokenizations_pb2.TokenizationParameters())


def _shares(files: Sequence[dict[str, Any]], size: int) -> Iterator[tuple[dict[str, Any], Sequence[int] | None]]:
    """Which rows of which files, chosen at random among all."""
    wanted: defaultdict[int, list[int]] = defaultdict(list)
    ends = np.cumsum([file["num_rows"] for file in files])
    total = int(ends[-1]) if len(files) else 0
    for place in sorted(random.sample(range(total), min(size, total))):
        number = int(np.searchsorted(ends, place, side="right"))
        wanted[number].append(place - int(ends[number]) + files[number]["num_rows"])
    yield from ((files[number], places) for number, places in wanted.items())


def _split(rows: Ragged) -> Iterator[Ids]:
    for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        yield rows.values[start:end]


def _difference(expected: Ids, found: Ids | None) -> str:
    if found is None:
        return "the sequence is missing"
    if np.array_equal(expected, found):
        return ""
    if len(expected) != len(found):
        return f"it has {len(found)} tokens, and the reference gives {len(expected)}"
    place = int(np.argmax(expected != found))
    return f"token {place} is {found[place]}, and the reference gives {expected[place]}"
