"""Who reads a tokenization right now (`services.records.holds`)."""

from services.catalog.server import tables
from services.records.holds import HoldStore

_holds = HoldStore(tables.tokenization_holds)
hold = _holds.hold
release = _holds.release
holders = _holds.holders
forget = _holds.forget
