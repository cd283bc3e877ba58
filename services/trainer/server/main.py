"""`python -m services.trainer serve`: configuration, logging, resources, then serving until a signal comes."""

import contextlib

import grpc.aio

from services.records import app
from services.runtime import settings
from services.runtime.process import StopSignal
from services.runtime.storage import Storage
from services.trainer.server.app import TrainerApp
from services.trainer.server.settings import SERVICE_NAME, TrainerPeers, TrainerServerSettings


async def main(stop: StopSignal) -> None:
    """Serve trainings."""

    def make(server: settings.ServerSettings, opened: contextlib.AsyncExitStack) -> TrainerApp:
        peers = TrainerPeers()

        def connect(address: str) -> grpc.aio.Channel:
            return app.connect(opened, address, peers, SERVICE_NAME)

        return TrainerApp(
            database=settings.DatabaseSettings(),
            messages=settings.MessagingSettings(),
            storage=Storage(settings.StorageSettings().root),
            server=server,
            jobs=settings.JobSettings(),
            catalog=connect(peers.catalog_address),
            extractor=connect(peers.extractor_address) if peers.extractor_address else None,
            settings=TrainerServerSettings(),
        )

    await app.serve(stop, make, telemetry=settings.TelemetrySettings(), name=SERVICE_NAME)
