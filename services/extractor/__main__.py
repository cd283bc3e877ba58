"""`python -m services.extractor serve | migrate … | work`: the extractor's programs."""

from collections.abc import Sequence

from services.runtime import process


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


if __name__ == "__main__":
    process.run_command(
        "extractor",
        {
            "serve": ("serve extractions over gRPC", _serve),
            process.MIGRATE: ("change the database's schema", _migrate),
            "work": ("run models and write their activations", _work),
        },
    )
