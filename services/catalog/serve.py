"""`python -m services.catalog serve`: configuration, logging, resources, then serving until a signal comes."""

from services.catalog.application import OWNER, Catalog
from services.catalog.settings import CatalogSettings
from services.runtime import process, settings
from services.runtime.process import Stopping
from services.runtime.storage import Storage
from services.runtime.telemetry import endpoint, logging, tracing


async def main(stop: Stopping) -> None:
    """Serves the catalog."""
    telemetry = settings.TelemetrySettings()
    logging.configure(telemetry, OWNER)
    tracing.configure(telemetry, OWNER)
    server = settings.ServerSettings()
    catalog = Catalog(
        database=settings.DatabaseSettings(),
        messages=settings.MessagingSettings(),
        storage=Storage(settings.StorageSettings().root),
        server=server,
        jobs=settings.JobSettings(),
        settings=CatalogSettings(),
    )
    port = await catalog.start()
    probes = await endpoint.serve(telemetry, catalog.ready)
    process.announce(address=f"{server.host}:{port}", metrics=probes.port)
    try:
        await process.supervise(stop=stop, tasks=catalog.tasks(stop))
    finally:
        await catalog.stop()
        await probes.close()
