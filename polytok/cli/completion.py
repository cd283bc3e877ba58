"""Names from the catalog, for the shell."""

from polytok.client import Client, resource_names, watch_stream

Found = list[tuple[str, str]]
"""What may stand there, and what is said of it."""


def names(collection: str, incomplete: str, seconds: float) -> Found:
    """Return the ids of a collection that begin so, each with its state."""
    with Client(timeout=seconds, patience=0) as client:
        found = [
            (resource_names.short(record.name), watch_stream.state(record))
            for record in getattr(client, collection).list()
        ]
    return _begun(found, incomplete)


def resources(dataset: str, incomplete: str, seconds: float) -> Found:
    """Return the tokenizations of a dataset that begin so, as `model` or `model~variant`, each with its state."""
    with Client(timeout=seconds, patience=0) as client:
        found = [
            (record.name.rpartition("/")[2], watch_stream.state(record))
            for record in client.tokenizations.list(dataset)
        ]
    return _begun(found, incomplete)


def _begun(found: Found, incomplete: str) -> Found:
    return [(name, told) for name, told in found if name.startswith(incomplete)]
