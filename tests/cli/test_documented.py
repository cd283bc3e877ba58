"""What docs/tokenizing.md says to type works."""

import pathlib
import re
import shlex

import pytest

import polytok
from tests.cli.conftest import Run

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "tokenizing.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ polytok (tokenize docs -m gpt2 .+)$", PAGE, re.MULTILINE)
(SNIPPET,) = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)


def made_small(command: str, dataset: str, model: str) -> list[str]:
    """Return the command for the tests' dataset and model, whose sequences are short."""
    small = command.replace("--max-length 512", "--max-length 24").replace("--stride 64", "--stride 4")
    return shlex.split(small.replace("tokenize docs -m gpt2", f"tokenize {dataset} -m {model}"))


def test_commands_and_snippet(polytok_: Run, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(COMMANDS) > 10
    variants = [re.search(r"--variant (\S+)", command)[1] for command in COMMANDS]  # type: ignore[index]
    for command in COMMANDS:
        assert polytok_(*made_small(command, *ready), "--json").code == 0
    for variant in variants:
        watched = polytok_("tokenization", "watch", *ready, "--variant", variant, "--json")
        assert watched.json()["state"] == "READY"
    found: dict[str, object] = {"polytok": polytok}
    dataset, model = ready
    exec(SNIPPET.replace('"docs", "gpt2"', f'"{dataset}", "{model}"'), found)
    lengths = found["cu_seqlens"]
    assert isinstance(lengths, list)
    assert (lengths[0], lengths[-1]) == (0, 24)
    assert lengths == sorted(set(lengths))
    for variant in variants:
        assert polytok_("tokenization", "delete", dataset, model, "--variant", variant).code == 0


def test_every_option_is_documented(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = set(re.findall(r"--[a-z-]+", here("tokenize", "--help").out))
    others = {"--model", "--watch", "--catalog", "--json", "--help"}
    # Of two opposite ones, that which is not the default is documented.
    pairs = {"--concatenate": "--no-concatenate"}
    shown = {pairs.get(option, option) for option in options - others if not option.startswith("--no-")}
    assert {option for option in shown if option not in PAGE} == set()
