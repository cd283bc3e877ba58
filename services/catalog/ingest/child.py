"""The process that does the work: `python -m services.catalog.ingest.child`, started by the worker."""

from services.catalog.ingest import tasks
from services.jobs import task_process_main
from services.runtime.settings import StorageSettings
from services.runtime.storage import open_storage

if __name__ == "__main__":
    # Everything that takes time to import came with `tasks`: there is nothing left to warm.
    task_process_main.serve(tasks.functions(open_storage(StorageSettings())), lambda: None)
