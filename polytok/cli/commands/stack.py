"""`polytok up`, `polytok status` and `polytok demo`."""

from __future__ import annotations

import collections
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polytok.cli import session
from polytok.cli.options import shared

if TYPE_CHECKING:
    from polytok.client import Client

Home = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--home",
        metavar="FOLDER",
        envvar="POLYTOK_HOME",
        help="Directory for all state (default: the user data directory, ~/.local/share/polytok).",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, max=64, help="Number of tokenizer workers (default: one per core, at most 4)."
    ),
]


def up(home: Home = None, workers: Workers = None) -> None:
    """Run Postgres, NATS, the catalog and its workers on this machine, until Ctrl-C.

    All state is in one directory and survives a restart.
    A second stack on the same directory is rejected (exit code 3).
    The other commands find the stack automatically, from any terminal.
    """
    require_stack()
    arguments = ["-m", "services.embedded", "up"]
    if home is not None:
        arguments += ["--home", str(home)]
    if workers is not None:
        arguments += ["--workers", str(workers)]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  needs no shell


def require_stack() -> None:
    """Raise FailedPrecondition unless this installation can run a stack."""
    from polytok import errors  # noqa: PLC0415

    wanted = ("services.embedded", "psutil", "asyncpg", "nats", "alembic", "transformers")
    if not all(importlib.util.find_spec(name) for name in wanted):
        raise errors.FailedPrecondition(
            "This installation contains only the client. To run a stack here, `pip install 'polytok[embedded]'`."
        )


def status(catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Show the running stack and the number of records by state."""
    with session.start(catalog, as_json) as run:
        from polytok.client import discovery  # noqa: PLC0415

        kinds = {
            "datasets": _states(run.client.datasets.list()),
            "models": _states(run.client.models.list()),
            "tokenizations": _states(run.client.tokenizations.list()),
        }
        others, absent = _others(run.client)
        facts = discovery.stack() or {}
        is_ours = facts.get("catalog_address") == run.client.address
        document = {
            "catalog_address": run.client.address,
            "version": importlib.metadata.version("polytok"),
            "home": str(discovery.folder()) if is_ours else None,
            "storage_root": facts.get("storage_root") if is_ours else None,
            "pids": facts.get("pids", {}) if is_ours else {},
            "metrics_ports": facts.get("metrics_ports", {}) if is_ours else {},
            "queue": (discovery.queue_problem(facts) or "works") if is_ours else None,
            **kinds,
            **others,
        }
        run.out.result(document, run.out.facts("Polytok", _status_pairs(document, absent)))


def _others(client: Client) -> tuple[dict[str, dict[str, int] | None], dict[str, str]]:
    """Return the states of the other services' records, and why some are unavailable."""
    from polytok import errors  # noqa: PLC0415

    found: dict[str, dict[str, int] | None] = {}
    absent = {}
    for kind in ("extractions", "trainings"):
        try:
            # The property raises too, because it looks up the address of the service.
            found[kind] = _states(getattr(client, kind).list())
        except (errors.Unavailable, errors.DeadlineExceeded) as error:
            found[kind], absent[kind] = None, error.message
    return found, absent


def _states(records: Any) -> dict[str, int]:
    from polytok.client import watch_stream  # noqa: PLC0415

    return dict(sorted(collections.Counter(watch_stream.state(record) for record in records).items()))


def _status_pairs(document: dict[str, Any], absent: dict[str, str]) -> list[tuple[str, str]]:
    pairs = [("catalog", document["catalog_address"])]
    if document["home"]:
        pairs += [("home", document["home"]), ("storage", document["storage_root"])]
        pairs.append(("work queue", document["queue"]))
        pairs += [("processes", ", ".join(f"{name} {pid}" for name, pid in document["pids"].items()))]
    for kind in ("datasets", "models", "tokenizations", "extractions", "trainings"):
        counted = ", ".join(f"{number} {state}" for state, number in (document[kind] or {}).items()) or "none"
        pairs.append((kind, f"unknown: {absent[kind]}" if kind in absent else counted))
    return pairs


def demo(as_json: shared.Json = False) -> None:
    """Run an end-to-end demo on this machine. Downloads nothing; running it again reuses what exists.

    Builds a corpus from Python's own documentation and sources.
    Trains two small models on it, with tokenizers like those of GPT-2 and Llama 2.
    Tokenizes the corpus for both models and reads rows back.
    Extracts a layer of each model, and trains a sparse autoencoder on it.
    Uses the stack that runs on POLYTOK_HOME, or runs one for the duration of the demo.
    """
    from polytok.cli.render.output import Output  # noqa: PLC0415
    from polytok.demo import scenario  # noqa: PLC0415

    require_stack()
    scenario.run(Output(as_json=as_json))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(demo)
    app.command()(status)
