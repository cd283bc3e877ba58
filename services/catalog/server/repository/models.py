"""Rows of models."""

from services.catalog.server import tables
from services.catalog.server.domain import names, not_found, records
from services.catalog.server.settings import SERVICE_NAME
from services.records.repository import ChosenIdRepository


def _parse_uid(identifier: str) -> str | None:
    return identifier if names.is_model_uid(identifier) else None


models = ChosenIdRepository(
    tables.models, records.Model, SERVICE_NAME, parse_uid=_parse_uid, not_found_error=not_found.model
)
