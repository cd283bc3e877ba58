"""Render records as tables."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from polytok.cli.render import json_documents
from polytok.client import resource_names, watch_stream
from polytok.extractor.v1 import extractions_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.table import Table

    from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
    from polytok.cli.render.output import Output

UNDEFINED = "–"  # noqa: RUF001  the dash of tables
"""Shown for an undefined figure, such as a ratio with the divisor 0."""
_COLOURS = {"READY": "green", "ERROR": "red", "CANCELLED": "yellow", "PENDING": "dim", "QUEUED": "dim"}


def state(record: watch_stream.Record) -> str:
    """Return the state in its colour, with the percentage while work is in progress."""
    word = watch_stream.state(record)
    percent = getattr(record, "progress", 0.0)
    shown = f"{word} {percent:.0f} %" if not watch_stream.is_terminal(record) and percent else word
    return f"[{colour(record)}]{shown}[/]"


def colour(record: watch_stream.Record) -> str:
    """Return the colour of a record's state."""
    return _COLOURS.get(watch_stream.state(record), "cyan")


def datasets(out: Output, records: Sequence[datasets_pb2.Dataset]) -> Table:
    """Return the list of datasets."""
    table = out.table("dataset", "state", "rows#", "size#", "shards#", "columns", "created")
    for each in records:
        columns = ", ".join(column.name for column in each.columns)
        table.add_row(
            resource_names.short(each.name),
            state(each),
            count(each.num_samples),
            size(each.size_bytes),
            count(each.num_shards),
            escape(columns),
            moment(each.create_time),
        )
    return table


def models(out: Output, records: Sequence[models_pb2.Model]) -> Table:
    """Return the list of models."""
    table = out.table("model", "state", "vocabulary#", "context#", "architecture", "repository")
    for each in records:
        table.add_row(
            resource_names.short(each.name),
            state(each),
            count(each.vocab_size),
            count(each.context_length),
            escape(each.architecture),
            escape(each.repo_id),
        )
    return table


def tokenizations(out: Output, records: Sequence[tokenizations_pb2.Tokenization]) -> Table:
    """Return the list of tokenizations."""
    headings = (
        "dataset",
        "model",
        "state",
        "sequences#",
        "tokens#",
        "average length#",
        "cut#",
        "vocabulary#",
        "files#",
    )
    table = out.table(*headings)
    for each in records:
        table.add_row(
            resource_names.short(each.dataset),
            model_of(each),
            state(each),
            count(each.statistics.num_sequences),
            count(each.statistics.num_tokens),
            f"{each.statistics.avg_seq_length:,.1f}" if each.statistics.num_sequences else "",
            count(each.statistics.num_truncated),
            count(each.vocab_size),
            count(each.statistics.num_files),
        )
    return table


def model_of(record: tokenizations_pb2.Tokenization) -> str:
    """Return the model and the variant of a tokenization."""
    return resource_names.short(record.model) + (f"~{record.variant}" if record.variant else "")


def extractions(out: Output, records: Sequence[extractions_pb2.Extraction]) -> Table:
    """Return the list of extractions."""
    headings = ("extraction", "dataset", "model", "state", "hooks", "tokens#", "size#", "format", "seconds#")
    table = out.table(*headings)
    for each in records:
        hooks = list(each.parameters.hooks)
        stored = extractions_pb2.NumberFormat.Name(each.parameters.storage_format)
        table.add_row(
            resource_names.short(each.name),
            resource_names.short(each.dataset),
            resource_names.short(each.model) + (f"~{each.variant}" if each.variant else ""),
            state(each),
            escape(hooks[0] + (f" and {len(hooks) - 1} more" if len(hooks) > 1 else "")),
            count(each.statistics.num_tokens),
            size(each.statistics.size_bytes),
            stored.removeprefix("NUMBER_FORMAT_").lower(),
            f"{each.statistics.seconds:,.1f}" if each.statistics.seconds else "",
        )
    return table


def show_estimate(out: Output, found: extractions_pb2.EstimateExtractionResponse) -> None:
    """Print the estimate of an extraction."""
    document = json_documents.record(found)
    document["duration"] = found.duration.seconds
    free = f", {size(found.free_bytes)} free" if found.free_bytes else ""
    facts = [
        ("tokens", f"{found.num_tokens:,} in {found.num_sequences:,} sequences"),
        ("on the disk", f"{size(found.size_bytes)}{free}"),
        ("memory", f"{size(found.peak_memory_bytes)} at most, {size(found.model_bytes)} of it the model"),
        ("speed", f"{found.tokens_per_second:,.0f} tokens a second on {found.device}"),
        ("time", f"{datetime.timedelta(seconds=found.duration.seconds)} with one worker"),
        ("batches", f"{found.batch_tokens:,} tokens in a forward pass"),
    ]
    out.result(document, out.facts("estimate", facts))


def details(out: Output, record: Any, document: dict[str, Any]) -> Table:
    """Return all fields of a record that are set."""
    pairs = [("state", state(record))]
    statistics = getattr(record, "statistics", None)
    is_empty = statistics is not None and not getattr(statistics, "num_tokens", 0)
    for name, value in _flat(document):
        # A share of 0 is information.
        is_shown = name.endswith("_share") or value not in (None, "", 0, 0.0, [], {})
        # error_reason and error_message have these values too.
        if is_shown and name not in {"name", "state", "error.reason", "error.message"}:
            # A share of nothing is undefined.
            shown = UNDEFINED if is_empty and name.endswith("_share") else _shown(name, value)
            pairs.append((name, escape(shown)))
    return out.facts(record.name, pairs)


def failure(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of a record's error other than its message."""
    error = document["error"] or {}
    pairs = [(f"error.{name}", error.get(name)) for name in ("kind", "violations", "metadata")]
    return [(name, escape(_shown(name, value))) for name, value in pairs if value]


def _flat(document: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in document.items():
        if isinstance(value, dict) and name != "metadata":
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(_LISTS.get(name.rpartition(".")[2], _items)(value))
    if isinstance(value, dict):
        return "\n".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(name, value) if isinstance(value, int | float) else str(value)


def _number(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return f"{value:,} ({size(value)})"
    if name.endswith("_share"):
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _spans(histogram: list[int]) -> Iterator[str]:
    """Yield the counts of lengths, by powers of two."""
    for place, number in enumerate(histogram):
        if number:
            span = str(place) if place < 2 else f"{1 << (place - 1):,} to {(1 << place) - 1:,}"
            yield f"{span} tokens: {number:,}"


def _frequencies(tokens: list[dict[str, Any]]) -> Iterator[str]:
    """Yield tokens, the most frequent first."""
    for each in tokens:
        yield f"{each['id']} {each['piece']!r}: {each['count']:,} ({percent(each['share'])})"


def _items(items: list[Any]) -> Iterator[str]:
    yield from map(_item, items)


def _hooks(hooks: list[Any]) -> Iterator[str]:
    """Yield hooks by name, or with their statistics."""
    for each in hooks:
        if isinstance(each, str):
            yield each
            continue
        odd = {"dead": each["num_dead_dimensions"], "outliers": each["num_outlier_dimensions"]}
        odd["NaN or infinite"] = each["num_nonfinite"]
        oddities = "".join(f", {number:,} {what}" for what, number in odd.items() if number)
        kurtosis = UNDEFINED if each["kurtosis"] is None else f"{each['kurtosis']:.3g}"
        yield (
            f"{each['hook']}: width {each['width']:,}, mean {each['mean']:.4g}, variance {each['variance']:.4g}, "
            f"kurtosis {kurtosis}, {each['min']:.4g} to {each['max']:.4g}, norm {each['mean_norm']:.4g}" + oddities
        )


_LISTS: Mapping[str, Callable[[list[Any]], Iterator[str]]] = {
    "length_histogram": _spans,
    "most_frequent_tokens": _frequencies,
    "hooks": _hooks,
}


def percent(share: float) -> str:
    """Return a share from 0 to 1 as a percentage."""
    return f"{100 * share:.2f} %" if share >= 0.0001 or not share else "under 0.01 %"


def rate(count: int, seconds: float) -> str:
    """Return a rate per second; undefined if the measured time is 0."""
    return f"{count / seconds:,.0f}" if seconds > 0 else UNDEFINED


def _item(item: Any) -> str:
    return " ".join(str(value) for value in item.values()) if isinstance(item, dict) else str(item)


def count(number: int) -> str:
    """Return a number with separators; empty for 0."""
    return f"{number:,}" if number else ""


def size(number: float) -> str:
    """Return a number of bytes in a readable unit; empty for 0."""
    if not number:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def moment(timestamp: Any) -> str:
    """Return a local date and time."""
    if not timestamp.seconds:
        return ""
    return f"{datetime.datetime.fromtimestamp(timestamp.seconds, datetime.UTC).astimezone():%Y-%m-%d %H:%M}"
