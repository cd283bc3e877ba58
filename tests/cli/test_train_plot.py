"""`train plot` draws a training, unless it gets a model: then `plot` is a dataset like any other."""

import pathlib

import pytest

from tests.cli.conftest import Run
from tests.client import samples

TRAIN = ("train", "plot", "--hook", "blocks.0.hook_resid_post", "--latents", "64", "--k", "4")


@pytest.mark.parametrize("model", [("-m", "gpt2"), ("-mgpt2",), ("--model=gpt2",), ()])
def test_what_only_train_takes_names_a_dataset(here: Run, monkeypatch: pytest.MonkeyPatch, model: tuple[str]) -> None:
    monkeypatch.setenv("POLYTOK_TRAINER_ADDRESS", "127.0.0.1:1")
    reported = here(*TRAIN, *model, "--catalog", "127.0.0.1:1")
    if model:
        assert (reported.code, "127.0.0.1:1" in reported.err) == (6, True)
    else:
        assert (reported.code, "dataset and the model" in reported.err) == (2, True)


@pytest.mark.parametrize("more", [(), ("--png", "model.png"), ("--sae", "a", "--json")])
def test_anything_else_draws(here: Run, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    monkeypatch.setenv("POLYTOK_TRAINER_ADDRESS", "127.0.0.1:1")
    assert "'TRAINING'" in here("train", "plot").err
    assert "Usage: polytok train plot [OPTIONS] TRAINING" in here("train", "plot", "--help").out
    reported = here("train", "plot", "first", *more, "--catalog", "127.0.0.1:1")
    assert (reported.code, "127.0.0.1:1" in reported.err) == (6, True)


def test_a_dataset_called_plot(polytok_: Run, ready: tuple[str, str], documents: pathlib.Path) -> None:
    _, model = ready
    assert polytok_("dataset", "add", "plot", documents, "--json").json()["state"] == "READY"
    reported = polytok_(*TRAIN, "--model", model)
    assert reported.code in (4, 5)
    assert f"plot/tokenizations/{model}" in reported.err or f"polytok tokenize plot -m {model}" in reported.err
    assert polytok_("train", "plot", samples.unique("absent")).code == 4
    assert polytok_("dataset", "delete", "plot").code == 0
