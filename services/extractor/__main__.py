"""`python -m services.extractor serve | migrate … | work`: the extractor's programs."""

import argparse
import sys
from collections.abc import Sequence

from services.runtime import process


def main(arguments: Sequence[str]) -> None:
    """Run one of the extractor's programs; each imports what it needs and no more."""
    parser = argparse.ArgumentParser(prog="python -m services.extractor", description="The extractor's programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve extractions over gRPC")
    commands.add_parser("migrate", help="change the database's schema", add_help=False)
    commands.add_parser("work", help="run models and write their activations")
    chosen, rest = parser.parse_known_args(arguments)
    if rest and chosen.command != "migrate":
        parser.error(f"unexpected: {' '.join(rest)}")
    _COMMANDS[chosen.command](rest)


def _serve(_: Sequence[str]) -> None:
    from services.extractor.server import main  # noqa: PLC0415

    process.run(main.main)


def _migrate(arguments: Sequence[str]) -> None:
    from services.extractor.server.migrations.schema import runner  # noqa: PLC0415
    from services.runtime.migrations import command  # noqa: PLC0415

    command.main(runner, arguments)


def _work(_: Sequence[str]) -> None:
    from services.extractor.worker import worker  # noqa: PLC0415

    process.run(worker.run)


_COMMANDS = {"serve": _serve, "migrate": _migrate, "work": _work}

if __name__ == "__main__":
    main(sys.argv[1:])
