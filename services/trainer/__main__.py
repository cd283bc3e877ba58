"""`python -m services.trainer serve | migrate … | work`: the trainer's programs."""

import argparse
import sys
from collections.abc import Sequence

from services.runtime import process


def main(arguments: Sequence[str]) -> None:
    """Run one of the trainer's programs; each imports what it needs and no more."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description="The trainer's programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve trainings over gRPC")
    commands.add_parser("migrate", help="change the database's schema", add_help=False)
    commands.add_parser("work", help="train")
    chosen, rest = parser.parse_known_args(arguments)
    if rest and chosen.command != "migrate":
        parser.error(f"unexpected: {' '.join(rest)}")
    _COMMANDS[chosen.command](rest)


def _serve(_: Sequence[str]) -> None:
    from services.trainer.server import main  # noqa: PLC0415

    process.run(main.main)


def _migrate(arguments: Sequence[str]) -> None:
    from services.runtime.migrations import command  # noqa: PLC0415
    from services.trainer.server.migrations import schema  # noqa: PLC0415

    command.main(schema.runner, arguments)


def _work(_: Sequence[str]) -> None:
    from services.trainer.worker import worker  # noqa: PLC0415

    process.run(worker.main)


_COMMANDS = {"serve": _serve, "migrate": _migrate, "work": _work}

if __name__ == "__main__":
    main(sys.argv[1:])
