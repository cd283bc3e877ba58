"""Etags (AIP-154): a change applies to the version that the caller read, or fails."""

import hashlib
from datetime import datetime
from typing import Protocol

from polytok import errors


class _Tagged(Protocol):
    @property
    def resource(self) -> str: ...

    @property
    def etag(self) -> str: ...


def make(uid: object, updated_at: datetime) -> str:
    """Change with every change of a record; progress is no change."""
    return hashlib.sha256(f"{uid} {updated_at.timestamp():.6f}".encode()).hexdigest()[:16]


def check(record: _Tagged, etag: str) -> None:
    """Refuse a change of something other than what the caller has read."""
    if etag and etag != record.etag:
        raise errors.Aborted(
            f"{record.resource} changed since you read it; read it again and repeat the change.",
            reason="ETAG_MISMATCH",
            metadata={"resource": record.resource},
        )
