"""The documented way from a corpus to an autoencoder in SAELens, and the commands of docs/training.md."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.client import samples as documents
from tests.support import stacks
from tests.trainings import samples, training_harness

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ polytok (train docs -m gpt2 .+)$", PAGE, re.MULTILINE)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_from_a_corpus_to_saelens(tmp_path: pathlib.Path) -> None:
    corpus = documents.write_jsonl(tmp_path / "corpus.jsonl", samples.TEXTS)
    model = samples.write_model(tmp_path / "model")
    with stacks.new_home() as home, stacks.started(home) as stack:
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "corpus_to_sae.py", corpus, model, samples.HOOK, "20000"],
            env={**stack.env, "POLYTOK_CATALOG_ADDRESS": stack.catalog_address},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "explained_variance: " in done.stdout
    assert f"SAELens: jumprelu, 1024 latents, (4, {samples.D_MODEL})" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_documented_commands(training_stack: stacks.Stack) -> None:
    program = pathlib.Path(sys.executable).with_name("polytok")
    environment = {**os.environ, "POLYTOK_HOME": str(training_stack.home)}
    environment.pop("POLYTOK_CATALOG_ADDRESS", None)

    def run(line: str) -> str:
        done = subprocess.run(
            [program, *shlex.split(line), "--json"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert len(COMMANDS) == 4
    for number, command in enumerate(COMMANDS):
        small = command.replace("docs -m gpt2", f"{training_harness.DATASET} -m {training_harness.MODEL}")
        small = small.replace("blocks.6", "blocks.1").replace("blocks.3", "blocks.0").replace(" --watch", "")
        small = re.sub(r"--latents \d+", "--latents 128", small)
        small = re.sub(r" --name \S+", "", small)
        run(f"{small} --name page-{number} --batch-size 256 --samples 2560")
    for number in range(len(COMMANDS)):
        run(f"training watch page-{number}")
        run(f"training delete page-{number}")


def test_every_option_is_documented() -> None:
    program = pathlib.Path(sys.executable).with_name("polytok")
    asked = {**os.environ, "COLUMNS": "200"}
    text = subprocess.run([program, "train", "--help"], env=asked, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z0-9-]+", text)) - {"--catalog", "--json", "--help", "--no-watch", "--png"}
    assert {option for option in options if option not in PAGE} == set()
