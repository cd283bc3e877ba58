"""What an extraction would take, for people and for scripts."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from polytok.cli.render import json_documents, tables

if TYPE_CHECKING:
    from polytok.cli.render.output import Output
    from polytok.extractor.v1.extractions_pb2 import EstimateExtractionResponse


def show(out: Output, found: EstimateExtractionResponse) -> None:
    """Print an estimate."""
    document = json_documents.record(found)
    document["duration"] = found.duration.seconds
    free = f", {tables.size(found.free_bytes)} free" if found.free_bytes else ""
    facts = [
        ("tokens", f"{found.num_tokens:,} in {found.num_sequences:,} sequences"),
        ("on the disk", f"{tables.size(found.size_bytes)}{free}"),
        ("memory", f"{tables.size(found.peak_memory_bytes)} at most, {tables.size(found.model_bytes)} of it the model"),
        ("speed", f"{found.tokens_per_second:,.0f} tokens a second on {found.device}"),
        ("time", f"{datetime.timedelta(seconds=found.duration.seconds)} with one worker"),
        ("batches", f"{found.batch_tokens:,} tokens in a forward pass"),
    ]
    out.result(document, out.facts("estimate", facts))
