"""The tasks `repair.check` and `repair.restore`: find files that are missing or damaged, and restore them.

What is restored is, byte for byte, what was written, so repeating it is harmless.
"""

import posixpath
from collections.abc import Iterator
from typing import Any

from polytok import errors, manifests
from polytok.tokenizer.v1 import repairs_pb2, tokenizer_pb2
from services.jobs.task_process_main import TaskContext
from services.records import publication
from services.runtime.storage import Storage
from services.tokenizer.checks import verification
from services.tokenizer.worker.tasks import publish_task


def check_files(
    task: repairs_pb2.CheckFilesTask, storage: Storage, context: TaskContext
) -> repairs_pb2.CheckFilesResult:
    """Read the files; return which are missing or have other bytes."""
    result = repairs_pb2.CheckFilesResult()
    total = sum(file.size_bytes for file in task.files)
    done = 0
    replaced = verification.replaced_folder(storage, task.tokenized_key)
    if replaced is not None:
        result.bad_keys.extend(file.key for file in task.files)
        result.messages.append(replaced.message)
        return result
    for file in task.files:
        before = done
        try:
            finding, _ = verification.check_file(
                storage,
                file.key,
                file.size_bytes,
                file.sha256,
                lambda size, before=before: context.report(min(before + size, total), total),  # type: ignore[misc]
            )
        except errors.NotFound:
            finding = verification.missing_finding(posixpath.basename(file.key))
        if finding is not None:
            result.bad_keys.append(file.key)
            result.messages.append(finding.message)
        done += file.size_bytes
        context.report(done, total)
    return result


def restore(
    task: repairs_pb2.RestoreFilesTask, storage: Storage, context: TaskContext
) -> repairs_pb2.RestoreFilesResult:
    """Move the rebuilt files to the places of the bad ones, and stage small files that are wrong."""
    result, found = repairs_pb2.RestoreFilesResult(), tokenizer_pb2.VerifyResult()
    folder, (made,) = task.publication.tokenized_key, task.publication.shards
    files = list(made.files)
    again = publish_task.build_manifest(task.publication, files, made.statistics)
    content: dict[str, bytes] = {}
    _clear_folder(storage, folder)
    manifest = verification.read_manifest(storage, folder, task.manifest_digest, found)
    if manifest is None:
        manifest = manifests.decode_checked(again, task.manifest_digest)
        result.manifest_lost = manifest is None
        if manifest is not None:
            content[manifests.NAME] = again
    elif task.made_all:
        found.findings.extend(_contradictions(manifest, manifests.decode(again)))
        result.manifest_lost = bool(found.findings)
    if not (task.made_all and result.manifest_lost):
        _put_back(task, storage, context)
    if manifest is not None and not result.manifest_lost:
        verification.check_sidecars(storage, folder, manifest, task.manifest_digest, manifest["files"], found)
        wrong = {finding.file for finding in found.findings}
        beside = publish_task.build_datasets_sidecars(task.publication, files, task.manifest_digest)
        content.update({name: data for name, data in beside.items() if name in wrong})
        for name in content:
            storage.clear(f"{folder}/{name}")
        result.staged_files.extend(
            publication.stage(storage, folder, name, data, context.tag) for name, data in content.items()
        )
    # Without the manifest nothing else can be verified, but it can be repaired.
    result.messages.extend(finding.message.split(" Without it", 1)[0] for finding in found.findings)
    return result


def _put_back(task: repairs_pb2.RestoreFilesTask, storage: Storage, context: TaskContext) -> None:
    for done, file in enumerate(task.files):
        storage.clear(file.final_key)
        publication.move(storage, [file])
        context.report(done + 1, len(task.files))


def _clear_folder(storage: Storage, folder: str) -> None:
    """Remove a link or a file that replaced the folder; the target of a link is not touched."""
    if verification.replaced_folder(storage, folder) is not None:
        storage.delete(folder)


def _contradictions(manifest: dict[str, Any], again: dict[str, Any]) -> Iterator[tokenizer_pb2.VerifyFinding]:
    """Yield contradictions between a manifest with a correct checksum and how the files were made."""
    for name in ("dataset_fingerprint", "parameters", "date", "files"):
        if _comparable(manifest.get(name)) != _comparable(again.get(name)):
            yield verification.inconsistent_finding(manifests.NAME, f"its {name} does not match the files")


def _comparable(said: Any) -> Any:
    # The reason for choosing a column affects no file, and tokenizations that share one may differ in it.
    return {**said, "column_choice": None} if isinstance(said, dict) else said
