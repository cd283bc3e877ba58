"""States of records as enums, which compare equal to the numbers in messages: `record.state == states.Dataset.READY`.

`str(states.Dataset(record.state))` is the name.
"""

import enum


class _State(enum.IntEnum):
    def __str__(self) -> str:
        return self.name


class Dataset(_State):
    """States of `polytok.catalog.v1.Dataset`."""

    PENDING = 1
    DOWNLOADING = 2
    PROCESSING = 3
    READY = 4
    ERROR = 5
    CANCELLED = 6


class Model(_State):
    """States of `polytok.catalog.v1.Model`."""

    PENDING = 1
    READY = 2
    ERROR = 3


class Tokenization(_State):
    """States of `polytok.catalog.v1.Tokenization`."""

    QUEUED = 1
    PROCESSING = 2
    READY = 3
    ERROR = 4
    CANCELLED = 5


class Extraction(_State):
    """States of `polytok.extractor.v1.Extraction`."""

    QUEUED = 1
    PROCESSING = 2
    READY = 3
    ERROR = 4
    CANCELLED = 5


class Training(_State):
    """States of `polytok.trainer.v1.Training`."""

    QUEUED = 1
    PROCESSING = 2
    PAUSED = 3
    READY = 4
    ERROR = 5
    CANCELLED = 6
