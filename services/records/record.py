"""What every record has."""

import uuid
from datetime import datetime
from typing import Any, Protocol


class Record(Protocol):
    """A row that a server owns, with a resource name, a state and an etag."""

    @property
    def id(self) -> Any:
        """The uid."""

    @property
    def resource(self) -> str:
        """The resource name."""

    @property
    def etag(self) -> str:
        """The version, which changes with every change."""

    @property
    def status(self) -> str:
        """The state."""

    @property
    def progress(self) -> float:
        """Percent done."""

    @property
    def job_id(self) -> uuid.UUID | None:
        """The last job that worked on it."""

    @property
    def created_at(self) -> datetime:
        """When it was created."""
