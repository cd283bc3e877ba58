"""What a tokenization has to be, one document after the other in plain Python, with transformers and SAELens."""

import dataclasses
import functools
import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import transformers

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.sequences.packing import Boundaries
from tests.tokenizer.saelens import batched
from tests.tokenizer.task_runner import Parameters
from tests.tokenizer.test_packing import walked_starts
from tests.tokenizer.test_permutation import shuffled
from tests.tokenizer.test_preprocessing import junk

Packing = tokenizations_pb2.Packing


@dataclasses.dataclass
class Expected:
    """The documents that are left, in order, and the sequences of them."""

    documents: list[str]
    rows: list[list[int]]
    counts: dict[str, int]
    num_truncated: int = 0
    document_starts: list[list[int]] | None = None


def expected(texts: Sequence[str], parameters: Parameters, folder: object) -> Expected:
    """Make the sequences of all texts of a dataset."""
    plain = _plain(str(folder))
    documents, counts = left(texts, parameters)
    framed = parameters.add_special_tokens if parameters.HasField("add_special_tokens") else not _packs(parameters)
    if not _packs(parameters):
        kept = {"truncation": True, "max_length": parameters.max_length} if parameters.max_length else {}
        rows = [list(plain(text, add_special_tokens=framed, **kept)["input_ids"]) for text in documents]
        whole = [plain(text, add_special_tokens=framed)["input_ids"] for text in documents]
        return Expected(documents, rows, counts, sum(map(operator.ne, map(len, rows), map(len, whole))))
    ids = [list(plain(text, add_special_tokens=framed)["input_ids"]) for text in documents]
    packing = parameters.packing
    boundaries = Boundaries(
        _boundary(packing.begin_of_batch or Packing.BOUNDARY_BOS, plain),
        _boundary(packing.begin_of_sequence or Packing.BOUNDARY_NONE, plain),
        _boundary(packing.separator or Packing.BOUNDARY_BOS, plain),
    )
    rows = batched(ids, parameters.max_length, boundaries, alone=packing.disable_concatenation)
    if packing.disable_concatenation:
        begin = boundaries.begin_of_batch if boundaries.begin_of_sequence is None else boundaries.begin_of_sequence
        lengths = [len(each) + (begin is not None and each[0] != begin) for each in ids if each]
        return Expected(documents, rows, counts, sum(length > parameters.max_length for length in lengths))
    opens = packing.separator != Packing.BOUNDARY_EOS
    starts = walked_starts(ids, parameters.max_length, boundaries, separator_opens=opens)
    return Expected(documents, rows, counts, document_starts=list(starts) if packing.document_starts else None)


@functools.cache
def _plain(folder: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def _packs(parameters: Parameters) -> bool:
    return parameters.HasField("packing")


def _boundary(boundary: int, plain: Any) -> int | None:
    if boundary == Packing.BOUNDARY_NONE:
        return None
    token: int | None = plain.eos_token_id if boundary == Packing.BOUNDARY_EOS else plain.bos_token_id
    return token


def left(texts: Sequence[str], parameters: Parameters) -> tuple[list[str], dict[str, int]]:
    """Return the documents that are left, in order, and how many were read and dropped."""
    order = list(range(len(texts)))
    if parameters.HasField("shuffle_seed"):
        order = shuffled(parameters.shuffle_seed, len(texts))
    if parameters.HasField("max_documents"):
        order = order[: parameters.max_documents]
    counts = {"num_documents": len(order), "text_bytes": sum(len(texts[row].encode()) for row in order)}
    cleaned = {row: _normal(texts[row], parameters) for row in order}
    dropped: dict[int, str] = {}
    seen: set[str] = set()
    # In the order of the dataset, whatever the order is in which they come out.
    for row in sorted(order):
        counter = next((name for name, drops in _filters(parameters).items() if drops(cleaned[row])), "")
        if not counter and parameters.filters.drop_duplicates:
            counter = "num_duplicates" if cleaned[row] in seen else ""
            seen.add(cleaned[row])
        if counter:
            dropped[row] = counter
    for counter in dropped.values():
        counts[counter] = counts.get(counter, 0) + 1
    return [cleaned[row] for row in order if row not in dropped], counts


def _normal(text: str, parameters: Parameters) -> str:
    forms = {Parameters.NORMALIZATION_NFC: "NFC", Parameters.NORMALIZATION_NFKC: "NFKC"}
    form = forms.get(parameters.normalization)
    return unicodedata.normalize(form, text) if form else text


def _filters(parameters: Parameters) -> dict[str, Callable[[str], bool]]:
    asked = parameters.filters
    found: dict[str, Callable[[str], bool]] = {}
    if asked.min_characters:
        found["num_too_short"] = lambda text: len(text) < asked.min_characters
    if asked.max_characters:
        found["num_too_long"] = lambda text: len(text) > asked.max_characters
    if asked.keep_pattern:
        found["num_unmatched"] = lambda text: not re.search(asked.keep_pattern, text)
    if asked.drop_pattern:
        found["num_matched"] = lambda text: bool(re.search(asked.drop_pattern, text))
    if asked.HasField("max_junk"):
        found["num_junk"] = lambda text: junk(text) > asked.max_junk
    return found
