"""A stream gives each kept token's activations once, in the rows' order, whatever the batches are."""

import contextlib
from collections.abc import Sequence
from typing import Any

import datasets
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from polytok import errors
from services.activations import activation_stream
from services.activations.models import LoadedModel
from services.activations.token_selection import TokenSelection
from tests.activations import tiny_models
from tests.activations.conftest import Loader
from tests.support.messages import words

HOOK = "blocks.1.hook_resid_post"
ROWS = tiny_models.rows(60, 40)


def _stream(model: LoadedModel, dataset: Any, **settings: Any) -> activation_stream.ActivationStream:
    chosen = {name: settings.pop(name) for name in ("context_size", "excluded_token_ids") if name in settings}
    selection = TokenSelection(**chosen)
    return activation_stream.ActivationStream(
        model, dataset, activation_stream.StreamSettings(**({"hooks": (HOOK,)} | settings), selection=selection)
    )


def _all(pieces: Sequence[activation_stream.Piece], hook: str = HOOK) -> Tensor:
    return torch.cat([piece.values[hook] for piece in pieces])


def _expected(model: LoadedModel, rows: list[list[int]]) -> Tensor:
    """Return the hidden states, row by row: no row has padding or company."""
    with torch.no_grad():
        found = [model.module(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0] for row in rows]
    return torch.cat(found)


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "gpt_neox", "gemma2", "mixtral", "qwen2_moe", "opt", "bert", "roberta", "distilbert"]
)
@pytest.mark.parametrize("batch_tokens", [64, 500])
def test_rows_of_many_lengths(kind: str, batch_tokens: int, loaded: Loader) -> None:
    model = loaded(kind)
    pieces = list(_stream(model, tiny_models.dataset(ROWS), batch_tokens=batch_tokens).pieces())
    # A number near 0 has the rounding of what was added up to it: here of Gemma's stream, whose numbers are large.
    torch.testing.assert_close(_all(pieces), _expected(model, ROWS), rtol=1e-4, atol=1e-4)
    assert torch.cat([piece.token_ids for piece in pieces]).tolist() == [token for row in ROWS for token in row]
    assert torch.cat([piece.row for piece in pieces]).tolist() == [n for n, row in enumerate(ROWS) for _ in row]
    assert torch.cat([piece.position for piece in pieces]).tolist() == [n for row in ROWS for n in range(len(row))]


def test_rows_of_one_length_bit_for_bit(gpt2: LoadedModel) -> None:
    rows = tiny_models.rows(8, 16, 16)
    pieces = list(_stream(gpt2, tiny_models.dataset(rows), batch_tokens=128).pieces())
    expected = tiny_models.hidden_states(gpt2, torch.tensor(rows))[2]
    assert len(pieces) == 1
    assert torch.equal(_all(pieces), expected.flatten(0, 1))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "roberta"])
def test_padding_changes_nothing(kind: str, left: bool, loaded: Loader) -> None:
    """Neither what is computed nor what is given: positions count from the first token that is no padding."""
    model = loaded(kind)
    bare = list(_stream(model, tiny_models.dataset(ROWS), batch_tokens=200).pieces())
    padded = list(_stream(model, tiny_models.padded(ROWS, left=left), batch_tokens=200).pieces())
    assert torch.equal(_all(padded), _all(bare))
    assert torch.equal(torch.cat([piece.position for piece in padded]), torch.cat([piece.position for piece in bare]))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_equals_padding_with_a_mask(kind: str, loaded: Loader) -> None:
    """What transformers computes under left padding, given the mask and the positions that belong to it."""
    model = loaded(kind)
    dataset = tiny_models.padded(ROWS[:8], left=True)
    ids, mask = torch.tensor(dataset["input_ids"][:]), torch.tensor(dataset["attention_mask"][:])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = model.module(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True).hidden_states
    found = _all(list(_stream(model, dataset).pieces()))
    torch.testing.assert_close(found, hidden[2][mask.bool()], rtol=1e-4, atol=1e-5)


def test_little_padding(gpt2: LoadedModel) -> None:
    """Rows go by length: far less than half of what runs is padding, though lengths are anything from 1 to 40."""
    ran = 0

    def count(_: Any, inputs: tuple[Tensor], __: Any) -> None:
        nonlocal ran
        ran += inputs[0].numel()

    handle = gpt2.module.transformer.wte.register_forward_hook(count)
    with contextlib.closing(_stream(gpt2, tiny_models.dataset(ROWS), batch_tokens=256).pieces()) as pieces:
        kept = sum(len(piece.token_ids) for piece in pieces)
    handle.remove()
    assert kept <= ran < 1.25 * kept


@pytest.mark.parametrize("rows", [ROWS, tiny_models.rows(60, 16, 16)])
def test_resuming_at_a_piece(gpt2: LoadedModel, rows: list[list[int]]) -> None:
    whole = list(_stream(gpt2, tiny_models.dataset(rows), batch_tokens=40).pieces())
    assert len(whole) > 2
    for number in (0, len(whole) // 2, len(whole) - 2):
        piece = whole[number]
        rest = list(_stream(gpt2, tiny_models.dataset(rows), batch_tokens=40).pieces(piece.next_row))
        assert torch.equal(_all(rest), _all(whole[number + 1 :]))
    assert whole[-1].next_row == len(rows)


def test_waiting_rows_are_bounded(gpt2: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = tiny_models.dataset(ROWS)
    usual = list(_stream(gpt2, dataset, batch_tokens=100).pieces())
    monkeypatch.setitem(activation_stream._WINDOW_BYTES, "cpu", 200 * 32 * 4)
    few = list(_stream(gpt2, dataset, batch_tokens=100).pieces())
    assert max(len(piece.token_ids) for piece in few) <= 200 < max(len(piece.token_ids) for piece in usual)
    torch.testing.assert_close(_all(few), _all(usual), rtol=1e-4, atol=1e-5)


def test_a_range(gpt2: LoadedModel) -> None:
    pieces = list(_stream(gpt2, tiny_models.dataset(ROWS)).pieces(7, 5))
    assert set(torch.cat([piece.row for piece in pieces]).tolist()) == set(range(7, 12))
    assert list(_stream(gpt2, tiny_models.dataset(ROWS)).pieces(len(ROWS))) == []


def test_left_out_tokens_are_seen(gpt2: LoadedModel) -> None:
    excluded = (5, 50)
    pieces = list(_stream(gpt2, tiny_models.dataset(ROWS), excluded_token_ids=excluded, batch_tokens=300).pieces())
    keep = torch.tensor([token not in excluded for row in ROWS for token in row])
    torch.testing.assert_close(_all(pieces), _expected(gpt2, ROWS)[keep], rtol=1e-4, atol=1e-5)
    assert not set(torch.cat([piece.token_ids for piece in pieces]).tolist()) & set(excluded)
    positions = torch.tensor([n for row in ROWS for n in range(len(row))])
    assert torch.equal(torch.cat([piece.position for piece in pieces]), positions[keep].int())


def test_rows_end_at_the_context(gpt2: LoadedModel) -> None:
    pieces = list(_stream(gpt2, tiny_models.dataset(ROWS), context_size=9).pieces())
    torch.testing.assert_close(_all(pieces), _expected(gpt2, [row[:9] for row in ROWS]), rtol=1e-4, atol=1e-5)


def test_rows_without_tokens(gpt2: LoadedModel) -> None:
    rows: list[list[int]] = [[], [5, 6], [], []]
    pieces = list(_stream(gpt2, datasets.Dataset.from_dict({"input_ids": rows})).pieces())
    assert sum(piece.num_rows for piece in pieces) == 4
    assert torch.cat([piece.row for piece in pieces]).tolist() == [1, 1]
    (nothing,) = _stream(gpt2, pa.table({"input_ids": pa.array([[], []], pa.list_(pa.int32()))})).pieces()
    assert nothing.values[HOOK].shape == (0, 32)


def test_many_hooks_in_one_pass(gpt2: LoadedModel) -> None:
    names = tuple(f"blocks.{layer}.{point}" for layer in range(3) for point in ("hook_resid_pre", "mlp.hook_post"))
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    handle = gpt2.module.transformer.wte.register_forward_hook(count)
    pieces = list(_stream(gpt2, tiny_models.dataset(tiny_models.rows(8, 8, 8)), hooks=names).pieces())
    handle.remove()
    assert runs == 1
    assert list(pieces[0].values) == list(names)
    assert [value.shape for value in pieces[0].values.values()] == [(64, 32), (64, 128)] * 3


def test_arrow_tables(gpt2: LoadedModel) -> None:
    rows = tiny_models.rows(10, 8, 8)
    expected = _all(list(_stream(gpt2, tiny_models.dataset(rows)).pieces()))
    for kind in (pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.uint16(), 8)):
        table = pa.table({"input_ids": pa.array(rows, kind)})
        assert torch.equal(_all(list(_stream(gpt2, table).pieces())), expected)


def test_rows_of_a_shuffled_dataset(gpt2: LoadedModel) -> None:
    shuffled = tiny_models.dataset(ROWS).shuffle(seed=3)
    found = _all(list(_stream(gpt2, shuffled, batch_tokens=300).pieces()))
    torch.testing.assert_close(found, _expected(gpt2, shuffled["input_ids"][:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("columns", "reason", "named"),
    [
        ({"tokens": [[3]]}, "COLUMN_NOT_FOUND", {"input_ids", "tokens"}),
        ({"input_ids": ["text"]}, "COLUMN_INVALID", {"input_ids", "string"}),
        ({"input_ids": [[0.5]]}, "COLUMN_INVALID", {"input_ids", "double"}),
        ({"input_ids": [[3, None]]}, "COLUMN_INVALID", {"input_ids", "int64", "nulls"}),
        (
            {"input_ids": [[3, 4]], "attention_mask": [[1]]},
            "COLUMN_INVALID",
            {"input_ids", "attention_mask", "length", "0"},
        ),
        ({"input_ids": [[3, tiny_models.ROWS + 1]]}, "MODEL_MISFIT", {"id", "98", "0", "97", "96"}),
        ({"input_ids": [[3, -1]]}, "MODEL_MISFIT", {"id", "-1"}),
        ({"input_ids": [[3] * 65]}, "MODEL_MISFIT", {"65", "tokens", "0", "64"}),
    ],
)
def test_wrong_rows(gpt2: LoadedModel, columns: dict[str, Any], reason: str, named: set[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        list(_stream(gpt2, pa.table(columns)).pieces())
    assert caught.value.reason == reason
    assert named <= words(caught.value.message)


def test_the_first_id_beyond_the_embedding(gpt2: LoadedModel) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        list(_stream(gpt2, pa.table({"input_ids": [[3, tiny_models.ROWS]]})).pieces())
    assert caught.value.reason == "MODEL_MISFIT"


@pytest.fixture
def limited(gpt2: LoadedModel) -> Any:
    """Yield a model whose second block finds no memory for more than so many tokens at once."""
    handles = []

    def limit(tokens: int) -> LoadedModel:
        def refuse(_: Any, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].shape[:2].numel() > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        handles.append(gpt2.module.transformer.h[1].register_forward_pre_hook(refuse))
        return gpt2

    yield limit
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("rows", [ROWS, tiny_models.rows(60, 16, 16)])
def test_batches_halve_until_they_fit(limited: Any, rows: list[list[int]]) -> None:
    model = limited(70)
    stream = _stream(model, tiny_models.dataset(rows), batch_tokens=1000)
    found = _all(list(stream.pieces()))
    assert 30 <= stream.batch_tokens <= 70
    torch.testing.assert_close(found, _expected(model, rows), rtol=1e-4, atol=1e-5)


def test_windows_shrink_until_their_values_fit(gpt2: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch fits, and what the batches of a window give together does not."""
    join = torch.cat

    def limited(tensors: Any, *arguments: Any, **named: Any) -> Tensor:
        if sum(map(len, tensors)) > 300:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return join(tensors, *arguments, **named)

    stream = _stream(gpt2, tiny_models.dataset(ROWS), batch_tokens=100)
    monkeypatch.setattr(torch, "cat", limited)
    pieces = list(stream.pieces())
    monkeypatch.undo()
    assert max(len(piece.token_ids) for piece in pieces) <= 300
    assert stream.batch_tokens < 100
    torch.testing.assert_close(_all(pieces), _expected(gpt2, ROWS), rtol=1e-4, atol=1e-5)


def test_a_row_that_never_fits(limited: Any) -> None:
    stream = _stream(limited(20), tiny_models.dataset(tiny_models.rows(8, 32, 32)))
    with pytest.raises(errors.ResourceExhausted) as caught:
        list(stream.pieces())
    assert caught.value.reason == "MODEL_INVALID"
    assert {"memory", "cpu", "32"} <= words(caught.value.message)


def test_other_errors_are_raised(gpt2: LoadedModel) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = gpt2.module.transformer.h[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(_stream(gpt2, tiny_models.dataset(ROWS)).pieces())
    handle.remove()


def test_closing_removes_hooks(gpt2: LoadedModel) -> None:
    block = gpt2.module.transformer.h[1]
    before = len(block._forward_hooks)
    with contextlib.closing(_stream(gpt2, tiny_models.dataset(ROWS), batch_tokens=50).pieces()) as pieces:
        next(pieces)
        assert len(block._forward_hooks) == before + 1
    assert len(block._forward_hooks) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_number_formats(dtype: str, tmp_path_factory: pytest.TempPathFactory, gpt2: LoadedModel) -> None:
    model = tiny_models.load("gpt2", tmp_path_factory.mktemp(dtype), dtype=dtype)
    found = _all(list(_stream(model, tiny_models.dataset(ROWS)).pieces()))
    assert found.dtype == model.dtype
    torch.testing.assert_close(found.float(), _expected(gpt2, ROWS), rtol=0.05, atol=0.1)


def test_values_train_after_a_copy(gpt2: LoadedModel) -> None:
    piece = next(iter(_stream(gpt2, tiny_models.dataset(ROWS)).pieces()))
    weight = torch.ones(32, 1, requires_grad=True)
    (torch.cat([piece.values[HOOK]]) @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, piece.values[HOOK].sum(0)[:, None].clone())
