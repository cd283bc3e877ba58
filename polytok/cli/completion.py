"""Names from the catalog, for the shell."""

from polytok.client import Client, watching
from polytok.client import names as resource_names


def names(collection: str, incomplete: str, seconds: float) -> list[tuple[str, str]]:
    """The ids of a collection that begin so, each with its state."""
    with Client(timeout=seconds, patience=0) as client:
        found = [
            (resource_names.short(record.name), watching.state(record)) for record in getattr(client, collection).list()
        ]
    return [(name, state) for name, state in found if name.startswith(incomplete)]
