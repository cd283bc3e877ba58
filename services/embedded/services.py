"""The services that a stack runs. To add one is to add a line here.

A service that owns records has a server and a schema in the database; its address goes to every process as
`POLYTOK_{NAME}_ADDRESS` and into `stack.json` as `{name}_address`. Workers take tasks, and some listen too.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple


class Server(NamedTuple):
    """A service that owns records."""

    name: str
    module: Sequence[str]
    """What `python -m` runs."""
    schema: str
    """The module that has the runner of its migrations."""
    late: bool = False
    """Whether it starts once the stack is ready, which it is with the catalog; clients wait for it."""

    @property
    def variable(self) -> str:
        """The environment variable that tells its address."""
        return f"POLYTOK_{self.name.upper()}_ADDRESS"


class WorkerGroup(NamedTuple):
    """Processes that take tasks."""

    name: str
    module: Sequence[str]
    number: Literal["one", "as asked", "a GPU"]
    """How many: one; as many as `--workers` says; one for each GPU, and one where there is none."""
    listens: bool = False
    """Whether the first has an address of its own, `{name}_address`."""
    late: bool = False
    """Whether they start once the stack is ready: their work waits for them anyway."""


SERVERS = (
    Server("catalog", ("services.catalog", "serve"), "services.catalog.server.migrations.schema"),
    Server("extractor", ("services.extractor", "serve"), "services.extractor.server.migrations.schema", late=True),
    Server("trainer", ("services.trainer", "serve"), "services.trainer.server.migrations.schema", late=True),
)
"""In the order in which they may depend on one another."""

WORKERS = (
    WorkerGroup("ingest", ("services.catalog", "ingest"), "one"),
    WorkerGroup("tokenizer", ("services.tokenizer",), "as asked", listens=True),
    WorkerGroup("extractor", ("services.extractor", "work"), "a GPU", late=True),
    WorkerGroup("trainer", ("services.trainer", "work"), "a GPU", late=True),
)


class Process(NamedTuple):
    """One worker process."""

    name: str
    module: Sequence[str]
    listens: bool
    late: bool
    environment: Mapping[str, str]


def processes(asked: int) -> Iterator[Process]:
    """Yield every worker process of a stack that was asked for so many."""
    for workers in WORKERS:
        if workers.number == "one":
            yield Process(workers.name, workers.module, workers.listens, workers.late, {})
            continue
        places: Sequence[Mapping[str, str]] = [{}] * asked
        if workers.number == "a GPU":
            places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus()] or [{}]
        for number, environment in enumerate(places, start=1):
            listens = workers.listens and number == 1
            yield Process(f"{workers.name}-{number}", workers.module, listens, workers.late, environment)


def gpus() -> Sequence[str]:
    """Return the NVIDIA GPUs that may be used, as CUDA names them; no library is loaded to find out."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in {"", "-1"}]
    return [str(number) for number, _ in enumerate(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))]
