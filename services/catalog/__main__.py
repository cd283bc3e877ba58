"""`python -m services.catalog serve | migrate … | ingest`: the catalog's programs."""

import argparse
import sys
from collections.abc import Sequence

from services.runtime import process


def main(arguments: Sequence[str]) -> None:
    """Run one of the catalog's programs; each imports what it needs and no more."""
    parser = argparse.ArgumentParser(prog="python -m services.catalog", description="The catalog's programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve datasets, models and tokenizations over gRPC")
    commands.add_parser("migrate", help="change the database's schema", add_help=False)
    commands.add_parser("ingest", help="read datasets in")
    chosen, rest = parser.parse_known_args(arguments)
    if rest and chosen.command != "migrate":
        parser.error(f"unexpected: {' '.join(rest)}")
    _COMMANDS[chosen.command](rest)


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


_COMMANDS = {"serve": _serve, "migrate": _migrate, "ingest": _ingest}

if __name__ == "__main__":
    main(sys.argv[1:])
