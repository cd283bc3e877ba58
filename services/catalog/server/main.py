"""`python -m services.catalog serve`: configuration, logging, resources, then serving until a signal comes."""

import contextlib

from services.catalog.server.app import CatalogApp
from services.catalog.server.settings import SERVICE_NAME, CatalogSettings
from services.records import app
from services.runtime import settings
from services.runtime.process import StopSignal
from services.runtime.storage import Storage


async def main(stop: StopSignal) -> None:
    """Serve the catalog."""

    def make(server: settings.ServerSettings, _: contextlib.AsyncExitStack) -> CatalogApp:
        return CatalogApp(
            database=settings.DatabaseSettings(),
            messages=settings.MessagingSettings(),
            storage=Storage(settings.StorageSettings().root),
            server=server,
            jobs=settings.JobSettings(),
            settings=CatalogSettings(),
        )

    await app.serve(stop, make, telemetry=settings.TelemetrySettings(), name=SERVICE_NAME)
