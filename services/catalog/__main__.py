"""`python -m services.catalog serve | migrate … | ingest`: the catalog's programs."""

from collections.abc import Sequence

from services.runtime import process


def _serve(_: Sequence[str]) -> None:
    from services.catalog.server import main  # noqa: PLC0415

    process.run(main.main)


def _migrate(arguments: Sequence[str]) -> None:
    from services.catalog.server.migrations.schema import runner  # noqa: PLC0415
    from services.runtime.migrations import command  # noqa: PLC0415

    command.main(runner, arguments)


def _ingest(_: Sequence[str]) -> None:
    from services.catalog.ingest import worker  # noqa: PLC0415

    process.run(worker.run)


if __name__ == "__main__":
    process.run_command(
        "catalog",
        {
            "serve": ("serve datasets, models and tokenizations over gRPC", _serve),
            process.MIGRATE: ("change the database's schema", _migrate),
            "ingest": ("read datasets in", _ingest),
        },
    )
