"""Model directories: what is known of them, and what is said of those that cannot be loaded."""

import json
import pathlib
import struct

import pytest
import torch
import transformers

from polytok import errors
from services.activations import architectures, forward_capture, hooks, memory, models
from services.activations.models import LoadedModel
from tests.activations import tiny_models
from tests.activations.conftest import Loader
from tests.support.messages import words


def test_description(gpt2: LoadedModel) -> None:
    found = gpt2.description
    assert (found.kind, found.n_layers, found.d_model, found.d_mlp, found.d_heads) == ("gpt2", 3, 32, 128, 32)
    assert (found.embedding_rows, found.context_length, found.masked) == (97, 64, False)
    assert found.num_parameters == sum(parameter.numel() for parameter in gpt2.module.parameters())
    assert found.weight_bytes == 4 * found.num_parameters


def test_context_of_roberta(loaded: Loader) -> None:
    # Its table of positions has 66 rows, and the first two are the padding's.
    assert loaded("roberta").description.context_length == 64


@pytest.mark.parametrize("kind", architectures.NAMES)
def test_default_attention(kind: str, tmp_path: pathlib.Path, loaded: Loader) -> None:
    """Fused kernels where the family has them, and the same values."""
    model, exact = models.load(tiny_models.save(kind, tmp_path)), loaded(kind)
    found = []
    for each in (model, exact):
        with forward_capture.ActivationCapture(
            each, hooks.parse_hooks(["blocks.2.hook_resid_post"], each.description)
        ) as capture:
            found.append(capture.run(torch.tensor(tiny_models.rows(2, 20, 20)))["blocks.2.hook_resid_post"])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    taken = model.module.config._attn_implementation
    assert taken == ("eager" if kind in {"gemma2", "gpt_neo", "gpt_oss", "gptj"} else "sdpa")


def test_many_files(tmp_path: pathlib.Path) -> None:
    whole = tiny_models.load("llama", tmp_path)
    whole.module.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").exists()
    parts = models.load(tmp_path / "parts")
    assert parts.description.num_parameters == whole.description.num_parameters
    assert parts.has_head
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(parts.module(ids).logits, whole.module(ids).logits)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_number_formats(dtype: str, tmp_path: pathlib.Path) -> None:
    model = tiny_models.load("llama", tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.module.parameters()} == {models.DTYPES[dtype]}
    assert not model.module.training


def test_weights_without_the_head(tmp_path: pathlib.Path) -> None:
    tiny_models.save("llama", tmp_path)
    transformers.AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "base")
    assert not models.load(tmp_path / "base").has_head


def _refusal(folder: pathlib.Path) -> set[str]:
    with pytest.raises(errors.FailedPrecondition) as caught:
        models.load(folder)
    assert caught.value.reason == "MODEL_INVALID"
    return words(caught.value.message)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a model to spoil."""
    return tiny_models.save("gpt2", tmp_path)


def test_no_weights(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()
    assert {str(folder), "no", "weights", "model.safetensors"} <= _refusal(folder)


def test_pickled_weights_are_not_opened(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert {str(folder), "pickled"} <= _refusal(folder)


def test_no_configuration(folder: pathlib.Path) -> None:
    (folder / "config.json").unlink()
    assert {str(folder), "not", "config.json"} <= _refusal(folder)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"model_type": "gpt2", "n_layer": "many"}', '{"model_type": "gpt2", "n_head": 0}']
)
def test_spoiled_configuration(folder: pathlib.Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert str(folder / "config.json") in _refusal(folder)


def test_unknown_architecture(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text()) | {"model_type": "mamba"}
    (folder / "config.json").write_text(json.dumps(content))
    assert {str(folder / "config.json"), "mamba", *architectures.NAMES} <= _refusal(folder)


def test_no_code_of_the_model_is_run(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Configuration"}}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert {str(folder / "config.json"), "own", *architectures.NAMES} <= _refusal(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_weights_cut_short(folder: pathlib.Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in _refusal(folder)


def test_header_that_claims_too_much(folder: pathlib.Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
    assert {str(path), "safetensors", str(path.stat().st_size)} <= _refusal(folder)


def test_index_may_not_lead_elsewhere(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {str(folder / "model.safetensors.index.json"), "/elsewhere.safetensors"} <= _refusal(folder)


def test_weights_of_another_model(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text()) | {"n_layer": 4}
    (folder / "config.json").write_text(json.dumps(content))
    named = _refusal(folder)
    assert {str(folder), "weights", "gpt2"} <= named
    assert any(name.startswith("transformer.h.3.") for name in named)


def test_too_large_for_the_memory(folder: pathlib.Path) -> None:
    needed = 4 * models.describe(folder).num_parameters
    assert models.load(folder, available=needed).has_head
    with pytest.raises(errors.ResourceExhausted) as caught:
        models.load(folder, available=needed - 1)
    assert caught.value.reason == "MODEL_INVALID"
    sizes = {*memory.format_bytes(needed).split(), *memory.format_bytes(needed - 1).split()}
    assert {str(folder), f"{needed // 4:,}", "float32", "cpu", *sizes} <= words(caught.value.message)
    assert caught.value.metadata == {"needed_bytes": str(needed), "available_bytes": str(needed - 1)}
    assert models.load(folder, dtype="bfloat16", available=needed - 1).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "int4"}, {*models.DTYPES}),
        ({"device": "abacus"}, {"cpu", "cuda"}),
        ({"device": "meta"}, {"cpu", "cuda"}),
        ({"device": "cuda:99"}, {"cpu", str(torch.cuda.device_count())}),
    ],
)
def test_wrong_options(folder: pathlib.Path, options: dict[str, str], named: set[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        models.load(folder, **options)  # type: ignore[arg-type]
    ((field, value),) = options.items()
    assert caught.value.reason == "INVALID_FIELD"
    assert [violation.field for violation in caught.value.violations] == [field]
    assert {field, value, *named} <= words(caught.value.message)


def test_memory_that_is_left() -> None:
    cpu = torch.device("cpu")
    assert 0 < memory.available_bytes(cpu) <= memory.total_bytes(cpu)


def test_failed_allocations_are_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert memory.is_exhausted(caught.value)
    assert not memory.is_exhausted(RuntimeError("shapes cannot be multiplied"))
