"""`python -m services.embedded up`: the embedded stack in the foreground."""

import argparse
import contextlib
import pathlib
import sys

from polytok import environment, errors
from services.embedded import folders, home, lock, supervisor

ALREADY_RUNNING = 3
"""Exit code if a stack already runs on that home."""


def _workers(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError("must be between 1 and 64")
    return number


def _report(line: str) -> None:
    with contextlib.suppress(OSError):  # the reader of our output may be gone
        sys.stdout.write(f"polytok: {line}\n")
        sys.stdout.flush()


def _line(failure: Exception, root: pathlib.Path) -> str:
    if isinstance(failure, OSError):
        return folders.explain(failure, f"starting the stack in {root}")
    return failure.message if isinstance(failure, errors.PolytokError) else str(failure)


def main() -> None:
    """Parse the command line and run the stack."""
    parser = argparse.ArgumentParser(prog="python -m services.embedded", description=__doc__)
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="run Postgres, NATS, the catalog and its workers until Ctrl-C")
    up.add_argument("--home", type=pathlib.Path, default=None, help="folder of all state (default: POLYTOK_HOME)")
    up.add_argument("--workers", type=_workers, default=None, help="tokenizer workers (default: cores, at most 4)")
    arguments = parser.parse_args()
    root = (arguments.home or home.default()).absolute()
    try:
        environment.check()
        supervisor.run(root, workers=arguments.workers or supervisor.default_workers(), report=_report)
    except KeyboardInterrupt:  # before the supervisor handles signals
        sys.exit(130)
    except lock.AlreadyRunning as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(ALREADY_RUNNING)
    except ExceptionGroup as group:
        _, defects = group.split((errors.PolytokError, OSError))
        if defects is not None:
            raise
        sys.stderr.write("".join(f"{_line(failure, root)}\n" for failure in group.exceptions))
        sys.exit(1)
    except errors.PolytokError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"{_line(error, root)}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
