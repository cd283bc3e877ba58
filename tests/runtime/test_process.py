"""The frame of a service: signals, side tasks, announcements, one-line errors; each in a real process."""

import asyncio
import json
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from services.runtime import process


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


STUBBORN = """
    import asyncio
    from services.runtime import process

    async def main(stop):
        print("up", flush=True)
        await stop.wait()
        print("stopping", flush=True)
        if {stubborn}:
            await asyncio.sleep(600)

    process.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    with start(STUBBORN.format(stubborn=False)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.send_signal(number)
        assert child.stdout.readline() == "stopping\n"
        assert child.wait(60) == 0


def test_the_second_signal_ends_at_once() -> None:
    with start(STUBBORN.format(stubborn=True)) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "stopping\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 128 + signal.SIGTERM


def test_a_bad_variable_is_one_line() -> None:
    script = """
        from services.runtime import process, settings

        async def main(stop):
            settings.DatabaseSettings()

        process.run(main)
    """
    with start(script, POLYTOK_DATABASE_URL="mysql://x") as child:
        out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert out == ""
    assert re.fullmatch(r"POLYTOK_DATABASE_URL .*postgresql://.*\n", err)


def test_a_defect_leaves_its_traceback_in_the_log() -> None:
    script = """
        from services.runtime import process, settings
        from services.runtime.telemetry import logging

        async def main(stop):
            logging.configure(settings.TelemetrySettings(), "catalog")
            1 / 0

        process.run(main)
    """
    with start(script) as child:
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    [line] = err.splitlines()
    assert "ZeroDivisionError" in json.loads(line)["exception"]


def test_announce(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTOK_READY_FILE", str(tmp_path / "facts.json"))
    process.write_ready_file(address="127.0.0.1:1", metrics=2)
    process.write_ready_file(address="127.0.0.1:3", metrics=4)
    assert json.loads((tmp_path / "facts.json").read_text()) == {"address": "127.0.0.1:3", "metrics": 4}
    assert len(list(tmp_path.iterdir())) == 1


async def forever(ended: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)


async def test_a_stop_cancels_the_side_tasks() -> None:
    stop, ended = process.StopSignal(), list[str]()
    running = asyncio.create_task(
        process.supervise(stop=stop, tasks={name: forever(ended, name) for name in ("a", "b")})
    )
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(60):
        await running
    assert sorted(ended) == ["a", "b"]


async def test_one_that_fails_ends_all() -> None:
    stop, ended = process.StopSignal(), list[str]()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async with asyncio.timeout(60):
        with pytest.raises(ZeroDivisionError):
            await process.supervise(stop=stop, tasks={"a": forever(ended, "a"), "b": fail()})
    assert ended == ["a"]


async def test_one_that_ends_leaves_the_others() -> None:
    stop, ended = process.StopSignal(), list[str]()

    async def end() -> None:
        ended.append("short")
        stop.event.set()

    async with asyncio.timeout(60):
        await process.supervise(stop=stop, tasks={"a": forever(ended, "long"), "b": end()})
    assert ended == ["short", "long"]


async def test_side_tasks_may_drain() -> None:
    stop, ended = process.StopSignal(), list[str]()

    async def drain() -> None:
        await stop.wait()
        await asyncio.sleep(0.01)
        ended.append("drained")

    stop.set()
    async with asyncio.timeout(60):
        await process.supervise(stop=stop, tasks={"a": drain()}, drain_seconds=60)
    assert ended == ["drained"]


async def test_draining_has_an_end() -> None:
    stop, ended = process.StopSignal(), list[str]()
    stop.set()
    async with asyncio.timeout(60):
        await process.supervise(stop=stop, tasks={"a": forever(ended, "a")}, drain_seconds=0.01)
    assert ended == ["a"]


async def test_waiting_for_a_while() -> None:
    stop = process.StopSignal()
    assert not await stop.wait(0.01)
    stop.set()
    assert await stop.wait()


async def test_dropped_cancellation_is_repeated() -> None:
    stop = process.StopSignal()
    losses = 0

    async def lose() -> None:
        nonlocal losses
        while losses < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                losses += 1
        await asyncio.Event().wait()

    stop.set()
    async with asyncio.timeout(60):
        await process.supervise(stop=stop, tasks={"a": lose()})
    assert losses == 2
