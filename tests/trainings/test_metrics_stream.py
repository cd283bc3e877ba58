"""How the command line ends when a training that it follows is paused."""

import asyncio
import json
import pathlib
import subprocess
import sys

from polytok.cli import exit_codes
from tests.trainings.scene import Scene


async def test_a_pause_ends_following_with_a_code_of_its_own(scene: Scene) -> None:
    await scene.create("followed", total_samples=64 * 5000, checkpoint_every=1000)
    await scene.client.trainings.pause("followed")
    await scene.state("followed", "PAUSED")

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = pathlib.Path(sys.executable).with_name("polytok")
        return await asyncio.to_thread(
            subprocess.run,
            [program, "training", *arguments],
            env=scene.stack.env,
            capture_output=True,
            text=True,
            check=False,
        )

    watched = await run("watch", "followed", "--json")
    assert (watched.returncode, watched.stderr) == (exit_codes.PAUSED, "")
    assert json.loads(watched.stdout)["state"] == "PAUSED"
    told = await run("watch", "followed")
    assert (told.returncode, told.stderr) == (exit_codes.PAUSED, "")
    assert "It was paused; `polytok training resume followed` continues it." in told.stdout
    assert f"{exit_codes.PAUSED} the training was paused" in exit_codes.EPILOG
