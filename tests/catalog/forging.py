"""Tokenizations that are wrong although every checksum is right, in the files as in the database."""

import hashlib
import json
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import answers_pb2, tokenizer_pb2
from services.catalog.server import tables
from services.jobs.task_process_main import TaskContext
from services.tokenizer.checks import verification
from services.tokenizer.models import loader
from tests.catalog import harness

_records, _files = tables.dataset_tokenizations, tables.tokenization_files


def findings(catalog: harness.CatalogHarness, record: tokenizations_pb2.Tokenization, raw: str) -> list[str]:
    """Return what a verification of every document finds, as kinds and files."""
    task = answers_pb2.VerifyTask(
        tokenized_path=record.tokenized_path, manifest_digest=record.manifest_digest, raw_path=raw, every_document=True
    )
    context = TaskContext(str(uuid.uuid4()), 1, b"", lambda _: None)
    result = verification.verify(task, catalog.storage, loader.TokenizerCache(1), context)
    kinds = tokenizer_pb2.VerifyFinding.Kind
    return [f"{kinds.Name(each.kind).removeprefix('KIND_')} {each.file}" for each in result.findings]


async def forge_ids(catalog: harness.CatalogHarness, record: tokenizations_pb2.Tokenization, place: int) -> str:
    """Change one id of one of the Arrow files, and return the file's name."""
    folder = pathlib.Path(record.tokenized_path)
    manifest = json.loads((folder / "polytok.json").read_text())
    file = manifest["files"][place]
    path = folder / file["name"]
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        table = stream.read_all()
    rows = table["input_ids"].to_pylist()
    rows[-1][-1] ^= 1
    field = table.schema.field("input_ids")
    table = table.set_column(0, field, pa.array(rows, field.type))
    with path.open("wb") as written, pa.ipc.new_stream(written, table.schema) as stream:
        stream.write_table(table)
    data = path.read_bytes()
    values = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    async with catalog.database.transaction() as conn:
        await conn.execute(_files.update().where(_files.c.key.endswith(file["name"])).values(**values))
    await forge_manifest(catalog, record, lambda manifest: manifest["files"][place].update(values))
    return str(file["name"])


async def forge_manifest(
    catalog: harness.CatalogHarness, record: tokenizations_pb2.Tokenization, change: Callable[[dict[str, Any]], object]
) -> None:
    """Change the manifest, and its digest wherever it is recorded."""
    folder = pathlib.Path(record.tokenized_path)
    manifest = json.loads((folder / "polytok.json").read_text())
    change(manifest)
    data = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    (folder / "polytok.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_fingerprint": digest[:16]}, indent=2) + "\n")
    async with catalog.database.transaction() as conn:
        await conn.execute(_records.update().where(_records.c.id == record.uid).values(manifest_digest=digest))
