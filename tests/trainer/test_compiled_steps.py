"""torch.compile in a training: the model that is read live and the steps; refused where there is no compiler."""

import dataclasses
import functools
import pathlib
import shutil

import pytest
import torch
from torch._inductor import config

from polytok import errors
from services.activations import compilation
from services.trainer.sae.data import live
from services.trainer.sae.steps import factory
from tests.support import messages
from tests.trainer import models, test_resume

# What PyTorch's compiler warns of are its own parts.
pytestmark = pytest.mark.filterwarnings("ignore")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return models.save(tmp_path_factory.mktemp("model"))


def opened(folder: pathlib.Path, _: str = "") -> live.LiveDataset:
    return models.data(folder, compile=True)


@pytest.mark.long
@pytest.mark.timeout(600)
@needs_compiler
def test_a_compiled_model_is_read_as_the_plain_one_is(model_folder: pathlib.Path) -> None:
    compiled, plain = opened(model_folder), models.data(model_folder)
    ours, theirs = compiled.source(0, 1), plain.source(0, 1)
    before = compilation.count_compiled_versions()
    for _ in range(4):
        torch.testing.assert_close(ours.read()[models.HOOK], theirs.read()[models.HOOK], rtol=1e-4, atol=1e-5)
    made = compilation.count_compiled_versions()
    assert made > before
    # Evaluating takes the hooks off the model and puts them on again, which compiles nothing again.
    for held, expected in zip(compiled.held_out(), plain.held_out(), strict=True):
        torch.testing.assert_close(held[models.HOOK], expected[models.HOOK], rtol=1e-4, atol=1e-5)
    ours.read()
    assert compilation.count_compiled_versions() == made


@pytest.mark.long
@pytest.mark.timeout(900)
@needs_compiler
def test_killed_compiled_trainings_are_reproducible(tmp_path: pathlib.Path, model_folder: pathlib.Path) -> None:
    whole = test_resume.planned(models.HOOK, ("topk", "batchtopk"), threads=1)
    whole = dataclasses.replace(whole, compile=True, evaluate_every=20)
    test_resume.check(tmp_path, functools.partial(opened, model_folder), whole, kills=2)


def test_compiling_needs_a_compiler() -> None:
    whole = dataclasses.replace(test_resume.planned(models.HOOK, ("topk",), threads=1), compile=True)
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(errors.FailedPrecondition) as caught,
    ):
        factory.create_step(whole.saes[0], whole)
    assert (caught.value.reason, caught.value.retryable) == ("MODEL_INVALID", False)
    messages.check_names(caught.value.message, "compile", "g++", "CXX")
