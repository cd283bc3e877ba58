"""`python -m services.runtime.migrations MODULE…`: migrates the schemas of several services in one process.

Each module is a service's own, such as `services.catalog.server.migrations.schema`, and has a `runner`.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Sequence

from services.runtime import process
from services.runtime.migrations.runner import Runner
from services.runtime.process import StopSignal
from services.runtime.settings import DatabaseSettings, TelemetrySettings
from services.runtime.telemetry import logging


def main(modules: Sequence[str]) -> None:
    """Apply the missing revisions of each, one after the other, to the database of POLYTOK_DATABASE_URL."""

    async def migrate(_: StopSignal) -> None:
        logging.configure(TelemetrySettings(), "migrate")
        settings = DatabaseSettings()
        for module in modules:
            runner: Runner = importlib.import_module(module).runner
            root = os.environ.get("POLYTOK_STORAGE_ROOT", "")
            await asyncio.to_thread(runner.upgrade, settings, storage_root=root)

    process.run(migrate)


if __name__ == "__main__":
    main(sys.argv[1:])
