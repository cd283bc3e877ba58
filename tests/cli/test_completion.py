"""What a shell offers behind the words that stand there."""

import pathlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import polytok
from tests.client import samples
from tests.support import servers

if TYPE_CHECKING:
    from tests.support.stacks import Stack

HOOK = "blocks.0.hook_resid_post"
SAE = {"hook": HOOK, "architecture": "topk", "d_sae": 64, "k": 4}


def offered(stack: "Stack", line: str) -> set[str]:
    """Return what bash offers behind a line."""
    program = pathlib.Path(sys.executable).with_name("polytok")
    asked = {"_POLYTOK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run([program], capture_output=True, text=True, check=False, env={**stack.env, **asked})
    assert done.stderr == ""
    return set(done.stdout.split())


def assert_offered(stack: "Stack", line: str, wanted: set[str], *, alone: bool = False) -> None:
    """Await what is wanted: a shell does not wait for a stack that is busy, and is offered nothing then."""

    def is_offered() -> bool:
        found = offered(stack, line)
        return found == wanted if alone else wanted <= found

    servers.await_condition(is_offered, f"{line!r} offers {wanted}", seconds=90)


def test_names_of_what_there_is(stack: "Stack", ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTOK_HOME", str(stack.home))
    servers.await_condition(stack.is_complete, "extractor and trainer have come up")
    dataset, model = ready
    extraction, training = samples.unique("extraction"), samples.unique("training")
    with polytok.Client(stack.catalog_address) as client:
        client.tokenizations.create(dataset, model, variant="complete", max_length=16)
        client.tokenizations.wait(dataset, model, variant="complete", timeout=90)
        made = client.extractions.create(dataset, model, variant="complete", hooks=[HOOK], name=extraction)
        trained = client.trainings.create(dataset, model, variant="complete", name=training, saes=[SAE], batch_size=64)
        try:
            assert_offered(stack, "polytok train ", {dataset, "plot"})
            assert_offered(stack, "polytok train x -m ", {model})
            assert_offered(stack, "polytok train --extraction ", {extraction})
            assert_offered(stack, "polytok train plot ", {training})
            resource = {f"{model}~complete"}
            assert_offered(stack, f"polytok tokenization show {dataset} {model[:-2]}", resource, alone=True)
            assert_offered(stack, f"polytok tokenization show {dataset}/", {f"{dataset}/{model}~complete"}, alone=True)
        finally:
            client.trainings.delete(trained)
            client.extractions.delete(made)
            client.tokenizations.delete(dataset, model, variant="complete")
