"""`python -m services.trainer serve | migrate … | work`: the trainer's programs."""

from collections.abc import Sequence

from services.runtime import process


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


if __name__ == "__main__":
    process.run_command(
        "trainer",
        {
            "serve": ("serve trainings over gRPC", _serve),
            process.MIGRATE: ("change the database's schema", _migrate),
            "work": ("train", _work),
        },
    )
