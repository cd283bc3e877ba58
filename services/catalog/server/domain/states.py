"""The states of the catalog's resources, and which calls fit which."""

from services.records.lifecycle import Lifecycle, shown_progress

__all__ = ["DATASET", "MODEL", "REPAIR", "TOKENIZATION", "Lifecycle", "shown_progress"]

DATASET = Lifecycle(
    first="PENDING",
    live=frozenset({"PENDING", "DOWNLOADING", "PROCESSING"}),
    terminal=frozenset({"READY", "ERROR", "CANCELLED"}),
    making="being read in",
    wait="polytok dataset watch {}",
    retry="polytok dataset retry {}",
)
MODEL = Lifecycle(
    first="PENDING",
    live=frozenset({"PENDING"}),
    terminal=frozenset({"READY", "ERROR"}),
    making="being inspected",
    wait="polytok model watch {}",
    retry="polytok model retry {}",
)
TOKENIZATION = Lifecycle(
    first="QUEUED",
    live=frozenset({"QUEUED", "PROCESSING"}),
    terminal=frozenset({"READY", "ERROR", "CANCELLED"}),
    making="being made",
    wait="polytok tokenization watch {}",
    retry="polytok tokenization retry {}",
)
REPAIR = Lifecycle(
    first="QUEUED",
    live=frozenset({"QUEUED", "PROCESSING"}),
    terminal=frozenset({"DONE", "ERROR", "CANCELLED"}),
    making="being repaired",
    wait="polytok tokenization repair {}",
    retry="polytok tokenization repair {}",
)
