"""Verify a tokenization: its files match its manifest byte for byte, and each other."""

import hashlib
import json
import posixpath
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from polytok import errors, manifests
from polytok.tokenizer.v1 import answers_pb2, tokenizer_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Entry, Storage
from services.runtime.throttle import Throttle
from services.tokenizer.checks import document_check
from services.tokenizer.checks.document_check import Finding
from services.tokenizer.models import loader

_MOST_FINDINGS = 1000
_MOST_UNKNOWN_FILES = 20
_LONGEST_PATH = 255
_CHUNK_BYTES = 1 << 20
_REPORT_SECONDS = 0.2
_LARGEST = (1 << 31) - 1
_REQUIRED = {manifests.STATE: manifests.state((), "").keys(), manifests.INFO: manifests.info({}).keys()}


def verify(
    task: answers_pb2.VerifyTask, storage: Storage, tokenizers: loader.TokenizerCache, context: TaskContext
) -> tokenizer_pb2.VerifyResult:
    """Read every file, and encode a sample again if requested."""
    folder = _key(storage, task.tokenized_path)
    result = tokenizer_pb2.VerifyResult()
    replaced = replaced_folder(storage, folder)
    if replaced is not None:
        result.findings.append(replaced)
        return result
    manifest = read_manifest(storage, folder, task.manifest_digest, result)
    if manifest is None:
        return result
    _report_unknown_files(storage, folder, manifest, result)
    files = _Files(storage, folder, context, result)
    total = sum(file["size_bytes"] for file in manifest["files"])
    whole = [file for file in manifest["files"] if files.check(file, total)]
    check_sidecars(storage, folder, manifest, task.manifest_digest, whole, result)
    if whole and (task.sample or task.every_document):
        sampled = document_check.DocumentCheck(manifest, storage, folder, _key(storage, task.raw_path), tokenizers)
        size = None if task.every_document else task.sample
        findings, count = sampled.check(whole, size, _reporting(context, total))
        result.sampled_documents = min(count, _LARGEST)
        result.findings.extend(findings)
    del result.findings[_MOST_FINDINGS:]
    return result


def _report_unknown_files(
    storage: Storage, folder: str, manifest: dict[str, Any], result: tokenizer_pb2.VerifyResult
) -> None:
    listed = {*manifests.NAMES, *(file["name"] for file in manifest["files"])}
    paths = [key.removeprefix(f"{folder}/") for key in storage.list(folder)]
    unknown = [path for path in paths if path not in listed]
    result.num_unknown_files = min(len(unknown), _LARGEST)
    result.unknown_files.extend(_printable(path)[:_LONGEST_PATH] for path in unknown[:_MOST_UNKNOWN_FILES])


def _printable(path: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in path)


def _reporting(context: TaskContext, total_bytes: int) -> document_check.Report:
    """Return a callback that reports the number of encoded documents a few times a second."""
    throttle = Throttle(_REPORT_SECONDS)

    def report(done: int, total: int) -> None:
        if throttle.ready():
            context.record(
                tokenizer_pb2.VerifyProgress(
                    done_bytes=total_bytes, total_bytes=total_bytes, done_documents=done, total_documents=total
                )
            )

    return report


def _key(storage: Storage, path: str) -> str:
    """Return the storage key of a path or URI from the catalog."""
    root = storage.uri("x")[:-1]
    if not path.startswith(root):
        raise errors.FailedPrecondition(
            f"{path} is outside the storage of this worker, {root}. Set POLYTOK_STORAGE_ROOT of the worker to "
            "the catalog's value.",
            reason="PATH_OUTSIDE_ROOT",
        )
    return path.removeprefix(root)


def read_manifest(
    storage: Storage, folder: str, digest: str, result: tokenizer_pb2.VerifyResult
) -> dict[str, Any] | None:
    """Read `polytok.json`; return None and a finding if its digest differs."""
    key = f"{folder}/{manifests.NAME}"
    replaced = replaced_file(storage, key, "Without it no other file can be verified.")
    if replaced is not None:
        result.findings.append(replaced)
        return None
    if not storage.exists(key):
        result.findings.append(missing_finding(manifests.NAME, "Without it no other file can be verified."))
        return None
    data = storage.read_bytes(key)
    result.num_files, result.size_bytes = 1, len(data)
    content = manifests.decode_checked(data, digest)
    if content is None:
        message = (
            f"{manifests.NAME} has the sha256 {manifests.digest(data)[:12]}…, but the catalog expects "
            f"{digest[:12]}…. Without it no other file can be verified."
        )
        result.findings.append(Finding(kind=Finding.KIND_WRONG_CHECKSUM, file=manifests.NAME, message=message))
    return content


def missing_finding(name: str, more: str = "") -> Finding:
    """Return the finding for a missing file."""
    return Finding(kind=Finding.KIND_MISSING, file=name, message=f"{name} is missing. {more}".strip())


def replaced_folder(storage: Storage, folder: str) -> Finding | None:
    """Return the finding if the folder is not a folder of the storage, such as a link to another one."""
    try:
        entry = storage.entry(folder)
    except errors.DataLoss as error:
        return Finding(kind=Finding.KIND_NOT_A_FILE, message=error.message)
    if entry in {Entry.FOLDER, Entry.NONE, None}:
        return None
    message = f"The tokenization's folder was replaced by {entry.value}, which is not followed or read."
    return Finding(kind=Finding.KIND_NOT_A_FILE, message=message)


def replaced_file(storage: Storage, key: str, more: str = "") -> Finding | None:
    """Return the finding if a file was replaced by something else, such as a link."""
    entry = storage.entry(key)
    if entry in {Entry.FILE, Entry.NONE, None}:
        return None
    name = posixpath.basename(key)
    message = f"{name} is {entry.value} instead of a file; it is not followed or read. {more}".strip()
    return Finding(kind=Finding.KIND_NOT_A_FILE, file=name, message=message)


class _Files:
    """Reads the Arrow files, one after another."""

    def __init__(self, storage: Storage, folder: str, context: TaskContext, result: tokenizer_pb2.VerifyResult) -> None:
        self._storage = storage
        self._folder = folder
        self._context = context
        self._result = result
        self._done = 0

    def check(self, file: dict[str, Any], total: int) -> bool:
        """Read a file of the manifest; return whether it is what was written."""
        try:
            finding = self._finding(file, total)
        except errors.NotFound:
            finding = missing_finding(file["name"])
        self._done += file["size_bytes"]
        self._context.report(self._done, total)
        if finding is not None:
            self._result.findings.append(finding)
        return finding is None

    def _finding(self, file: dict[str, Any], total: int) -> Finding | None:
        key = f"{self._folder}/{file['name']}"
        finding, size = check_file(
            self._storage,
            key,
            file["size_bytes"],
            file["sha256"],
            lambda read: self._context.report(min(self._done + read, total), total),
        )
        self._result.num_files += finding is None or finding.kind != Finding.KIND_NOT_A_FILE
        self._result.size_bytes += size
        return finding


def check_file(
    storage: Storage, key: str, size_bytes: int, sha256: str, report: Callable[[int], None]
) -> tuple[Finding | None, int]:
    """Read a file; return what is wrong with it, if anything, and its size. Raises NotFound."""
    replaced = replaced_file(storage, key)
    if replaced is not None:
        return replaced, 0
    name = posixpath.basename(key)
    digest, size = hashlib.sha256(), 0
    with storage.open(key) as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            report(size)
    if size != size_bytes:
        change = "shorter" if size < size_bytes else "longer"
        message = f"{name} has {size:,} bytes, but {size_bytes:,} were written: it became {change}."
        return Finding(kind=Finding.KIND_WRONG_SIZE, file=name, message=message), size
    if digest.hexdigest() != sha256:
        message = (
            f"{name} has the sha256 {digest.hexdigest()[:12]}…, but {sha256[:12]}… was written: its bytes were changed."
        )
        return Finding(kind=Finding.KIND_WRONG_CHECKSUM, file=name, message=message), size
    return None, size


def check_sidecars(
    storage: Storage,
    folder: str,
    manifest: dict[str, Any],
    digest: str,
    whole: list[dict[str, Any]],
    result: tokenizer_pb2.VerifyResult,
) -> None:
    """Compare the files without a checksum with the content that the other files imply."""
    state = _read(storage, folder, manifests.STATE, result)
    if state is not None and state != manifests.state((file["name"] for file in manifest["files"]), digest):
        result.findings.append(
            inconsistent_finding(manifests.STATE, f"it does not list the files as {manifests.NAME} does")
        )
    info = _read(storage, folder, manifests.INFO, result)
    if info is not None and whole:
        with storage.open(f"{folder}/{whole[0]['name']}") as file, pa.ipc.open_stream(file) as stream:
            columns = json.loads(stream.schema.metadata[b"huggingface"])["info"]["features"]
        if info["features"] != columns:
            result.findings.append(
                inconsistent_finding(manifests.INFO, f"it describes other columns than {whole[0]['name']} has")
            )


def _read(storage: Storage, folder: str, name: str, result: tokenizer_pb2.VerifyResult) -> dict[str, Any] | None:
    replaced = replaced_file(storage, f"{folder}/{name}")
    if replaced is not None:
        result.findings.append(replaced)
        return None
    if not storage.exists(f"{folder}/{name}"):
        result.findings.append(missing_finding(name))
        return None
    data = storage.read_bytes(f"{folder}/{name}")
    result.num_files += 1
    result.size_bytes += len(data)
    try:
        content = json.loads(data)
    except ValueError as error:
        result.findings.append(inconsistent_finding(name, f"it cannot be read as JSON ({error})"))
        return None
    if not isinstance(content, dict) or not _REQUIRED[name] <= content.keys():
        result.findings.append(inconsistent_finding(name, "some of its content is missing"))
        return None
    return content


def inconsistent_finding(name: str, why: str) -> Finding:
    """Return the finding for a file that does not match the others."""
    return Finding(kind=Finding.KIND_INCONSISTENT, file=name, message=f"{name} was changed: {why}.")
