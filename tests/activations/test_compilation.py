"""torch.compile: close to what the model gives, compiled once for all batches, and refused where it cannot be."""

import pathlib
import shutil

import pytest
import torch
from torch._inductor import config

from polytok import errors
from services.activations import compilation, forward_capture, hooks
from services.activations.models import LoadedModel
from tests.activations import tiny_models
from tests.support.messages import words

# What PyTorch's compiler warns of are its own parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAMES = ["blocks.0.hook_resid_post", "blocks.1.hook_attn_out", "blocks.2.hook_resid_post"]


def _captured(model: LoadedModel, batches: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    with forward_capture.ActivationCapture(model, hooks.parse_hooks(NAMES, model.description)) as capture:
        return [capture.run(batch) for batch in batches]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_models_equal_plain_ones(tmp_path: pathlib.Path) -> None:
    plain, compiled = tiny_models.load("gpt2", tmp_path), tiny_models.load("gpt2", tmp_path, compile=True)
    shapes = [(2, 4), (5, 9), (7, 30), (3, 17), (6, 6), (4, 25), (9, 3), (2, 31), (8, 8), (10, 12), (11, 5)]
    batches = [torch.randint(0, tiny_models.ROWS, shape) for shape in shapes]
    expected, before = _captured(plain, batches), compilation.count_compiled_versions()
    found = _captured(compiled, batches[:1])
    made = compilation.count_compiled_versions()
    # The blocks, and attention and MLP of the one that has a hook within: other batches need none of their own.
    assert before < made <= before + 3
    found += _captured(compiled, batches[1:])
    assert compilation.count_compiled_versions() == made
    for ours, theirs in zip(found, expected, strict=True):
        for name in NAMES:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert all("forward" not in module.__dict__ for module in compiled.module.modules())


def test_without_a_compiler(tmp_path: pathlib.Path) -> None:
    tiny_models.load("gpt2", tmp_path)
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(errors.FailedPrecondition) as caught,
    ):
        tiny_models.load("gpt2", tmp_path, compile=True)
    assert caught.value.reason == "MODEL_INVALID"
    assert {"compile", "C++", "cpu", "g++", "CXX"} <= words(caught.value.message)


def test_modules_with_hooks_are_not_compiled(gpt2: LoadedModel) -> None:
    blocks = gpt2.module.transformer.h

    def parts(*paths: str) -> set[str]:
        hooked = {blocks.get_submodule(path) for path in paths}
        names = {module: name for name, module in blocks.named_modules()}
        return {names[module] for module in compilation.find_compilable_modules(blocks, hooked)}

    assert parts("0", "2") == {"0", "1", "2"}
    assert parts("1.attn") == {"0", "1.attn", "1.mlp", "2"}
    assert {"0", "1.attn", "1.mlp.act", "2"} <= parts("1.mlp.c_proj")
    assert "1.mlp" not in parts("1.mlp.c_proj")


def test_too_many_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_MOST_VERSIONS", 1)

    class Changing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.number = 0

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.sin() if self.number else values.cos()

    module = Changing()
    plain = torch.compile(module.forward, backend="eager", dynamic=True)
    compiled = compilation.CompiledModules([module])
    compiled.forwards[module] = plain
    values = torch.ones(3)
    with compiled.running():
        module(values)
    module.number = 1
    with (
        pytest.raises(errors.FailedPrecondition) as caught,
        compiled.running(),
    ):
        module(values)
    assert caught.value.reason == "MODEL_INVALID"
    assert {"compile", "1", "versions"} <= words(caught.value.message)


def test_models_that_cannot_be_compiled() -> None:
    class Refused(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.sin()

    def refuse(*_: object) -> None:
        raise NotImplementedError("no such operation")

    module = Refused()
    compiled = compilation.CompiledModules([module])
    compiled.forwards[module] = torch.compile(module.forward, backend=refuse)
    with (
        pytest.raises(errors.FailedPrecondition) as caught,
        compiled.running(),
    ):
        module(torch.ones(3))
    assert caught.value.reason == "MODEL_INVALID"
    assert {"compile", "model"} <= words(caught.value.message)
    assert "backend='refuse'" in caught.value.message
