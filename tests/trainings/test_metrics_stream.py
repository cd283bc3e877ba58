"""How the command line ends when a training that it follows is paused."""

import asyncio
import json
import pathlib
import subprocess
import sys

from polytok.cli import exit_codes
from tests.support import messages
from tests.trainings.training_harness import TrainingHarness


async def test_watch_exits_with_its_own_code_when_paused(harness: TrainingHarness) -> None:
    await harness.create("followed", total_samples=64 * 5000, checkpoint_every=1000)
    await harness.client.trainings.pause("followed")
    await harness.state("followed", "PAUSED")

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = pathlib.Path(sys.executable).with_name("polytok")
        return await asyncio.to_thread(
            subprocess.run,
            [program, "training", *arguments],
            env=harness.stack.env,
            capture_output=True,
            text=True,
            check=False,
        )

    watched = await run("watch", "followed", "--json")
    assert (watched.returncode, watched.stderr) == (exit_codes.PAUSED, "")
    assert json.loads(watched.stdout)["state"] == "PAUSED"
    reported = await run("watch", "followed")
    assert (reported.returncode, reported.stderr) == (exit_codes.PAUSED, "")
    assert "`polytok training resume followed`" in reported.stdout
    (documented,) = [each for each in exit_codes.EPILOG.split("·") if each.split()[0] == str(exit_codes.PAUSED)]
    messages.check_names(documented, "paused")
