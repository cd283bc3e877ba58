"""Which tokenizations and extractions trainings hold."""

from collections.abc import Sequence

from services.records.hold_client import Hold
from services.runtime.database import Database
from services.trainer.server import inputs, messages, models, repository


class TrainingHolds:
    """The holds of trainings, for `services.records.hold_client.HoldRenewer`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def live(self) -> Sequence[Hold]:
        """Return those of trainings that run, will run, or are paused."""
        found = await self._holding(wanted=True)
        # One that reads an extraction may have begun when its tokenization was gone: there is nothing to prolong.
        with_all = [each for each in found if each.tokenization_key]
        without = [each for each in found if not each.tokenization_key]
        return [*_holds(with_all), *(hold for hold in _holds(without) if hold.resource.startswith("extractions/"))]

    async def ended(self) -> Sequence[Hold]:
        """Return those of trainings that ended."""
        return _holds(await self._holding(wanted=False))

    async def forget(self, holder: str) -> None:
        """Note that what a training held was released."""
        async with self._database.transaction() as conn:
            await repository.mark_hold_released(conn, holder.removeprefix("trainings/"))

    async def _holding(self, *, wanted: bool) -> Sequence[models.Training]:
        async with self._database.connection() as conn:
            return await repository.list_holders(conn, wanted=wanted)


def _holds(found: Sequence[models.Training]) -> list[Hold]:
    return [hold for each in found for hold in inputs.create_holds(messages.lineage(each), each.resource)]
