"""Encode documents again with the reference, a sample or all, and compare them with a tokenization.

To check all, documents become sequences as they did when the files were written, file by file, and every column is
compared. For a sample, only the ids are compared. Where a document is one sequence, sequences are chosen at random. A
row of packed or overflowing documents depends on all documents before it in its file, so the first ones of random
files are taken. Where rows continue from file to file, the manifest says how much of a file's documents is in rows
before it, and the first row shows whether that is right.
"""

import contextlib
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import json_format

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2, tokenizer_pb2
from services.runtime.storage import Storage
from services.tokenizer.checks import comparison, source_documents
from services.tokenizer.engines.reference import Reference
from services.tokenizer.files import output, sequence_factory, statistics
from services.tokenizer.models import loader
from services.tokenizer.sequences import base, bounded_runs, packing
from services.tokenizer.sequences.ragged import Ids, Ragged
from services.tokenizer.text import documents

Finding = tokenizer_pb2.VerifyFinding
_Statistics = tokenizations_pb2.TokenizationStatistics

Report = Callable[[int, int], None]
"""Called with the number of encoded documents and the total."""

_MOST_FINDINGS = 1000
_MOST_FILES = 16
_RUN_BYTES = 1 << 20
_RUN_ROWS = 10_000
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


class DocumentCheck:
    """The documents and the sequences of one tokenization."""

    def __init__(
        self, manifest: dict[str, Any], storage: Storage, folder: str, raw: str, tokenizers: loader.TokenizerCache
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._manifest = manifest
        self._parameters = _parameters(manifest)
        recorded = manifest["tokenizer"]
        reference = tasks_pb2.TokenizerReference(
            repo_id=recorded["repo_id"],
            revision=recorded["revision"],
            fingerprint=recorded["fingerprint"],
            chat_template_fingerprint=recorded.get("chat_template_fingerprint", ""),
        )
        self._tokenizer = tokenizers.get(reference)
        self._reference = Reference(self._tokenizer.backend)
        task = tasks_pb2.TokenizeShardTask(
            parameters=self._parameters, date=manifest.get("date", ""), tokenizer=reference
        )
        column = documents.column(task, self._tokenizer)
        self._originals = source_documents.SourceDocuments(storage, raw, column, self._parameters)

    def check(self, files: Sequence[dict[str, Any]], size: int | None, report: Report) -> tuple[list[Finding], int]:
        """Compare N documents, or all, with these files; return the differences and how many were encoded.

        Raises DataLoss if documents cannot be compared because the raw shards changed.
        """
        try:
            findings, count = self._all(files, report) if size is None else self._sample(files, size)
        # Errors of reading a damaged Arrow file.
        except (pa.ArrowException, OSError, errors.PolytokError):
            self._originals.check(self._manifest["dataset_fingerprint"])
            raise
        if findings:
            self._originals.check(self._manifest["dataset_fingerprint"])
        return findings, count

    def _all(self, files: Sequence[dict[str, Any]], report: Report) -> tuple[list[Finding], int]:
        whole = {_place(file)[0]: file for file in files}
        listed = {_place(file)[0] for file in self._manifest["files"]}
        count = _place(self._manifest["files"][0])[1]
        recorded = self._manifest["statistics"]
        total = recorded["num_documents"] - statistics.count_dropped(json_format.ParseDict(recorded, _Statistics()))
        findings: list[Finding] = []
        done = 0
        for ordinal in range(count):
            # A damaged manifest already has a finding. For a file in which no row begins, the manifest has no phase.
            if ordinal in listed - whole.keys() or (ordinal not in listed and self._goes_on):
                continue
            for encoded in self._file(ordinal, count, whole.get(ordinal), findings):
                done += encoded
                report(done, max(done, total))
            if len(findings) >= _MOST_FINDINGS:
                break
        return findings, done

    def _file(self, ordinal: int, count: int, file: dict[str, Any] | None, findings: list[Finding]) -> Iterator[int]:
        """Compare all of a file; yield how many documents were encoded with each step."""
        with (
            comparison.Comparison(
                self._storage, self._folder, file["name"] if file else "", self._origin(ordinal)
            ) as found,
            contextlib.closing(output.Output(self._parameters, self._tokenizer, found)) as made,
        ):
            phase = file.get("phase") if file else None
            if phase:
                made.skip(phase)
            for ids in self._encoded(self._originals.of_file(ordinal, count)):
                made.add(ids)
                yield ids.num_rows
            if phase is not None:
                made.complete(self._encoded(self._originals.after(ordinal, count)))
            made.finish()
            found.finish()
            findings += found.findings

    def _encoded(self, texts: Iterable[pa.Array]) -> Iterator[Ragged]:
        for some in texts:
            for start, stop in bounded_runs.runs(bounded_runs.ends_of(some), _RUN_BYTES, _RUN_ROWS):
                yield self._reference.encode(some[start:stop])

    def _origin(self, ordinal: int) -> str:
        source = self._originals.source(ordinal)
        return f" It was made from {source}." if source else ""

    def _sample(self, files: Sequence[dict[str, Any]], size: int) -> tuple[list[Finding], int]:
        chosen = random.sample(files, min(len(files), _MOST_FILES, size))
        findings: list[Finding] = []
        count = 0
        for file, places in _shares(chosen, size) if self._is_one_each else ((file, None) for file in chosen):
            wanted = -(-size // len(chosen)) if places is None else len(places)
            found, encoded = self._compare(file, places, wanted)
            findings += found
            count += encoded
        return findings, count

    @property
    def _goes_on(self) -> bool:
        """Return whether sequences continue from file to file."""
        return any("phase" in file for file in self._manifest["files"])

    @property
    def _is_one_each(self) -> bool:
        return not self._parameters.HasField("packing") and not self._parameters.overflow

    def _compare(self, file: dict[str, Any], places: Sequence[int] | None, wanted: int) -> tuple[list[Finding], int]:
        """Compare the sequences of documents with those at the places; without places with the first ones."""
        ordinal, files = _place(file)
        sequencer = sequence_factory.create_sequencer(self._parameters, self._tokenizer)
        if isinstance(sequencer, packing.Packer):
            sequencer.skip(file.get("phase", 0))
        if places is not None:
            texts = self._originals.at(ordinal, files, places)
        elif "phase" in file:
            texts = itertools.chain(self._originals.of_file(ordinal, files), self._originals.after(ordinal, files))
        else:
            texts = self._originals.of_file(ordinal, files)
        expected, count = _encoded(texts, sequencer, self._reference, wanted)
        if places is None:
            # One more than expected reveals rows that no document produces.
            places = range(min(len(expected) + int(count < wanted), file["num_rows"]))
        found = dict(self._rows(file["name"], set(places)))
        findings = []
        for place, row in itertools.zip_longest(places, expected[: len(places)]):
            difference = (
                "no document of the dataset produces it" if row is None else comparison.differs(row, found.get(place))
            )
            if difference:
                message = f"{file['name']}, row {place}: {difference}.{self._origin(ordinal)}"
                findings.append(Finding(kind=Finding.KIND_WRONG_IDS, file=file["name"], row=place, message=message))
        return findings, count

    def _rows(self, name: str, wanted: set[int]) -> Iterator[tuple[int, Ids]]:
        """Yield the sequences in these rows of a file, without padding."""
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


def _place(file: dict[str, Any]) -> tuple[int, int]:
    """Return the index of the file and the number of files, from its name."""
    ordinal, count = map(int, _NAME.match(file["name"]).groups())  # type: ignore[union-attr]
    return ordinal, count


def _parameters(manifest: dict[str, Any]) -> tokenizations_pb2.TokenizationParameters:
    unknown = sorted(manifest["parameters"].keys() - _KNOWN)
    if unknown:
        raise errors.FailedPrecondition(
            f"Documents of a tokenization with {', '.join(unknown)} cannot be located individually. Verify it "
            "without a sample; its checksums are still compared.",
            reason="WRONG_STATE",
        )
    return json_format.ParseDict(manifest["parameters"], tokenizations_pb2.TokenizationParameters())


def _encoded(
    texts: Iterable[pa.Array], sequencer: base.Sequencer, reference: Reference, wanted: int
) -> tuple[list[Ids], int]:
    """Make sequences of at least N documents, a few at a time, and return how many there were."""
    expected: list[Ids] = []
    count = 0
    at_once = min(_FEW, wanted)
    for some in texts:
        for start in range(0, len(some), at_once):
            few = some[start : start + at_once]
            count += len(few)
            expected += [row for rows in sequencer.add(reference.encode(few)) for row in _split(rows.ids)]
            # A sequence may need more documents than were requested.
            if count >= wanted and expected:
                return expected, count
    return expected, count


def _shares(files: Sequence[dict[str, Any]], size: int) -> Iterator[tuple[dict[str, Any], Sequence[int] | None]]:
    """Yield which rows of which files to check, chosen at random among all."""
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
