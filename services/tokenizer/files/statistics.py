"""Statistics of a tokenization's files, counted per shard and merged."""

from collections.abc import Iterable

import numpy as np

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.sequences.ragged import Ragged


def count(rows: Ragged, unknown: int | None) -> tokenizations_pb2.TokenizationStatistics:
    """Count sequences and their tokens."""
    lengths = rows.lengths
    return tokenizations_pb2.TokenizationStatistics(
        num_tokens=len(rows.values),
        num_sequences=rows.num_rows,
        min_seq_length=int(lengths.min()) if rows.num_rows else 0,
        max_seq_length=int(lengths.max()) if rows.num_rows else 0,
        num_unknown=0 if unknown is None else int(np.count_nonzero(rows.values == unknown)),
    )


def merge(
    parts: Iterable[tokenizations_pb2.TokenizationStatistics],
) -> tokenizations_pb2.TokenizationStatistics:
    """Return the joint statistics of all parts."""
    parts = list(parts)
    # A part without sequences has no shortest one.
    filled = [part for part in parts if part.num_sequences]
    num_tokens = sum(part.num_tokens for part in parts)
    num_sequences = sum(part.num_sequences for part in parts)
    return tokenizations_pb2.TokenizationStatistics(
        num_tokens=num_tokens,
        num_sequences=num_sequences,
        num_documents=sum(part.num_documents for part in parts),
        avg_seq_length=num_tokens / num_sequences if num_sequences else 0.0,
        min_seq_length=min((part.min_seq_length for part in filled), default=0),
        max_seq_length=max((part.max_seq_length for part in filled), default=0),
        num_truncated=sum(part.num_truncated for part in parts),
        num_unknown=sum(part.num_unknown for part in parts),
        num_files=sum(part.num_files for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        engine="+".join(sorted({part.engine for part in parts if part.engine})),
        engine_versions=sorted({engine for part in parts for engine in part.engine_versions}),
        distrusted_engines=sorted({engine for part in parts for engine in part.distrusted_engines}),
        num_shards_encoded_again=sum(part.num_shards_encoded_again for part in parts),
        text_bytes=sum(part.text_bytes for part in parts),
        num_padded=sum(part.num_padded for part in parts),
        num_null_dropped=sum(part.num_null_dropped for part in parts),
        num_null_empty=sum(part.num_null_empty for part in parts),
        num_too_short=sum(part.num_too_short for part in parts),
        num_too_long=sum(part.num_too_long for part in parts),
        num_unmatched=sum(part.num_unmatched for part in parts),
        num_matched=sum(part.num_matched for part in parts),
        num_junk=sum(part.num_junk for part in parts),
        num_duplicates=sum(part.num_duplicates for part in parts),
        num_with_tools=sum(part.num_with_tools for part in parts),
        num_tools_unused=sum(part.num_tools_unused for part in parts),
        num_engine_mismatches=sum(part.num_engine_mismatches for part in parts),
        reference_version="+".join(sorted({part.reference_version for part in parts if part.reference_version})),
    )


def add_shares(merged: tokenizations_pb2.TokenizationStatistics) -> None:
    """Compute the shares of what was counted."""
    documents = merged.num_documents - count_dropped(merged)
    merged.unknown_share = _share(merged.num_unknown, merged.num_tokens)
    merged.truncated_share = _share(merged.num_truncated, documents)
    merged.padded_share = _share(merged.num_padded, merged.num_tokens + merged.num_padded)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def count_dropped(counted: tokenizations_pb2.TokenizationStatistics) -> int:
    """Return the total number of documents that were dropped."""
    filtered = (
        counted.num_null_dropped,
        counted.num_too_short,
        counted.num_too_long,
        counted.num_unmatched,
        counted.num_matched,
        counted.num_junk,
        counted.num_duplicates,
    )
    return sum(filtered)
