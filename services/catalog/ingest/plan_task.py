"""`ingest.plan`: list the parts of a source."""

from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources import formats, hub, locations, text_documents, uploaded_files
from services.catalog.server.domain import sources


def plan(task: tasks_pb2.PlanIngestTask) -> tasks_pb2.PlanIngestResult:
    """List the parts that can be read independently, in the order of their rows."""
    if task.source.WhichOneof("source") == "hub":
        parts = [tasks_pb2.IngestPart(hub=part) for part in hub.parts(task.source.hub)]
    elif task.source.WhichOneof("source") == "upload":
        parts = [
            tasks_pb2.IngestPart(upload=part) for part in uploaded_files.parts(task.source.upload, task.upload_key)
        ]
    elif _is_documents(task.source.files):
        parts = [tasks_pb2.IngestPart(documents=part) for part in text_documents.parts(_files(task.source.files))]
    else:
        parts = [tasks_pb2.IngestPart(file=part) for part in _files(task.source.files)]
    return tasks_pb2.PlanIngestResult(parts=parts)


def _is_documents(source: datasets_pb2.FileSource) -> bool:
    return source.text_rows == FileSource.TEXT_ROWS_FILE


def _files(source: datasets_pb2.FileSource) -> list[tasks_pb2.FilePart]:
    # A file that matches two patterns is read once.
    most = limits.DOCUMENTS if _is_documents(source) else limits.PARTS
    found = list(dict.fromkeys(file for uri in source.uris for file in locations.find(uri, source.format, most)))
    if len(found) > most:
        raise source_errors.invalid(
            f"The source has {len(found):,} files; the limit is {most:,}. Merge them into larger files."
        )
    parts = [
        tasks_pb2.FilePart(
            uri=file.uri,
            format=_format(file.uri, source.format),
            size_bytes=file.size_bytes,
            delimiter=source.delimiter,
            json_field=source.json_field,
            text_rows=source.text_rows,
            text_separator=source.text_separator,
        )
        for file in found
    ]
    _check_one_format(parts)
    sources.check_format_options("source.files", source, parts[0].format)
    if all(file.size_bytes == 0 for file in found) and "://" not in found[0].uri:
        raise source_errors.empty(empty_message([file.uri for file in found]))
    return parts


def empty_message(uris: list[str]) -> str:
    """Return the message about files without rows."""
    first = source_errors.redact_uri(uris[0])
    if len(uris) == 1:
        return f"{first} is empty. Use a file with at least one row."
    return f"All {len(uris)} files are empty, for example {first}. Use files with at least one row."


def _format(uri: str, chosen: formats.Format) -> formats.Format:
    by_name = chosen or formats.of_name(uri).format
    if not by_name:
        raise source_errors.invalid(
            f"{source_errors.redact_uri(uri)}: the file extension does not identify a format. Name the format, or use"
            f" one of {formats.known()}, optionally compressed as {', '.join(formats.COMPRESSIONS)}."
        )
    return by_name


def _check_one_format(parts: list[tasks_pb2.FilePart]) -> None:
    by_kind: dict[formats.Format, tasks_pb2.FilePart] = {}
    for part in parts:
        by_kind.setdefault(formats.kind(part.format), part)
    if len(by_kind) > 1:
        one, other, *_ = by_kind.values()
        raise source_errors.invalid(
            f"The source mixes formats: {source_errors.redact_uri(one.uri)} is {formats.display_name(one.format)},"
            f" {source_errors.redact_uri(other.uri)} is {formats.display_name(other.format)}. "
            "Register them as separate datasets."
        )
