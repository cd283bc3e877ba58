"""`python -m services.… migrate up | down | current | check`: the commands over a `Runner`."""

import argparse
import asyncio
import os
from collections.abc import Sequence

from services.runtime import process
from services.runtime.migrations.runner import Runner
from services.runtime.process import StopSignal
from services.runtime.settings import DatabaseSettings, TelemetrySettings
from services.runtime.telemetry import logging


def main(runner: Runner, arguments: Sequence[str]) -> None:
    """Run one command on the database of POLYTOK_DATABASE_URL."""
    chosen = _parser(runner.program).parse_args(arguments)

    async def migrate(_: StopSignal) -> None:
        logging.configure(TelemetrySettings(), f"{runner.program.rpartition('.')[2]}-migrate")
        await asyncio.to_thread(_run, runner, chosen)

    process.run(migrate)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {program} migrate", description="Migrate the schema in the database of POLYTOK_DATABASE_URL."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="apply missing revisions")
    up.add_argument(
        "--phase",
        choices=("pre", "post", "all"),
        default="all",
        help="revisions before a rollout (pre), after it (post), or all, if no old code runs",
    )
    down = commands.add_parser("down", help="return to an earlier revision")
    down.add_argument("revision", help='its id, "-1" for one step back, or "base"')
    commands.add_parser("current", help="print the revision of the database")
    commands.add_parser("check", help="fail unless the database has exactly the service's tables")
    return parser


def _run(runner: Runner, chosen: argparse.Namespace) -> None:
    settings = DatabaseSettings()
    # Paths in old records become storage keys if the root is known.
    storage_root = os.environ.get("POLYTOK_STORAGE_ROOT", "")
    match chosen.command:
        case "up":
            runner.upgrade(settings, chosen.phase, storage_root=storage_root)
        case "down":
            runner.downgrade(settings, chosen.revision, storage_root=storage_root)
        case "current":
            print(runner.current(settings) or "base")  # noqa: T201
        case "check":
            runner.check(settings)
