"""Extractions on a whole stack, as a user makes them, and what a kill in their middle costs."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import polytok
from polytok import errors
from tests.support import messages, stacks
from tests.support.servers import await_condition

PROGRAM = pathlib.Path(sys.executable).with_name("polytok")
PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "extracting.md").read_text(encoding="utf-8")
EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "extract_three_hooks.py"
PATIENCE = 120.0
SMALL = {
    "POLYTOK_EXTRACTOR_RANGE_BYTES": "60000",
    "POLYTOK_JOBS_LEASE_TTL_SECONDS": "4",
    "POLYTOK_JOBS_RECONCILE_SECONDS": "0.5",
    "POLYTOK_JOBS_BACKOFF_SECONDS": "0.1",
    "OMP_NUM_THREADS": "1",
}
"""Small ranges and short times, so that there is much to break, and little to wait for."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def extraction_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stacks.Stack]:
    """Yield a stack with `docs` tokenized for `gpt2`, a model of three layers with weights."""
    from tests.activations import tiny_models
    from tests.client import samples as words

    folder = tmp_path_factory.mktemp("extraction_stack")
    corpus = words.write_jsonl(
        folder / "docs.jsonl", [f"The sea, the wind and {n * 7} ships. " * 9 for n in range(600)]
    )
    model = words.write_model(folder / "gpt2")
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    tiny_models.save("gpt2", model, vocab_size=rows)
    with (
        stacks.new_home() as home,
        stacks.started(home, environment={**os.environ, **SMALL}) as stack,
        pytest.MonkeyPatch.context() as environment,
    ):
        # Where clients look for the stack.
        environment.setenv("POLYTOK_HOME", str(home))
        with polytok.Client() as client:
            client.datasets.create("docs", files=str(corpus))
            client.models.create("gpt2", str(model))
            client.datasets.wait("docs", timeout=PATIENCE)
            client.models.wait("gpt2", timeout=PATIENCE)
            client.tokenizations.create("docs", "gpt2", max_length=32)
            client.tokenizations.create("docs", "gpt2", variant="packed", max_length=32, packing=True)
            for variant in ("", "packed"):
                client.tokenizations.wait("docs", "gpt2", variant=variant, timeout=PATIENCE)
        await_condition(
            lambda: bool(stack.facts["metrics_ports"].get("extractor-1")), "the worker has come up", seconds=PATIENCE
        )
        yield stack


@pytest.fixture
def client(extraction_stack: stacks.Stack) -> Iterator[polytok.Client]:
    """Yield a client of the stack."""
    with polytok.Client(extraction_stack.catalog_address) as found:
        yield found


def _run(extraction_stack: stacks.Stack, *arguments: str) -> Any:
    done = subprocess.run(
        [PROGRAM, *arguments, "--json"],
        env=extraction_stack.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or done.stderr)


def test_the_documented_example(extraction_stack: stacks.Stack) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, "docs", "gpt2"],
        env={**extraction_stack.env, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for hook in ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"):
        assert f"{hook}: (32, 32) float32" in done.stdout
        assert (
            f"SAELens: {hook}: a batch of (32, 1, 32)" in done.stdout or f"SAELens: {hook}: a batch of" in done.stdout
        )


def test_documented_commands(extraction_stack: stacks.Stack) -> None:
    commands = re.findall(r"^\$ polytok (.+)$", PAGE, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        # The model here has three layers.
        code, found = _run(extraction_stack, *shlex.split(command.replace("blocks.6.", "blocks.1.")))
        assert code == 0, found


def test_the_commands(extraction_stack: stacks.Stack) -> None:
    hook = "blocks.2.hook_resid_post"
    code, found = _run(extraction_stack, "extract", "docs", "-m", "gpt2", "-H", hook, "--name", "mine", "--watch")
    assert (code, found["extractions"][0]["state"]) == (0, "READY")
    code, estimate = _run(extraction_stack, "extraction", "estimate", "docs", "-m", "gpt2", "-H", hook)
    shown = _run(extraction_stack, "extraction", "show", "mine")[1]
    assert (code, estimate["num_tokens"]) == (0, shown["expected_tokens"])
    assert estimate["size_bytes"] == pytest.approx(shown["statistics"]["size_bytes"], rel=0.1)
    assert pathlib.Path(_run(extraction_stack, "extraction", "path", "mine")[1]["path"], "state.json").is_file()
    assert _run(extraction_stack, "extraction", "list", "--state", "READY", "--model", "gpt2")[1]["extractions"]
    code, refused = _run(extraction_stack, "extract", "docs", "-m", "gpt2", "-H", "blocks.9.hook_resid_post")
    assert (code, refused["error"]["reason"]) == (2, "HOOK_NOT_FOUND")
    assert _run(extraction_stack, "extraction", "delete", "mine")[0] == 0
    assert _run(extraction_stack, "extraction", "show", "mine")[0] == 4


def _ranges(extraction_stack: stacks.Stack, state: str) -> int:
    """Return how many ranges of any extraction are in a state."""
    import asyncio

    import asyncpg

    async def ask() -> int:
        connection = await asyncpg.connect(extraction_stack.facts["database_url"])
        try:
            statement = "SELECT count(*) FROM extractor.job_tasks WHERE kind = 'extract.range' AND state = $1"
            return int(await connection.fetchval(statement, state))
        finally:
            await connection.close()

    return asyncio.run(ask())


def _child(pid: int) -> int:
    """Return the process that does a worker's tasks."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children, "the worker has no process"
    return int(children[0])


def test_a_kill_costs_one_range(extraction_stack: stacks.Stack, client: polytok.Client) -> None:
    hooks = ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"]
    calm = client.extractions.wait(
        client.extractions.create("docs", "gpt2", hooks=hooks, name="calm"), timeout=PATIENCE
    )
    expected = client.activations(calm)
    before = _ranges(extraction_stack, "SUCCEEDED")
    worker = extraction_stack.facts["pids"]["extractor-1"]
    child = _child(worker)
    os.kill(child, signal.SIGSTOP)
    created = client.extractions.create("docs", "gpt2", hooks=hooks, name="killed")
    os.kill(child, signal.SIGCONT)
    await_condition(lambda: _ranges(extraction_stack, "SUCCEEDED") > before, "a range is done", seconds=PATIENCE)
    os.kill(_child(worker), signal.SIGKILL)
    ready = client.extractions.wait(created, timeout=PATIENCE)
    found = client.activations(ready)
    assert found.num_rows == expected.num_rows
    assert found["token_ids"][:] == expected["token_ids"][:]
    number = calm.statistics.num_files
    assert number > 3
    # Every range is there once, whatever was tried in between.
    assert _ranges(extraction_stack, "SUCCEEDED") == before + number
    listed = {file.name for file in pathlib.Path(ready.path).iterdir()}
    state = json.loads(pathlib.Path(ready.path, "state.json").read_text())
    assert {each["filename"] for each in state["_data_files"]} <= listed


def test_a_killed_catalog_keeps_what_is_read(extraction_stack: stacks.Stack, client: polytok.Client) -> None:
    worker = extraction_stack.facts["pids"]["extractor-1"]
    # The worker's process comes with its first task.
    assert client.extractions.estimate("docs", "gpt2", hooks=["blocks.1.hook_mlp_out"]).device == "cpu"
    os.kill(_child(worker), signal.SIGSTOP)
    created = client.extractions.create("docs", "gpt2", hooks=["blocks.1.hook_mlp_out"], name="slow")
    with pytest.raises(errors.FailedPrecondition) as caught:
        client.tokenizations.delete("docs", "gpt2")
    assert caught.value.reason == "RESOURCE_HELD"
    assert caught.value.metadata["holders"] == "extractions/slow"
    pid = extraction_stack.facts["pids"]["catalog"]
    os.kill(pid, signal.SIGKILL)
    await_condition(
        lambda: extraction_stack.facts["pids"]["catalog"] not in (0, pid), "the catalog runs again", seconds=PATIENCE
    )
    os.kill(_child(worker), signal.SIGCONT)
    assert client.extractions.wait(created, timeout=PATIENCE).statistics.num_tokens > 0


def test_an_extraction_being_trained_on_cannot_be_deleted(
    extraction_stack: stacks.Stack, client: polytok.Client
) -> None:
    hook = "blocks.1.hook_resid_post"
    client.extractions.wait(client.extractions.create("docs", "gpt2", hooks=[hook], name="read"), timeout=PATIENCE)
    await_condition(
        lambda: bool(extraction_stack.facts["metrics_ports"].get("trainer-1")),
        "the trainer's worker has come up",
        seconds=PATIENCE,
    )
    worker = extraction_stack.facts["pids"]["trainer-1"]
    os.kill(worker, signal.SIGSTOP)
    try:
        client.trainings.create(
            extraction="read",
            name="reader",
            saes=[{"hook": hook, "architecture": "topk", "d_sae": 64, "k": 4}],
            batch_size=64,
            total_samples=640,
        )
        code, found = _run(extraction_stack, "extraction", "delete", "read")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (code, found["error"]["reason"]) == (5, "RESOURCE_HELD")
    assert found["error"]["metadata"] == {"resource": "extractions/read", "holders": "trainings/reader"}
    messages.check_names(found["error"]["message"], "extractions/read", "trainings/reader")
    client.trainings.wait("reader", timeout=PATIENCE)
    await_condition(
        lambda: _run(extraction_stack, "extraction", "delete", "read")[0] == 0, "the hold has ended", seconds=PATIENCE
    )


def test_create_fails_without_the_catalog(extraction_stack: stacks.Stack, client: polytok.Client) -> None:
    pid = extraction_stack.facts["pids"]["catalog"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with (
            polytok.Client(extraction_stack.catalog_address, timeout=2, patience=0) as impatient,
            pytest.raises((errors.DeadlineExceeded, errors.Unavailable)),
        ):
            impatient.extractions.create("docs", "gpt2", hooks=["blocks.1.hook_mlp_out"], name="never")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "never" not in [each.name.partition("/")[2] for each in client.extractions.list()]
