"""What a user reads when there is no resource of a name: close names, and the command that lists them."""

import difflib
from collections.abc import Sequence

from polytok import errors
from services.catalog.server.domain import names


def dataset(identifier: str, known: Sequence[str]) -> errors.NotFound:
    """Tell that there is no such dataset."""
    return _missing("dataset", names.dataset(identifier), identifier, known)


def model(identifier: str, known: Sequence[str]) -> errors.NotFound:
    """Tell that there is no such model."""
    return _missing("model", names.model(identifier), identifier, known)


def tokenization(name: names.TokenizationName, known: Sequence[str]) -> errors.NotFound:
    """Tell that a dataset has no such tokenization; `known` are the models and variants that it has."""
    asked = name.model + (f"~{name.variant}" if name.variant else "")
    close = _close(asked, known)
    variant = f" --variant {name.variant}" if name.variant else ""
    resource = names.tokenization(*name)
    return errors.NotFound(
        f"{resource} does not exist.{close} `polytok tokenize {name.dataset} --model {name.model}{variant}` makes it; "
        f"`polytok tokenization list {name.dataset}` shows what there is.",
        metadata={"resource": resource},
    )


def column(
    dataset_name: str, asked: str, known: Sequence[str], *, field: str = "text_column"
) -> errors.InvalidArgument:
    """Tell that a dataset has no such column."""
    listed = ", ".join(known)
    message = f"{dataset_name} has no column {asked!r}; it has: {listed}.{_close(asked, known)}"
    return errors.InvalidArgument(
        message,
        reason="COLUMN_NOT_FOUND",
        metadata={"columns": listed[:500]},
        violations=[errors.FieldViolation(f"parameters.{field}", message)],
    )


def source_column(source: str, asked: str, known: Sequence[str]) -> errors.NotFound:
    """Return the error for a column to read that a source does not have."""
    listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    message = f"{source} has no column {asked!r}; it has: {listed}.{_close(asked, known)} Set columns to some of these."
    return errors.NotFound(
        message,
        reason="COLUMN_NOT_FOUND",
        metadata={"columns": listed[:500]},
        violations=[errors.FieldViolation("dataset.source.columns", message)],
    )


def _missing(kind: str, resource: str, identifier: str, known: Sequence[str]) -> errors.NotFound:
    return errors.NotFound(
        f"No {kind} is called {identifier!r}.{_close(identifier, known)} "
        f"`polytok {kind} list` shows the {kind}s that exist.",
        metadata={"resource": resource},
    )


def _close(asked: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(asked, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
