"""Background tasks of a service that owns jobs."""

from collections.abc import Coroutine, Mapping
from typing import Any

from nats.aio.client import Client

from services.jobs.advisories import Advisories
from services.jobs.dispatcher import Dispatcher
from services.jobs.reconciler import Reconciler
from services.jobs.store import JobStore
from services.runtime import messaging
from services.runtime.database import Database
from services.runtime.notifications import Listener
from services.runtime.settings import JobSettings


class JobBackgroundTasks:
    """Dispatcher, reconciler and advisories of one store. Any number of replicas may run one each."""

    def __init__(
        self,
        database: Database,
        store: JobStore,
        client: Client,
        subjects: messaging.Subjects,
        settings: JobSettings,
        listener: Listener,
    ) -> None:
        self.reconciler = Reconciler(database, store, client, subjects, settings)
        self.dispatcher = Dispatcher(database, store, client, subjects, listener, alarm=self.reconciler.wake)
        self.advisories = Advisories(client, subjects, self.reconciler)

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the background tasks, for `process.supervise`.

        The caller runs the listener, which has other subscribers too.
        """
        return {
            "dispatcher": self.dispatcher.run(),
            "reconciler": self.reconciler.run(),
            "advisories": self.advisories.run(),
        }
