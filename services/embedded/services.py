"""The services that a stack runs. Add a service by adding a line here.

A service that owns records has a server and a database schema. Every process gets its address as
`POLYTOK_{NAME}_ADDRESS`, and `stack.json` has it as `{name}_address`. Workers run tasks, and some serve calls too.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple


class Server(NamedTuple):
    """A service that owns records."""

    name: str
    module: Sequence[str]
    """The module that `python -m` runs."""
    schema: str
    """The module with its migration runner."""
    late: bool = False
    """Whether it starts after the stack is ready, which needs the catalog only; clients wait for it."""

    @property
    def variable(self) -> str:
        """The environment variable with its address."""
        return f"POLYTOK_{self.name.upper()}_ADDRESS"


class WorkerGroup(NamedTuple):
    """Processes that run tasks."""

    name: str
    module: Sequence[str]
    number: Literal["one", "as asked", "a GPU"]
    """How many: one; the value of `--workers`; or one per GPU, and one without a GPU."""
    listens: bool = False
    """Whether the first one serves calls at an address, `{name}_address`."""
    late: bool = False
    """Whether they start after the stack is ready: their tasks wait for them anyway."""


SERVERS = (
    Server("catalog", ("services.catalog", "serve"), "services.catalog.server.migrations.schema"),
    Server("extractor", ("services.extractor", "serve"), "services.extractor.server.migrations.schema", late=True),
    Server("trainer", ("services.trainer", "serve"), "services.trainer.server.migrations.schema", late=True),
)
"""In the order of their dependencies."""

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
    """Yield every worker process of a stack with `workers` tokenizer workers."""
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
    """Return the available NVIDIA GPUs as CUDA names them, without loading a library."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in {"", "-1"}]
    return [str(number) for number, _ in enumerate(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))]
