"""Scan JSON of any size without loading it: find where values begin and end, and on which line.

Only brackets and quotation marks count here; the reader of a value checks its content.
"""

import re

from polytok import errors
from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources.utf8 import Utf8

_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_AFTER_SCALAR = re.compile(rb"[,\]} \t\r\n]")
_BACKSLASH = ord("\\")


class _Nesting:
    """The scanner's position within the nesting of a value."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._quoted = False

    def end(self, data: bytes, at: int) -> int:
        """Continue at `at`; return the position after the value, or -1 if the data ends before it does."""
        while True:
            if self._quoted:
                at = _quotation_end(data, at)
                if at < 0:
                    return -1
                self._quoted = False
            else:
                found = _STRUCTURE.search(data, at)
                if found is None:
                    return -1
                at = found.end()
                self._enter(found[0])
            if not self._quoted and not self._depth:
                return at

    def _enter(self, character: bytes) -> None:
        if character == b'"':
            self._quoted = True
        else:
            self._depth += 1 if character in b"{[" else -1


class TooLong(errors.InvalidArgument):
    """Raised when a value is too long to be a row."""


class Scanner:
    """A position in a JSON text, which only moves forward."""

    def __init__(self, source: Utf8, name: str) -> None:
        self.line = 1
        """The line of the position."""
        self._source = source
        self._name = name
        self._data = b""
        self._place = 0

    def peek(self) -> bytes:
        """Move to the next non-blank character and return it; empty at the end."""
        while True:
            if found := _NOT_BLANK.search(self._data, self._place):
                self._go(found.start())
                return found[0]
            self._go(len(self._data))
            if not self._more():
                return b""

    def take(self, *expected: bytes) -> bytes:
        """Consume the next non-blank character, which must be one of these."""
        found = self.peek()
        if found not in expected:
            wanted = " or ".join(repr(each.decode()) for each in expected)
            raise self.wrong(f"expected {wanted}, found {self._shown(found)}. Fix the file.")
        self._go(self._place + 1)
        return found

    def value(self) -> bytes:
        """Consume and return the object, array or string that begins here. It may be as long as a row."""
        return self._passed(_Nesting(0), kept=True)

    def skip(self, *, within: int = 0) -> None:
        """Skip the value that begins here, or the rest of `within` arrays or objects, of any length."""
        if within or self.peek() in (b"{", b"[", b'"'):
            self._passed(_Nesting(within), kept=False)
            return
        while (found := _AFTER_SCALAR.search(self._data, self._place)) is None:
            self._go(len(self._data))
            if not self._more():
                return
        self._go(found.start())

    def wrong(self, problem: str) -> errors.PolytokError:
        """Return an error about this position."""
        return source_errors.invalid(f"{self._name}, line {self.line}: {problem}")

    def _passed(self, nesting: _Nesting, *, kept: bool) -> bytes:
        at = self._place
        while (end := nesting.end(self._data, at)) < 0:
            self._check_length(len(self._data), kept=kept)
            if not kept:
                self._go(_whole_escapes(self._data, self._place))
            held = len(self._data) - self._place
            if not self._more():
                raise self.wrong("the file ends inside a value that begins here or earlier. Copy it again.")
            at = held
        self._check_length(end, kept=kept)
        value = self._data[self._place : end] if kept else b""
        self._go(end)
        return value

    def _check_length(self, end: int, *, kept: bool) -> None:
        if kept and end - self._place > limits.ROW_BYTES:
            raise TooLong(
                f"{self._name}, line {self.line}: an object begins here that is longer than the row limit of"
                f" {limits.ROW_BYTES >> 20} MiB. Split it.",
                reason="SOURCE_INVALID",
            )

    def _go(self, place: int) -> None:
        self.line += self._data.count(b"\n", self._place, place)
        self._place = place

    def _more(self) -> bool:
        chunk = self._source.read(limits.BLOCK_BYTES)
        self._data = self._data[self._place :] + chunk
        self._place = 0
        return bool(chunk)

    def _shown(self, found: bytes) -> str:
        return repr(found.decode(errors="replace")) if found else "the end of the file"


def _quotation_end(data: bytes, at: int) -> int:
    while (quote := data.find(b'"', at)) >= 0:
        if not quote or data[quote - 1] != _BACKSLASH or (quote - _before_backslashes(data, quote)) % 2 == 0:
            return quote + 1
        at = quote + 1
    return -1


def _before_backslashes(data: bytes, end: int) -> int:
    while end and data[end - 1] == _BACKSLASH:
        end -= 1
    return end


def _whole_escapes(data: bytes, begin: int) -> int:
    """Return the last position from which the data can be parsed: not between a backslash and what it escapes."""
    backslashes = len(data) - max(_before_backslashes(data, len(data)), begin)
    return len(data) - backslashes % 2
