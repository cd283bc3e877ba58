"""Who reads a tokenization right now (`services.runtime.records.holds`)."""

from services.catalog import tables
from services.runtime.records.holds import Holds

_holds = Holds(tables.tokenization_holds)
hold = _holds.hold
release = _holds.release
holders = _holds.holders
forget = _holds.forget
