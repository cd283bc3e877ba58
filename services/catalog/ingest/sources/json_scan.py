"""Goes through JSON of any size without taking it in: finds where values begin and end, and on which line.

What a value holds is for its reader to check; here, only brackets and quotations count.
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
    """How deep in a value its scanner is."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._quoted = False

    def end(self, data: bytes, at: int) -> int:
        """Go on from `at`; return the place after the value, or -1 if the data ends before it does."""
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
    """A value is too long to be a row."""


class Scanner:
    """A place in a text of JSON, which only goes forward."""

    def __init__(self, source: Utf8, name: str) -> None:
        self.line = 1
        """The line of the place."""
        self._source = source
        self._name = name
        self._data = b""
        self._place = 0

    def peek(self) -> bytes:
        """Go to the next character that is not blank and return it; nothing at the end."""
        while True:
            if found := _NOT_BLANK.search(self._data, self._place):
                self._go(found.start())
                return found[0]
            self._go(len(self._data))
            if not self._more():
                return b""

    def take(self, *expected: bytes) -> bytes:
        """Pass the next character that is not blank, which must be one of these."""
        found = self.peek()
        if found not in expected:
            wanted = " or ".join(repr(each.decode()) for each in expected)
            raise self.wrong(f"there should be {wanted}, and there is {self._shown(found)}. Mend the file.")
        self._go(self._place + 1)
        return found

    def value(self) -> bytes:
        """Pass the object, array or string that begins here and return it. It may be as long as a row."""
        return self._passed(_Nesting(0), kept=True)

    def skip(self, *, within: int = 0) -> None:
        """Pass the value that begins here, or the rest of so many arrays or objects, however long they are."""
        if within or self.peek() in (b"{", b"[", b'"'):
            self._passed(_Nesting(within), kept=False)
            return
        while (found := _AFTER_SCALAR.search(self._data, self._place)) is None:
            self._go(len(self._data))
            if not self._more():
                return
        self._go(found.start())

    def wrong(self, problem: str) -> errors.PolytokError:
        """Return an error about this place."""
        return source_errors.invalid(f"{self._name}, line {self.line}: {problem}")

    def _passed(self, nesting: _Nesting, *, kept: bool) -> bytes:
        at = self._place
        while (end := nesting.end(self._data, at)) < 0:
            self._check_length(len(self._data), kept=kept)
            if not kept:
                self._go(_whole_escapes(self._data, self._place))
            held = len(self._data) - self._place
            if not self._more():
                raise self.wrong("the file ends inside what begins here or before. Was it cut off? Copy it again.")
            at = held
        self._check_length(end, kept=kept)
        value = self._data[self._place : end] if kept else b""
        self._go(end)
        return value

    def _check_length(self, end: int, *, kept: bool) -> None:
        if kept and end - self._place > limits.ROW_BYTES:
            raise TooLong(
                f"{self._name}, line {self.line}: an object longer than {limits.ROW_BYTES >> 20} MiB, the most that a"
                " row may hold, begins here. Split it.",
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
    """Return the last place from which on the data can be understood: not between a backslash and what it escapes."""
    backslashes = len(data) - max(_before_backslashes(data, len(data)), begin)
    return len(data) - backslashes % 2
