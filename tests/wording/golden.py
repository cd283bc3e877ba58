"""The golden files and what they should hold."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from tests.wording import commands, surfaces

FOLDER = pathlib.Path(__file__).parent

SURFACES: dict[str, Callable[[], str]] = {
    "help": commands.shown,
    "messages": surfaces.messages,
    "log_events": surfaces.log_events,
    "settings": surfaces.settings,
    "metrics": surfaces.metrics,
}


def path(surface: str) -> pathlib.Path:
    """Return the golden file of a surface."""
    return FOLDER / f"{surface}.txt"
