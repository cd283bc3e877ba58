"""What can be set about the extractor's workers."""

from pydantic import Field

from services.runtime import settings


class ExtractorPeers(settings.TransportSettings):
    """Where the extractor is."""

    extractor_address: str = Field(default=..., pattern=settings.ADDRESS)
    """host:port of the extractor."""
