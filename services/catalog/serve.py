"""`python -m services.catalog serve`: configuration, logging, resources, then serving until a signal comes."""

from services.catalog.application import OWNER, Catalog
from services.catalog.settings import CatalogSettings
from services.runtime import settings
from services.runtime.process import Stopping
from services.runtime.records import owner
from services.runtime.storage import Storage


async def main(stop: Stopping) -> None:
    """Serves the catalog."""

    def make(server: settings.ServerSettings) -> Catalog:
        return Catalog(
            database=settings.DatabaseSettings(),
            messages=settings.MessagingSettings(),
            storage=Storage(settings.StorageSettings().root),
            server=server,
            jobs=settings.JobSettings(),
            settings=CatalogSettings(),
        )

    await owner.serve(stop, make, telemetry=settings.TelemetrySettings(), name=OWNER)
