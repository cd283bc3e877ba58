"""The ingest worker's task process: `python -m services.catalog.ingest.child`."""

from services.catalog.ingest import tasks
from services.jobs import task_process_main
from services.runtime.settings import StorageSettings
from services.runtime.storage import open_storage

if __name__ == "__main__":
    # Importing `tasks` did everything that takes time: there is nothing left to warm up.
    task_process_main.serve(tasks.functions(open_storage(StorageSettings())), lambda: None)
