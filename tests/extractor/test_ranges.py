"""A range of rows becomes files that `datasets` opens, and nothing is lost, doubled or stored that ought not to be."""

import hashlib
import json
import pathlib
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from polytok import errors
from services.activations import activation_stream, models
from services.activations.models import LoadedModel
from services.activations.token_selection import TokenSelection
from services.extractor.worker import arrow_columns, extraction, file_writer
from tests.activations import tiny_models
from tests.support import messages

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post")
WIDTHS = dict(zip(HOOKS, (32, 128), strict=True))
PACKED = tiny_models.rows(30, 16, 16)
RAGGED = tiny_models.rows(30, 40, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Return a tiny GPT-2."""
    return tiny_models.load("gpt2", tmp_path_factory.mktemp("gpt2"))


def _extract(
    model: LoadedModel,
    rows: list[list[int]],
    folder: pathlib.Path,
    first: int = 0,
    count: int | None = None,
    stem: str = "part",
    **settings: Any,
) -> extraction.ExtractionResult:
    chosen = extraction.RangeSettings(**({"hooks": HOOKS, "context_size": 16} | settings))
    number = len(rows) - first if count is None else count
    return extraction.extract(model, tiny_models.dataset(rows), first, number, chosen, folder, stem, lambda *_: None)


def publish(folder: pathlib.Path, files: list[str], storage_dtype: str = "float32", context_size: int = 16) -> None:
    """Write what makes a folder of files a dataset."""
    features = arrow_columns.features(WIDTHS, context_size, storage_dtype)
    (folder / "dataset_info.json").write_text(json.dumps({"features": features.to_dict()}))
    state = dict.fromkeys(("_fingerprint", "_format_columns", "_format_type", "_split"))
    state |= {"_data_files": [{"filename": name} for name in files], "_format_kwargs": {}, "_output_all_columns": False}
    (folder / "state.json").write_text(json.dumps(state | {"_fingerprint": "0123"}))


def _opened(folder: pathlib.Path, made: extraction.ExtractionResult, storage_dtype: str = "float32") -> dict[str, Any]:
    publish(folder, [file.key for file in made.files], storage_dtype)
    return datasets.load_from_disk(str(folder)).with_format("numpy")[:]


def _expected(model: LoadedModel, rows: list[list[int]], **settings: Any) -> dict[str, np.ndarray[Any, Any]]:
    selection = TokenSelection(**({"context_size": 16} | settings))
    stream = activation_stream.ActivationStream(
        model, tiny_models.dataset(rows), activation_stream.StreamSettings(HOOKS, selection=selection)
    )
    pieces = list(stream.pieces())
    found = {name: torch.cat([piece.values[name] for piece in pieces]).numpy() for name in HOOKS}
    for name, field in (("token_ids", "token_ids"), ("row_index", "row"), ("position", "position")):
        found[name] = torch.cat([getattr(piece, field) for piece in pieces]).numpy()
    return found


def test_full_rows_stay_rows(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    made = _extract(model, PACKED, tmp_path)
    found, expected = _opened(tmp_path, made), _expected(model, PACKED)
    assert (made.tokens, made.left_over, made.sequences) == (480, 0, 30)
    assert found["token_ids"].tolist() == PACKED
    assert found["row_index"].tolist() == [[number] * 16 for number in range(30)]
    assert found["position"].tolist() == [list(range(16))] * 30
    for name in HOOKS:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected[name].reshape(30, 16, -1))


@pytest.mark.parametrize("excluded", [(), (5, 7, 11, 13)])
def test_rows_of_other_lengths_follow_one_another(
    model: LoadedModel, tmp_path: pathlib.Path, excluded: tuple[int, ...]
) -> None:
    made = _extract(model, RAGGED, tmp_path, excluded_token_ids=excluded)
    found, expected = _opened(tmp_path, made), _expected(model, RAGGED, excluded_token_ids=excluded)
    total = sum(token not in excluded for row in RAGGED for token in row[:16])
    assert made.tokens + made.left_over == total
    assert made.left_over == total % 16
    for name, values in expected.items():
        stored = found[name].reshape(-1, *values.shape[1:])
        np.testing.assert_array_equal(stored, values[: made.tokens])


def test_ranges_together_are_the_whole(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    parts = [_extract(model, PACKED, tmp_path, first, 10, f"part-{first}") for first in (0, 10, 20)]
    publish(tmp_path, [file.key for part in parts for file in part.files])
    found = datasets.load_from_disk(str(tmp_path)).with_format("numpy")[:]
    whole = _extract(model, PACKED, tmp_path / "whole")
    expected = _opened(tmp_path / "whole", whole)
    for name in expected.keys() - HOOKS:
        np.testing.assert_array_equal(found[name], expected[name])
    for name in HOOKS:
        # Batches end where ranges do, and of another shape they may add up in another order.
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
        total = parts[0].statistics[name]
        for part in parts[1:]:
            total.merge(part.statistics[name])
        stored = found[name].astype(np.float64).reshape(480, -1)
        np.testing.assert_allclose(total.mean, stored.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(total.kurtosis, whole.statistics[name].kurtosis, rtol=1e-4)


def test_statistics_are_of_what_was_stored(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    made = _extract(model, PACKED, tmp_path)
    stored = _opened(tmp_path, made)[HOOKS[0]].reshape(-1, 32).astype(np.float64)
    summary = made.statistics[HOOKS[0]].summary()
    assert summary["num_vectors"] == 480
    np.testing.assert_allclose(summary["mean_vector"], stored.mean(0), rtol=1e-9)
    np.testing.assert_allclose(summary["norm_mean"], np.linalg.norm(stored, axis=1).mean(), rtol=1e-9)


def test_files_are_what_is_said_of_them(
    model: LoadedModel, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "FILE_BYTES", 100_000)
    made = _extract(model, PACKED, tmp_path, batch_size=4)
    assert [file.key for file in made.files] == [f"part-{number:05d}.arrow" for number in range(len(made.files))]
    assert len(made.files) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.key for file in made.files]
    for file in made.files:
        data = (tmp_path / file.key).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
        assert len(datasets.Dataset.from_file(str(tmp_path / file.key))) == file.num_rows
    found = _opened(tmp_path, made)
    assert found["token_ids"].tolist() == PACKED


def test_large_pieces_are_written_in_parts(
    model: LoadedModel, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "_BATCH_BYTES", 16 * arrow_columns.bytes_per_vector(WIDTHS, "float32") * 3)
    made = _extract(model, PACKED, tmp_path)
    assert _opened(tmp_path, made)["token_ids"].tolist() == PACKED


@pytest.mark.parametrize("limit", [1, 16, 100, 479, 480, 1000])
def test_a_limit_of_tokens(model: LoadedModel, tmp_path: pathlib.Path, limit: int) -> None:
    made = _extract(model, PACKED, tmp_path, max_tokens=limit, batch_size=3)
    assert made.tokens + made.left_over == min(limit, 480)
    assert made.tokens % 16 == 0
    assert made.sequences == min(30, -(-limit // 16))
    assert made.statistics[HOOKS[0]].count == min(limit, 480)


def test_progress_is_reported(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    reported: list[tuple[int, int]] = []
    settings = extraction.RangeSettings(hooks=HOOKS, context_size=16, batch_size=4)
    extraction.extract(
        model, tiny_models.dataset(PACKED), 10, 20, settings, tmp_path, "part", lambda *now: reported.append(now)
    )
    assert reported == [(done, 20) for done in (4, 8, 12, 16, 20)]


def test_float16(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    found = _opened(tmp_path, _extract(model, PACKED, tmp_path, storage_dtype="float16"), "float16")
    for name, values in _expected(model, PACKED).items():
        if name in HOOKS:
            np.testing.assert_allclose(found[name].reshape(values.shape), values, rtol=1e-3, atol=1e-6)


def test_bfloat16_keeps_its_bits_under_a_name_of_its_own(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    found = _opened(tmp_path, _extract(model, PACKED, tmp_path, storage_dtype="bfloat16"), "bfloat16")
    expected = _expected(model, PACKED)
    for name in HOOKS:
        assert name not in found
        bits = found[arrow_columns.column(name, "bfloat16")].astype(np.uint16)
        stored = torch.from_numpy(bits).view(torch.bfloat16)
        assert torch.equal(stored.flatten(0, 1), torch.from_numpy(expected[name]).bfloat16())


def test_a_model_in_bfloat16(tmp_path: pathlib.Path) -> None:
    model = tiny_models.load("llama", tmp_path, dtype="bfloat16")
    hooks = ("blocks.2.hook_resid_post",)
    settings = extraction.RangeSettings(hooks=hooks, context_size=16, storage_dtype="bfloat16")
    made = extraction.extract(
        model, tiny_models.dataset(PACKED), 0, 30, settings, tmp_path / "out", "a", lambda *_: None
    )
    column = datasets.Dataset.from_file(str(tmp_path / "out" / made.files[0].key)).with_format("numpy")[:][
        "blocks.2.hook_resid_post.bfloat16"
    ]
    stream = activation_stream.ActivationStream(
        model, tiny_models.dataset(PACKED), activation_stream.StreamSettings(hooks=hooks)
    )
    expected = torch.cat([piece.values[hooks[0]] for piece in stream.pieces()])
    assert torch.equal(torch.from_numpy(column.astype(np.uint16)).view(torch.bfloat16).flatten(0, 1), expected)


@pytest.fixture
def spoiled(tmp_path: pathlib.Path) -> LoadedModel:
    """Return a model that gives NaN and infinity for token 40, and a large number for token 41."""
    folder = tiny_models.save("gpt2", tmp_path / "spoiled")
    module = models.load(folder)
    with torch.no_grad():
        module.module.transformer.wte.weight[40, :2] = torch.tensor([torch.nan, torch.inf])
        module.module.transformer.wte.weight[41, 0] = 1e6
    return module


ODD = [[3] * 16, [3] * 7 + [40] + [3] * 8, [3] * 16]


def test_nan_ends_it(spoiled: LoadedModel, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        _extract(spoiled, ODD, tmp_path / "out", hooks=("blocks.0.hook_resid_pre",))
    assert caught.value.reason == "NOT_FINITE"
    assert caught.value.metadata == {"hook": "blocks.0.hook_resid_pre", "row": "1", "position": "7"}
    messages.check_names(caught.value.message, "blocks.0.hook_resid_pre", "2 numbers", "row 1", "position 7")
    assert not list((tmp_path / "out").rglob("*"))


def test_nan_is_kept_and_counted(spoiled: LoadedModel, tmp_path: pathlib.Path) -> None:
    made = _extract(spoiled, ODD, tmp_path / "out", nonfinite="keep", hooks=("blocks.0.hook_resid_pre",))
    counted = made.statistics["blocks.0.hook_resid_pre"]
    assert (counted.nan, counted.infinite, counted.left_out, counted.count) == (1, 1, 1, 47)
    found = datasets.Dataset.from_file(str(tmp_path / "out" / made.files[0].key)).with_format("numpy")[:]
    stored = found["blocks.0.hook_resid_pre"]
    assert np.isnan(stored[1, 7, 0])
    assert np.isinf(stored[1, 7, 1])


def test_what_float16_cannot_hold_is_refused(spoiled: LoadedModel, tmp_path: pathlib.Path) -> None:
    rows = [[3] * 5 + [41] + [3] * 10]
    settings = {"hooks": ("blocks.0.hook_resid_pre",), "nonfinite": "keep"}
    with pytest.raises(errors.FailedPrecondition) as caught:
        _extract(spoiled, rows, tmp_path / "out", storage_dtype="float16", **settings)
    assert caught.value.reason == "NOT_FINITE"
    names = "blocks.0.hook_resid_pre", "row 0", "position 5", "float16", 65504
    messages.check_names(caught.value.message, *names)
    assert _extract(spoiled, rows, tmp_path / "out", storage_dtype="bfloat16", **settings).tokens == 16


def test_nothing_stays_of_a_range_that_fails(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    rows = [*PACKED, [tiny_models.ROWS] * 16]
    with pytest.raises(errors.InvalidArgument) as caught:
        _extract(model, rows, tmp_path / "out", batch_size=1)
    assert caught.value.reason == "MODEL_MISFIT"
    messages.check_names(caught.value.message, "id 97", 30, 96)
    assert not list((tmp_path / "out").rglob("*"))


def test_an_error_in_the_callers_report_ends_it(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    def refuse(done: int, _: int) -> None:
        if done >= 10:
            raise errors.Cancelled("The extraction was cancelled.")

    settings = extraction.RangeSettings(hooks=HOOKS, context_size=16, batch_size=2)
    with pytest.raises(errors.Cancelled):
        extraction.extract(model, tiny_models.dataset(PACKED), 0, 30, settings, tmp_path / "out", "part", refuse)
    assert not list((tmp_path / "out").rglob("*"))
    assert not [hook for block in model.module.transformer.h for hook in block._forward_hooks.values()]


def test_rows_without_a_kept_token(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    made = _extract(model, [[5, 5], [5]], tmp_path / "out", excluded_token_ids=(5,))
    assert (made.files, made.tokens, made.left_over, made.sequences) == ((), 0, 0, 2)
    assert made.statistics[HOOKS[0]].count == 0


def test_less_than_a_row(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    made = _extract(model, [[5, 6, 7]], tmp_path / "out")
    assert (made.files, made.tokens, made.left_over) == ((), 0, 3)


def test_modules_by_their_path(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    settings = extraction.RangeSettings(hooks=("transformer.h.1.mlp.act",), context_size=16)
    assert extraction.widths(settings, model.description) == {"transformer.h.1.mlp.act": 0}
    made = extraction.extract(model, tiny_models.dataset(PACKED), 0, 30, settings, tmp_path, "part", lambda *_: None)
    opened = datasets.Dataset.from_file(str(tmp_path / made.files[0].key))
    assert opened.features["transformer.h.1.mlp.act"].shape == (16, 128)


def test_size_is_known_beforehand(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    for storage_dtype in arrow_columns.STORED:
        made = _extract(model, PACKED * 10, tmp_path / storage_dtype, storage_dtype=storage_dtype)
        expected = made.tokens * arrow_columns.bytes_per_vector(WIDTHS, storage_dtype)
        assert made.files[0].size_bytes == pytest.approx(expected, rel=0.02)
