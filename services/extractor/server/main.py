"""`python -m services.extractor serve`: configuration, logging, resources, then serving until a signal comes."""

import contextlib

from services.extractor.server.app import ExtractorApp
from services.extractor.server.settings import SERVICE_NAME, ExtractorSettings
from services.records import app
from services.runtime import settings
from services.runtime.process import StopSignal
from services.runtime.storage import Storage


async def main(stop: StopSignal) -> None:
    """Serve the extractor."""

    def make(server: settings.ServerSettings, opened: contextlib.AsyncExitStack) -> ExtractorApp:
        peers = settings.PeerSettings()
        return ExtractorApp(
            database=settings.DatabaseSettings(),
            messages=settings.MessagingSettings(),
            storage=Storage(settings.StorageSettings().root),
            server=server,
            jobs=settings.JobSettings(),
            settings=ExtractorSettings(),
            catalog=app.connect(opened, peers.catalog_address, peers, SERVICE_NAME),
        )

    await app.serve(stop, make, telemetry=settings.TelemetrySettings(), name=SERVICE_NAME)
