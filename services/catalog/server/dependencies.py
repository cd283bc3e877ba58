"""What every servicer of the catalog is made of."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import field_mask_pb2

from polytok import errors
from services.jobs.store import JobStore
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import IdempotentTransactions
from services.records.watch import Watch
from services.runtime.database import Database
from services.runtime.storage import Storage

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Dependencies:
    """The resources of one catalog process."""

    database: Database
    storage: Storage
    store: JobStore
    folders: StorageFolders
    watch: Watch
    transactions: IdempotentTransactions


def check_mask(mask: field_mask_pb2.FieldMask) -> None:
    """Refuse to change anything but metadata (AIP-134)."""
    for path in mask.paths:
        if path not in {"metadata", "*"}:
            description = f"{path!r} cannot be changed; only 'metadata' can."
            raise errors.InvalidArgument(
                f"update_mask: {description}", violations=[errors.FieldViolation("update_mask", description)]
            )


def depended_on(resource: str, dependents: list[str]) -> errors.FailedPrecondition:
    """Return which tokenizations a deletion would take along."""
    count = len(dependents)
    what = "1 tokenization" if count == 1 else f"{count} tokenizations"
    shown = ", ".join(dependents[:3]) + (", …" if count > 3 else "")
    kind, _, identifier = resource.partition("/")
    return errors.FailedPrecondition(
        f"{resource} has {what} ({shown}); delete {'it' if count == 1 else 'them'} first, or all of it with "
        f"`polytok {kind.removesuffix('s')} delete {identifier} --force`.",
        reason="RESOURCE_HELD",
        metadata={"resource": resource, "holders": ", ".join(dependents)[:1000]},
    )
