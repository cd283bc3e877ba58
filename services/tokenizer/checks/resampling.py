"""Encodes a random sample of a dataset's documents again, with the reference, and compares with a tokenization.

Where a document is one sequence, sequences are chosen at random. A row of packed or overflowing documents depends on
all before it in its file, so there the first ones of random files are taken; where rows go on from file to file, the
manifest says how much of a file's documents is in rows before it, and the first row shows whether that is right.
"""

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import json_format

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2, tokenizer_pb2
from services.runtime.storage import Storage
from services.tokenizer.checks import originals
from services.tokenizer.engines.reference import Reference
from services.tokenizer.files import forms
from services.tokenizer.models import loading
from services.tokenizer.rows import packing, sequences
from services.tokenizer.rows.ragged import Ids, Ragged
from services.tokenizer.text import documents

Finding = tokenizer_pb2.VerifyFinding

_MOST_FILES = 16
_FEW = 64
_NAME = re.compile(r"shard-(\d+)-of-(\d+)-")
_KNOWN = frozenset(
    {
        "text_column",
        "column_choice",
        "chat",
        "max_length",
        "truncation",
        "add_special_tokens",
        "packing",
        "overflow",
        "stride",
        "padding",
        "filters",
        "normalization",
        "max_documents",
        "shuffle_seed",
    }
)


class Sample:
    """The documents and the sequences of one tokenization."""

    def __init__(self, manifest: dict[str, Any], storage: Storage, folder: str, raw: str) -> None:
        self._storage = storage
        self._folder = folder
        self._raw = raw
        self._parameters = _parameters(manifest)
        self._date = manifest.get("date", "")
        told = manifest["tokenizer"]
        self._reference = tasks_pb2.TokenizerReference(
            repo_id=told["repo_id"],
            revision=told["revision"],
            fingerprint=told["fingerprint"],
            chat_template_fingerprint=told.get("chat_template_fingerprint", ""),
        )

    def check(
        self, files: Sequence[dict[str, Any]], tokenizers: loading.Tokenizers, size: int
    ) -> tuple[list[Finding], int]:
        """Compares; gives what differs and how many documents were encoded."""
        tokenizer = tokenizers.get(self._reference)
        task = tasks_pb2.TokenizeShardTask(parameters=self._parameters, date=self._date)
        column = documents.column(task, tokenizer)
        found_again = originals.Originals(self._storage, self._raw, column, self._parameters)
        chosen = random.sample(files, min(len(files), _MOST_FILES, size))
        findings: list[Finding] = []
        count = 0
        for file, places in _shares(chosen, size) if self._is_one_each else ((file, None) for file in chosen):
            wanted = -(-size // len(chosen)) if places is None else len(places)
            found, encoded = self._compare(file, found_again, places, wanted, tokenizer)
            findings += found
            count += encoded
        return findings, count

    @property
    def _is_one_each(self) -> bool:
        return not self._parameters.HasField("packing") and not self._parameters.overflow

    def _compare(
        self,
        file: dict[str, Any],
        found_again: originals.Originals,
        places: Sequence[int] | None,
        wanted: int,
        tokenizer: loading.Tokenizer,
    ) -> tuple[list[Finding], int]:
        """Compares the sequences of documents with those at the places; without places with the first ones."""
        ordinal, files = map(int, _NAME.match(file["name"]).groups())  # type: ignore[union-attr]
        sequencer = forms.sequencer(self._parameters, tokenizer)
        if isinstance(sequencer, packing.Packed):
            sequencer.skip(file.get("phase", 0))
        if places is None:
            texts = found_again.of_file(ordinal, files, goes_on="phase" in file)
        else:
            texts = found_again.at(ordinal, files, places)
        expected, count = _encoded(texts, sequencer, Reference(tokenizer.backend), wanted)
        if places is None:
            # One too many tells of rows that no document makes.
            places = range(min(len(expected) + int(count < wanted), file["num_rows"]))
        found = dict(self._rows(file["name"], set(places)))
        source = found_again.source(ordinal)
        origin = f" It was made of {source}." if source else ""
        findings = []
        for place, row in itertools.zip_longest(places, expected[: len(places)]):
            difference = "no document of the dataset makes it" if row is None else _difference(row, found.get(place))
            if difference:
                message = f"{file['name']}, row {place}: {difference}.{origin}"
                findings.append(Finding(kind=Finding.KIND_WRONG_IDS, file=file["name"], row=place, message=message))
        return findings, count

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


def _encoded(
    texts: Iterable[pa.Array], sequencer: sequences.Sequencer, reference: Reference, wanted: int
) -> tuple[list[Ids], int]:
    """Makes sequences of so many documents at least, a few at a time, and tells of how many."""
    expected: list[Ids] = []
    count = 0
    at_once = min(_FEW, wanted)
    for some in texts:
        for start in range(0, len(some), at_once):
            few = some[start : start + at_once]
            count += len(few)
            expected += [row for rows in sequencer.add(reference.encode(few)) for row in _split(rows.ids)]
            # A sequence may take more documents than were asked for.
            if count >= wanted and expected:
                return expected, count
    return expected, count


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
