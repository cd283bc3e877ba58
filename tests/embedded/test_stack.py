"""A whole stack: how it starts, what it survives, how it ends."""

import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import sys
import urllib.request
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.embedded import services
from tests.support import processes, stacks
from tests.support.servers import await_condition

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; run the tests as root too")


def serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def whole(stack: stacks.Stack) -> dict[str, Any]:
    """Return what the stack tells once all of it runs."""
    await_condition(stack.is_complete, "what starts late has come up", seconds=stacks.START_SECONDS)
    return stack.facts


def ended(home: pathlib.Path) -> None:
    """Wait until nothing of the stack is left; the kernel ends a process a moment after its parent hears of it."""
    await_condition(lambda: processes.using(home) == [], "every process of the stack has ended")


def user_of(pid: int) -> int:
    return pathlib.Path(f"/proc/{pid}").stat().st_uid


def test_stack_publishes_its_addresses(stack: stacks.Stack) -> None:
    prompt = {"postgres", "nats", "ingest", "tokenizer-1", *(owner.name for owner in services.SERVERS)}
    late = {process.name for process in services.processes(1) if process.late}
    facts = whole(stack)
    assert facts["pids"].keys() == prompt | late
    assert facts["pid"] == stack.process.pid
    assert all(processes.is_alive(pid) for pid in facts["pids"].values())
    for name in ("tokenizer", *(owner.name for owner in services.SERVERS)):
        assert serves(facts[f"{name}_address"])
    for name in facts["metrics_ports"]:
        with urllib.request.urlopen(f"http://127.0.0.1:{facts['metrics_ports'][name]}/readyz", timeout=60) as answer:
            assert answer.status == 200, name
    assert facts["storage_root"] == str(stack.home / "data")
    assert (stack.home / "stack.json").stat().st_mode & 0o777 == 0o600
    reported = stack.output.read_text()
    assert re.search(r"\bpostgres\b.*\bready\b", reported)
    assert re.search(rf"\bready\b.* \d+\.\d s\b.*{re.escape(facts['catalog_address'])}", reported)


def test_passwords_are_on_no_command_line(stack: stacks.Stack) -> None:
    secrets = json.loads((stack.home / "secrets.json").read_text()).values()
    for pid in (stack.process.pid, *whole(stack)["pids"].values()):
        reported = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in reported for secret in secrets)


def test_second_stack_on_same_home_is_refused(stack: stacks.Stack) -> None:
    before = whole(stack)
    command = [sys.executable, "-m", "services.embedded", "up", "--home", str(stack.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert re.search(rf"{stack.home}\b.*\b{stack.process.pid}\b", done.stderr)
    assert stack.facts == before
    assert serves(stack.catalog_address)


@pytest.mark.parametrize("name", ["catalog", "tokenizer-1", "nats", "postgres"])
def test_what_dies_is_started_again_where_it_was(stack: stacks.Stack, name: str) -> None:
    before = whole(stack)
    os.kill(before["pids"][name], signal.SIGKILL)
    await_condition(lambda: stack.facts["pids"][name] not in (0, before["pids"][name]), f"{name} runs again")
    after = stack.facts
    for fact in ("catalog_address", "tokenizer_address", "nats_url", "database_url"):
        assert after[fact] == before[fact]
    others = set(before["pids"]) - {name}
    assert {other: after["pids"][other] for other in others} == {other: before["pids"][other] for other in others}
    await_condition(lambda: serves(after["catalog_address"]), "the catalog serves")
    await_condition(lambda: serves(after["tokenizer_address"]), "the tokenizer serves")


@pytest.mark.long
def test_a_home_survives_every_way_of_ending() -> None:
    with stacks.new_home() as home:
        with stacks.started(home) as first:
            (home / "data" / "kept").write_text("kept")
            first.process.send_signal(signal.SIGINT)
            assert first.process.wait(stacks.STOP_SECONDS) == 0
            ended(home)
            assert not (home / "stack.json").exists()
            assert "stopped" in first.output.read_text().splitlines()[-1]
        assert "database system is shut down" in (home / "logs" / "postgres.log").read_text()

        with stacks.started(home) as second:
            assert (home / "data" / "kept").read_text() == "kept"
            second.process.kill()
            ended(home)
            assert (home / "stack.json").exists()  # nobody was left to remove it

        with stacks.started(home) as third:
            assert serves(third.catalog_address)
            os.kill(third.facts["pids"]["tokenizer-1"], signal.SIGSTOP)  # it will not stop by itself
            third.process.terminate()
            await_condition(lambda: "stopping" in third.output.read_text(), "it is stopping")
            third.process.terminate()
            third.process.wait(stacks.STOP_SECONDS)
            ended(home)


def test_failed_service_is_reported_in_one_line() -> None:
    environment = {**os.environ, "POLYTOK_EXTRACTOR_RANGE_BYTES": "many"}
    with stacks.new_home() as home, stacks.started(home, environment=environment) as stack:

        def reported() -> list[str]:
            lines = stack.output.read_text().splitlines()
            return [line for line in lines if line.startswith("polytok: extractor ")]

        await_condition(lambda: len(reported()) > 1, "it is tried again")
        assert "POLYTOK_EXTRACTOR_RANGE_BYTES" in reported()[0]
        await_condition(lambda: bool(stack.facts["pids"].get("trainer")), "the trainer, which comes after it, runs")
        assert serves(stack.catalog_address)
        # What tells how to reach the stack may get lost, and comes back.
        (home / "stack.json").write_text("")
        await_condition(lambda: (home / "stack.json").read_text() != "", "it is written again")
        assert serves(stack.catalog_address)


def test_it_can_be_stopped_while_it_starts() -> None:
    with stacks.new_home() as home, stacks.started(home, await_ready=False) as stack:
        await_condition(lambda: "postgres is ready" in stack.output.read_text(), "Postgres is ready")
        stack.process.terminate()
        assert stack.process.wait(stacks.STOP_SECONDS) == 0
        ended(home)


@pytest.mark.long
@as_root
def test_root_can_take_over_user_home() -> None:
    user = pwd.getpwnam("daemon").pw_uid  # initdb wants a user that has a name
    with stacks.new_home() as home:
        home.mkdir(mode=0o755)
        os.chown(home, user, user)
        # What points at other servers and proxies must not lead this stack astray.
        elsewhere = {"PGSSLMODE": "require", "PGHOST": "192.0.2.1", "http_proxy": "http://192.0.2.1:9"}
        environment = {**os.environ, **elsewhere, "HOME": str(home)}
        with stacks.started(home, prefix=processes.as_user(user), environment=environment) as stack:
            assert {user_of(pid) for pid in stack.facts["pids"].values()} == {user}
            assert serves(stack.catalog_address)
        assert stack.process.returncode == 0
        with stacks.started(home) as stack:
            users = {name: user_of(pid) for name, pid in stack.facts["pids"].items()}
            assert users == {name: user if name in {"postgres", "nats"} else 0 for name in users}
            assert users.keys() >= {"postgres", "nats", "catalog", "ingest", "tokenizer-1"}
            assert serves(stack.catalog_address)
        assert {path.stat().st_uid for path in (home, *home.glob("*"), *home.glob("logs/*"))} == {user}


@pytest.mark.long
@as_root
def test_root_runs_in_private_folder() -> None:
    with stacks.new_home() as home:
        home.parent.chmod(0o700)
        with stacks.started(home) as stack:
            assert user_of(stack.facts["pids"]["postgres"]) != 0
            assert serves(stack.catalog_address)
            command = [*processes.as_user(12321), sys.executable, "-m", "services.embedded", "up", "--home", str(home)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 1
            assert re.search(rf"{home} .*\b0\b.*\b12321\b", done.stderr)
        assert home.parent.stat().st_mode & 0o777 == 0o700
