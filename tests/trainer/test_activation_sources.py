"""Sources give every activation once an epoch, never a held-out one, and go on exactly from a position."""

import collections
import dataclasses
import pathlib
import shutil

import datasets
import numpy as np
import pytest
import torch

from polytok import errors
from services.activations import activation_stream, models
from services.activations.token_selection import TokenSelection
from services.extractor.worker import extraction as row_extraction
from services.trainer.sae.data import extraction, live
from services.trainer.sae.data.dataset import ActivationDataset, ActivationIterator, Block
from tests.support import messages
from tests.trainer import models as small

OTHER = "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return small.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_folder: pathlib.Path) -> models.LoadedModel:
    return models.load(model_folder)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def extracted(
    request: pytest.FixtureRequest, model_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    return small.extract(model_folder, tmp_path_factory.mktemp(request.param), (small.HOOK, OTHER), request.param)


def opened(kind: str, model_folder: pathlib.Path, extracted: pathlib.Path) -> ActivationDataset:
    if kind == "live":
        return small.data(model_folder, (small.HOOK, OTHER))
    return extraction.ExtractionDataset(
        extraction.open_extraction(extracted), (small.HOOK, OTHER), seed=0, held_out_rows=4
    )


def vectors(*blocks: Block) -> collections.Counter[bytes]:
    """Return how often each pair of vectors comes: beginnings that sequences share have equal ones."""
    found: collections.Counter[bytes] = collections.Counter()
    for block in blocks:
        both = torch.cat([block[small.HOOK].float(), block[OTHER].float()], dim=1)
        found.update(row.tobytes() for row in both.numpy())
    return found


def epoch(source: ActivationIterator) -> list[Block]:
    """Return all blocks until the epoch's end."""
    blocks = [source.read()]
    first = source.position()["epoch"]
    while True:
        before = source.position()
        block = source.read()
        if source.position()["epoch"] != first:
            source.seek(before)
            return blocks
        blocks.append(block)


@pytest.fixture(params=["live", "extraction"])
def data(request: pytest.FixtureRequest, model_folder: pathlib.Path, extracted: pathlib.Path) -> ActivationDataset:
    return opened(request.param, model_folder, extracted)


def everything(kind: str, model_folder: pathlib.Path, extracted: pathlib.Path) -> collections.Counter[bytes]:
    if kind == "live":
        settings = activation_stream.StreamSettings(
            hooks=(small.HOOK, OTHER), batch_tokens=128, selection=small.SELECTION
        )
        stream = activation_stream.ActivationStream(models.load(model_folder), small.tokens(60), settings)
        return vectors(*(piece.values for piece in stream.pieces()))
    table = extraction.ExtractionTable(extraction.open_extraction(extracted), (small.HOOK, OTHER))
    return vectors(table.read(0, len(table)))


@pytest.mark.parametrize("kind", ["live", "extraction"])
def test_an_epoch_has_everything_but_what_is_held_out(
    kind: str, model_folder: pathlib.Path, extracted: pathlib.Path
) -> None:
    data = opened(kind, model_folder, extracted)
    source = data.source(0, 1)
    first, second = epoch(source), epoch(source)
    held = vectors(*data.held_out())
    whole = everything(kind, model_folder, extracted)
    assert 0 < held.total() <= whole.total() // 5
    if kind == "extraction":
        # Those of a model differ in the last bits with the rows that go through it together.
        assert vectors(*first) + held == whole
        assert vectors(*second) == vectors(*first)
    assert vectors(*first).total() + held.total() == whole.total()
    assert [vectors(block) for block in first] != [vectors(block) for block in second]


def test_available_samples_are_an_epoch(data: ActivationDataset) -> None:
    assert data.available_samples == vectors(*epoch(data.source(0, 1))).total()


def test_processes_share_an_epoch(data: ActivationDataset) -> None:
    whole = vectors(*epoch(data.source(0, 1)))
    parts = [vectors(*epoch(data.source(rank, 3))) for rank in range(3)]
    assert sum(part.total() for part in parts) == whole.total()
    assert all(part.total() > 0 for part in parts)


@pytest.mark.parametrize("kind", ["live", "extraction"])
def test_a_position_goes_on_exactly(kind: str, model_folder: pathlib.Path, extracted: pathlib.Path) -> None:
    source = opened(kind, model_folder, extracted).source(0, 1)
    for _ in range(4):
        source.read()
    position = source.position()
    expected = [source.read() for _ in range(40)]
    other = opened(kind, model_folder, extracted).source(0, 1)
    other.seek(position)
    for block in expected:
        found = other.read()
        assert all(torch.equal(found[hook], values) for hook, values in block.items())
    assert other.position() == source.position()


def test_a_position_of_something_else_is_refused(data: ActivationDataset) -> None:
    source = data.source(0, 1)
    wrong = dict.fromkeys(source.position(), 10000)
    with pytest.raises(errors.DataLoss) as caught:
        source.seek(wrong)
    assert caught.value.message.count("10000") == 2  # its place, and the epoch


def test_live_and_extracted_activations_are_the_same(
    model_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extracted = small.extract(model_folder, tmp_path_factory.mktemp("same"), (small.HOOK, OTHER))
    found = extraction.ExtractionDataset(
        extraction.open_extraction(extracted), (small.HOOK, OTHER), seed=0, held_out_rows=4
    )
    stored = vectors(*epoch(found.source(0, 1)), *found.held_out())
    selection = dataclasses.replace(small.SELECTION, context_size=8)
    settings = activation_stream.StreamSettings(hooks=(small.HOOK, OTHER), selection=selection)
    stream = activation_stream.ActivationStream(models.load(model_folder), small.tokens(60), settings)
    computed = vectors(*(piece.values for piece in stream.pieces()))
    # What fills no row at an extraction's end is not stored.
    assert stored <= computed
    assert (computed - stored).total() < 8


def test_reading_goes_on_after_an_evaluation_in_between(model_folder: pathlib.Path) -> None:
    plain, looked = small.data(model_folder), small.data(model_folder)
    one, other = plain.source(0, 1), looked.source(0, 1)
    for _ in range(6):
        assert torch.equal(one.read()[small.HOOK], other.read()[small.HOOK])
        assert sum(len(block[small.HOOK]) for block in looked.held_out()) > 0
        spliced = looked.splice_target(small.HOOK)
        assert spliced is not None
        ids = next(iter(spliced.sequences())).input_ids
        assert spliced.model.module(input_ids=ids).logits.shape[-1] == small.VOCABULARY


def test_splicing_is_at_the_tokens_that_are_trained_on_alone(
    model: models.LoadedModel, model_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    selection = TokenSelection(context_size=8, excluded_token_ids=(small.EXCLUDED, 7), excluded_positions=(2, 5))
    rows = [[small.EXCLUDED, *range(3 + row % 9, 12)] for row in range(60)]
    tokens = datasets.Dataset.from_dict({"input_ids": rows})
    chosen = {"hooks": (small.HOOK,), **selection.to_dict()}
    made = row_extraction.extract(
        model, tokens, 0, 60, row_extraction.RangeSettings(**chosen), tmp_path, "part", lambda *_: None
    )
    parts = [datasets.Dataset.from_file(str(tmp_path / each.key)) for each in made.files]
    stored = datasets.concatenate_datasets(parts)
    origin = extraction.ExtractionOrigin(model, tokens, selection)
    live_settings = activation_stream.StreamSettings((small.HOOK,), selection=selection)
    columns = stored.with_format("numpy")[:]
    trained = set(zip(columns["row_index"].ravel(), columns["position"].ravel(), strict=True))
    for data in (
        extraction.ExtractionDataset(stored, (small.HOOK,), seed=0, held_out_rows=12, origin=origin),
        live.LiveDataset(model, tokens, live_settings, seed=0, held_out_rows=6),
    ):
        spliced = data.splice_target(small.HOOK)
        assert spliced is not None
        seen = [
            (ids[: int(mask.sum())].tolist(), kept.nonzero().ravel().tolist())
            for batch in spliced.sequences()
            for ids, mask, kept in zip(*batch, strict=True)
        ]
        assert seen
        for ids, kept in seen:
            row = next(number for number, each in enumerate(rows) if each[:8] == ids)
            assert kept == sorted(position for of, position in trained if of == row)
            assert not {0, 2, 5} & set(kept)


def test_splicing_uses_whole_held_out_sequences(
    model: models.LoadedModel, model_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extracted = small.extract(model_folder, tmp_path_factory.mktemp("spliced"), (small.HOOK,))
    tokens = small.tokens(60)
    origin = extraction.ExtractionOrigin(model, tokens, dataclasses.replace(small.SELECTION, context_size=8))
    found = extraction.ExtractionDataset(
        extraction.open_extraction(extracted), (small.HOOK,), seed=0, held_out_rows=12, origin=origin
    )
    spliced = found.splice_target(small.HOOK)
    assert spliced is not None
    table = extraction.ExtractionTable(extraction.open_extraction(extracted), (small.HOOK,))
    held_rows = {
        row for block in found._held.tolist() for row in table.sources(block * found._block_rows, found._block_rows)
    }
    train_rows = {
        row for block in found._train.tolist() for row in table.sources(block * found._block_rows, found._block_rows)
    }
    shown = [
        ids[: int(mask.sum())].tolist()
        for batch in spliced.sequences()
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    unseen = sorted(held_rows - train_rows)
    assert 0 < len(shown) <= len(unseen)
    assert all(ids in [tokens[row]["input_ids"][:8][: len(ids)] for row in unseen] for ids in shown)
    assert (
        extraction.ExtractionDataset(
            extraction.open_extraction(extracted), (small.HOOK,), seed=0, held_out_rows=4
        ).splice_target(small.HOOK)
        is None
    )


def test_a_hook_that_was_not_extracted(extracted: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidArgument) as raised:
        extraction.ExtractionDataset(
            extraction.open_extraction(extracted), ("blocks.7.hook_attn_out",), name="acts", seed=0, held_out_rows=4
        )
    assert raised.value.reason == "HOOK_NOT_FOUND"
    hooks = "blocks.7.hook_attn_out", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"
    messages.check_names(raised.value.message, "acts", *hooks)


def test_a_damaged_extraction(extracted: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(extracted, tmp_path / "extraction")
    for path in (tmp_path / "extraction").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.DataLoss) as damaged:
        extraction.open_extraction(tmp_path / "extraction")
    messages.check_names(damaged.value.message, tmp_path / "extraction")
    with pytest.raises(errors.FailedPrecondition) as missing:
        extraction.open_extraction(tmp_path / "none")
    assert missing.value.reason == "NOT_READY"
    messages.check_names(missing.value.message, tmp_path / "none")


def test_too_few_sequences(model: models.LoadedModel) -> None:
    settings = activation_stream.StreamSettings(hooks=(small.HOOK,))
    with pytest.raises(errors.FailedPrecondition) as caught:
        live.LiveDataset(model, small.tokens(1), settings, seed=0, held_out_rows=4)
    messages.check_names(caught.value.message, "1 sequences")


def test_sequences_without_a_token_that_is_kept(model: models.LoadedModel) -> None:
    selection = TokenSelection(excluded_token_ids=tuple(range(small.VOCABULARY)))
    settings = activation_stream.StreamSettings(hooks=(small.HOOK,), selection=selection)
    source = live.LiveDataset(model, small.tokens(5), settings, seed=0, held_out_rows=1).source(0, 1)
    with pytest.raises(errors.FailedPrecondition) as caught:
        source.read()
    messages.check_names(caught.value.message, "4 sequences", "token")


def test_more_processes_than_sequences(data: ActivationDataset) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        data.source(499, 500)
    messages.check_names(caught.value.message, "500 processes")


def test_held_out_rows_are_a_tenth_at_most() -> None:
    train, held = live.split(50, 64, seed=3)
    assert (len(train), len(held)) == (45, 5)
    assert sorted([*train, *held]) == list(range(50))
    assert np.array_equal(live.split(50, 64, seed=3)[1], held)
    assert not np.array_equal(live.split(50, 64, seed=4)[1], held)
